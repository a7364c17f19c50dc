"""Photometry of other programs on a calexp: SExtractor with PSFEx's model, sep, photutils.

All get the pixels that ours measures, with the sky that was taken off, and the variance of sky and
read-out that ours uses. Their catalogues are structured arrays: `x`, `y` (zero-based pixels), and
columns `psfFlux` (PSF), `ap1Flux` (circle of a radius of 1 FWHM), `kronFlux` (AUTO), electrons,
each with its error (`psfFluxErr`), as far as the program has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _peers
import numpy as np
from _peers import HOME, NO_WEIGHT, SEXTRACTOR, TOOLS, PeerError, Prepared, call, draw_psfex
from _photometry_worker import OVERSAMPLING, THRESHOLD, gaussian

from mpipipe.data.exposure import Exposure
from mpipipe.data.src import APERTURES
from mpipipe.stages.measurement_planes import measurement_planes

SCAN = (3.5, 4.0, 4.5, 5.0, 6.0)
"""Thresholds of the matched filter, sigma of a point source, for completeness by purity."""
USUAL_SCAN = (0.8, 1.0, 1.2, 1.5)
"""The same with SExtractor's usual filter: sigma of a pixel before it."""
USUAL = 1.5
TRIES = 3
"""Calls whose best time counts where ours and SExtractor's are set against each other."""
_GRID = 5


@dataclass(frozen=True)
class Catalogue:
    """What a program found on one CCD-visit.

    Attributes
    ----------
    rows
        See above.
    detection, measurement
        CPU seconds.
    """

    rows: np.ndarray
    detection: float
    measurement: float


@dataclass(frozen=True)
class Pixels:
    """A CCD-visit as photometry reads it: above the sky, and its variance, `NO_WEIGHT` at most."""

    one: Prepared
    image: Path
    variance: Path


def prepare(one: Prepared, calexp: Exposure) -> Pixels:
    """Write the planes of a calexp that ours measures on."""
    from astropy.io import fits

    planes = measurement_planes(calexp, one.fwhm)
    made = Pixels(
        one, one.folder / f"{one.name}.sky.fits", one.folder / f"{one.name}.sky-variance.fits"
    )
    image = np.where(planes.unusable, np.float32(0), calexp.image)
    variance = np.where(planes.unusable, np.float32(NO_WEIGHT), planes.variance)
    fits.PrimaryHDU(image).writeto(made.image, overwrite=True)
    fits.PrimaryHDU(variance).writeto(made.variance, overwrite=True)
    return made


# -- SExtractor ------------------------------------------------------------------------------------


_NO_FLUX = ("X_IMAGE", "Y_IMAGE")
_FLUXES = (
    "XPSF_IMAGE", "YPSF_IMAGE", "FLUX_PSF", "FLUXERR_PSF", "FLUX_APER(1)", "FLUXERR_APER(1)",
    "FLUX_AUTO", "FLUXERR_AUTO",
)  # fmt: skip
_MODEL = ("FLUX_POINTSOURCE", "FLUXERR_POINTSOURCE")
_ALIKE = (
    "XPSF_IMAGE", "YPSF_IMAGE", "FLUX_PSF", "FLUXERR_PSF", f"FLUX_APER({len(APERTURES)})",
    f"FLUXERR_APER({len(APERTURES)})",
)  # fmt: skip
"""PSF fluxes at positions that are fitted, and fluxes in as many circles as ours."""


def usual(pixels: Pixels) -> list[Catalogue]:
    """Detection as SExtractor comes: its filter, 5 pixels; at each threshold of `USUAL_SCAN`."""
    kernel, columns = Path(SEXTRACTOR) / "default.conv", _columns(pixels, _NO_FLUX)
    runs = (_sextractor(pixels, kernel, sigma, 5, columns) for sigma in USUAL_SCAN)
    return [Catalogue(rows, seconds, 0.0) for rows, seconds in runs]


def scanned(pixels: Pixels) -> list[Catalogue]:
    """Detection by a Gaussian of the seeing, at each threshold of `SCAN`."""
    columns = _columns(pixels, _NO_FLUX)
    return [Catalogue(*_matched(pixels, sigma, columns), 0.0) for sigma in SCAN]


def sextractor(pixels: Pixels, psf: Path, detection: float, is_model: bool = False) -> Catalogue:
    """SExtractor's photometry of what the matched filter finds above 5 sigma.

    Parameters
    ----------
    psf
        PSFEx's model.
    detection
        CPU seconds of the same detection alone.
    is_model
        Its newer fit of a point source (FLUX_POINTSOURCE) alone, not PSF, aperture and AUTO fluxes.
    """
    columns = _columns(pixels, _NO_FLUX + (_MODEL if is_model else _FLUXES))
    rows, seconds = _matched(pixels, THRESHOLD, columns, {"PSF_NAME": psf})
    return Catalogue(rows, detection, seconds - detection)


def milliseconds_alike(pixels: Pixels, psf: Path) -> float:
    """CPU milliseconds a source that SExtractor takes for what ours is timed with.

    Positions and PSF fluxes with PSFEx's model, and fluxes in circles of the same radii: the best
    of three calls, less the best of three of the same detection that measures nothing.
    """
    diameters = ",".join(f"{2 * radius * pixels.one.fwhm:.3f}" for radius in APERTURES)
    alone, both, n = [], [], 0
    for _ in range(TRIES):
        alone.append(_matched(pixels, THRESHOLD, _columns(pixels, _NO_FLUX))[1])
        rows, seconds = _matched(
            pixels, THRESHOLD, _columns(pixels, _NO_FLUX + _ALIKE),
            {"PSF_NAME": psf, "PHOT_APERTURES": diameters},
        )  # fmt: skip
        both.append(seconds)
        n = len(rows)
    return 1e3 * (min(both) - min(alone)) / max(n, 1)


def _columns(pixels: Pixels, names: Sequence[str]) -> Path:
    path = pixels.one.folder / "photometry.param"
    path.write_text("\n".join(names) + "\n")
    return path


def _matched(
    pixels: Pixels, sigma: float, columns: Path, more: dict[str, object] | None = None
) -> tuple[np.ndarray, float]:
    """One threshold; what is above it in a single pixel of the filtered image counts."""
    kernel = gaussian(pixels.one.fwhm)
    path = pixels.one.folder / f"{pixels.one.name}.conv"
    lines = [" ".join(f"{value:.6e}" for value in row) for row in kernel]
    path.write_text("\n".join(["CONV NORM", *lines]) + "\n")
    # Its thresholds are in units of the noise before the filter.
    threshold = sigma * float(np.sqrt((kernel**2).sum()))
    return _sextractor(pixels, path, threshold, 1, columns, more)


def _sextractor(
    pixels: Pixels,
    kernel: Path,
    threshold: float,
    area: int,
    columns: Path,
    more: dict[str, object] | None = None,
) -> tuple[np.ndarray, float]:
    """The rows of one call, and its CPU seconds."""
    from astropy.io import fits

    one = pixels.one
    catalogue = one.folder / f"{one.name}.photometry.cat"
    options: dict[str, object] = {
        "CATALOG_NAME": catalogue,
        "CATALOG_TYPE": "FITS_1.0",
        "PARAMETERS_NAME": columns,
        "FILTER": "Y",
        "FILTER_NAME": kernel,
        "DETECT_THRESH": threshold,
        "ANALYSIS_THRESH": threshold,
        "DETECT_MINAREA": area,
        "PHOT_APERTURES": 2.0 * one.fwhm,
        "MEMORY_OBJSTACK": 20000,
        "MEMORY_PIXSTACK": 3000000,
    } | (more or {})
    seconds = _peers.sextractor(one, pixels.image, pixels.variance, options)
    return _renamed(np.array(fits.getdata(catalogue, 1))), seconds


def _renamed(rows: np.ndarray) -> np.ndarray:
    """SExtractor's columns by our names, from zero-based pixels."""
    is_model = "FLUX_POINTSOURCE" in rows.dtype.names
    names = {
        "psfFlux": "FLUX_POINTSOURCE" if is_model else "FLUX_PSF",
        "psfFluxErr": "FLUXERR_POINTSOURCE" if is_model else "FLUXERR_PSF",
        "ap1Flux": "FLUX_APER",
        "ap1FluxErr": "FLUXERR_APER",
        "kronFlux": "FLUX_AUTO",
        "kronFluxErr": "FLUXERR_AUTO",
    }
    there = {ours: theirs for ours, theirs in names.items() if theirs in rows.dtype.names}
    made = np.zeros(len(rows), [(name, "f8") for name in ("x", "y", *there)])
    made["x"], made["y"] = rows["X_IMAGE"] - 1.0, rows["Y_IMAGE"] - 1.0
    for ours, theirs in there.items():
        made[ours] = rows[theirs].reshape(len(rows), -1)[:, 0]  # of circles the first
    return made


# -- libraries -------------------------------------------------------------------------------------


def libraries(
    program: str, ccds: Sequence[tuple[Pixels, Path, tuple[int, int]]]
) -> list[Catalogue | PeerError]:
    """What `sep` or `photutils` makes of these CCD-visits: pixels, PSFEx's model, (ny, nx)."""
    jobs: list[dict[str, Any]] = []
    for pixels, psf, shape in ccds:
        one = pixels.one
        places = _grid_of(shape)
        stamps = draw_psfex(psf, places, OVERSAMPLING)
        drawn = one.folder / f"{one.name}.psf.npy"
        np.save(drawn, stamps * OVERSAMPLING**2 / stamps.sum(axis=(1, 2), keepdims=True))
        jobs.append(
            {
                "program": program,
                "image": str(pixels.image),
                "variance": str(pixels.variance),
                "fwhm": one.fwhm,
                "no_weight": NO_WEIGHT / 10,
                "psf": str(drawn),
                "psf_at": places.tolist(),
                "out": str(one.folder / f"{one.name}.{program}.npy"),
            }
        )
    path = ccds[0][0].one.folder / f"{program}.json"
    path.write_text(json.dumps(jobs))
    out, _ = call([HOME / "bin" / "python", TOOLS / "_photometry_worker.py", path])
    found: list[Catalogue | PeerError] = []
    for job, said in zip(jobs, json.loads(out.strip().splitlines()[-1]), strict=True):
        if said["error"]:
            found.append(PeerError(f"{program}: {said['error']}"))
        else:
            rows = np.load(job["out"])
            found.append(Catalogue(rows, said["detection"], said["measurement"]))
    return found


def _grid_of(shape: tuple[int, int]) -> np.ndarray:
    """Places (x, y) from corner to corner."""
    ny, nx = shape
    y, x = np.meshgrid(np.linspace(0, ny - 1, _GRID), np.linspace(0, nx - 1, _GRID), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)
