"""Other programs for the same work: SExtractor with PSFEx, Piff, SCAMP. Installed, run, read.

For photometry see `_peers_photometry`.

CPU seconds are those of their processes, with all that they start and read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import numpy as np
from _ranks import environment
from scipy import ndimage

from mpipipe.data.exposure import Exposure
from mpipipe.data.mask import is_set

TOOLS = Path(__file__).resolve().parent
HOME = TOOLS.parent / "build" / "peers"
"""Where the peers in Python live, in a virtual environment of their own."""

PACKAGES = {"source-extractor": "source-extractor", "psfex": "psfex", "scamp": "scamp"}
"""Command to its Debian package."""

LIBRARIES = ("piff>=1.5", "photutils>=2.0", "sep>=1.4")
"""What goes into the virtual environment."""

STAMP = 41
UNUSABLE = ("BAD", "SAT", "NO_DATA", "STREAK", "CR", "INTRP")
_BLOCK = 50
NO_WEIGHT = 1e20
"""Variance of a pixel that can not be used."""
SEXTRACTOR = "/usr/share/source-extractor"


class PeerError(RuntimeError):
    """A peer could not be installed, or failed."""


def install() -> None:
    """Install what is missing: Debian packages as root, libraries into a virtual environment.

    Raises
    ------
    PeerError
        If something can not be had, with what the installer said.
    """
    missing = [package for name, package in PACKAGES.items() if shutil.which(name) is None]
    if missing:
        apt = ["apt-get", "-q", "-y", "--no-install-recommends", "install", *missing]
        call(apt if os.getuid() == 0 else ["sudo", "-n", *apt])
    done = HOME / ".done"
    if not done.exists() or done.read_text() != str(LIBRARIES):
        call([sys.executable, "-m", "venv", "--clear", HOME])
        call([HOME / "bin" / "python", "-m", "pip", "install", "-q", *LIBRARIES])
        done.write_text(str(LIBRARIES))


def call(command: Sequence[object], folder: Path | None = None) -> tuple[str, float]:
    """What a command printed, and its CPU seconds."""
    before = getrusage(RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment() | {"PYTHONPATH": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise PeerError(f"{command[0]} is not here and could not be installed") from error
    if done.returncode:
        raise PeerError(f"{command[0]} ended with {done.returncode}: {done.stderr[-1500:]}")
    after = getrusage(RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, seconds


def options_of(values: Mapping[str, object]) -> list[str]:
    """Options of one of Bertin's programs."""
    return [word for key, value in values.items() for word in (f"-{key}", str(value))]


# -- what they read --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A CCD-visit in the files that the peers read.

    Attributes
    ----------
    image
        Pixels, with the WCS of the raw header.
    variance
        Of sky and read-out alone; huge where a pixel can not be used.
    with_weight
        Pixels and inverse variance in one file.
    """

    name: str
    folder: Path
    image: Path
    variance: Path
    with_weight: Path
    fwhm: float
    scale: float


def prepare(
    folder: Path,
    name: str,
    calexp: Exposure,
    cards: Mapping[str, object],
    fwhm: float,
    scale: float,
) -> Prepared:
    """Write a calexp for the peers.

    Parameters
    ----------
    cards
        WCS of the header, before any solution, and whatever else belongs there.
    fwhm, scale
        Pixels, and arcsec per pixel.
    """
    from astropy.io import fits

    folder.mkdir(parents=True, exist_ok=True)
    unusable = is_set(calexp.mask, UNUSABLE) | ~np.isfinite(calexp.image)
    image = np.where(unusable, 0.0, calexp.image).astype(np.float32)
    sky = sky_variance(calexp, unusable)
    header = fits.Header()
    for key, value in cards.items():
        header[key] = value
    made = Prepared(
        name,
        folder,
        folder / f"{name}.fits",
        folder / f"{name}.variance.fits",
        folder / f"{name}.both.fits",
        fwhm,
        scale,
    )
    fits.PrimaryHDU(image, header).writeto(made.image, overwrite=True)
    variance = np.where(unusable, NO_WEIGHT, sky).astype(np.float32)
    fits.PrimaryHDU(variance).writeto(made.variance, overwrite=True)
    weight = np.where(unusable, 0.0, 1.0 / sky).astype(np.float32)
    both = [fits.PrimaryHDU(image), fits.ImageHDU(weight)]
    fits.HDUList(both).writeto(made.with_weight, overwrite=True)
    return made


def sky_variance(calexp: Exposure, unusable: np.ndarray) -> np.ndarray:
    """Variance without the light of sources: the lower part of each block's values, smoothed."""
    ny, nx = calexp.shape
    rows, columns = -(-ny // _BLOCK), -(-nx // _BLOCK)
    padded = np.full((rows * _BLOCK, columns * _BLOCK), np.nan, np.float32)
    padded[:ny, :nx] = np.where(unusable, np.nan, calexp.variance)
    blocks = padded.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2)
    blocks = blocks.reshape(rows, columns, -1)
    with np.errstate(all="ignore"):
        levels = np.nanpercentile(blocks, 30, axis=2)
    levels = np.where(np.isfinite(levels), levels, np.nanmedian(levels))
    levels = ndimage.median_filter(levels, 5, mode="nearest")
    y = (np.arange(ny) + 0.5) / _BLOCK - 0.5
    x = (np.arange(nx) + 0.5) / _BLOCK - 0.5
    grid = np.meshgrid(y, x, indexing="ij")
    return np.asarray(ndimage.map_coordinates(levels, grid, order=1, mode="nearest"))


# -- SExtractor and PSFEx --------------------------------------------------------------------------

_COLUMNS = """NUMBER X_IMAGE Y_IMAGE XWIN_IMAGE YWIN_IMAGE ERRAWIN_IMAGE ERRBWIN_IMAGE
ERRTHETAWIN_IMAGE FLUX_APER(1) FLUXERR_APER(1) FLUX_AUTO FLUXERR_AUTO FLUX_RADIUS FWHM_IMAGE
ELONGATION ELLIPTICITY SNR_WIN FLAGS FLAGS_WEIGHT"""


def extract(one: Prepared, stamps: bool) -> tuple[Path, float]:
    """SExtractor's LDAC catalogue, with the stamps that PSFEx needs or without; CPU seconds."""
    size = 2 * int(np.ceil(3.0 * one.fwhm)) + 5
    columns = _COLUMNS.split() + ([f"VIGNET({size},{size})"] if stamps else [])
    (one.folder / "columns.param").write_text("\n".join(columns) + "\n")
    catalogue = one.folder / f"{one.name}{'.stamps' if stamps else ''}.cat"
    options: dict[str, object] = {
        "CATALOG_NAME": catalogue,
        "CATALOG_TYPE": "FITS_LDAC",
        "PARAMETERS_NAME": one.folder / "columns.param",
        "FILTER": "N",
        "DETECT_THRESH": 5.0,
        "ANALYSIS_THRESH": 5.0,
        "DETECT_MINAREA": 5,
        "PHOT_APERTURES": 6.0 * one.fwhm,
    }
    return catalogue, sextractor(one, one.image, one.variance, options)


def sextractor(one: Prepared, image: Path, variance: Path, options: dict[str, object]) -> float:
    """Run SExtractor on pixels whose sky is off, with the variance as it is; CPU seconds."""
    given: dict[str, object] = {
        "WEIGHT_TYPE": "MAP_VAR",
        "WEIGHT_IMAGE": variance,
        "WEIGHT_THRESH": NO_WEIGHT / 10,
        "BACK_TYPE": "MANUAL",
        "BACK_VALUE": 0.0,
        "GAIN": 1.0,
        "SATUR_LEVEL": 1e9,
        "PIXEL_SCALE": one.scale,
        "SEEING_FWHM": one.fwhm * one.scale,
        "STARNNW_NAME": f"{SEXTRACTOR}/default.nnw",
        "CHECKIMAGE_TYPE": "NONE",
        "VERBOSE_TYPE": "QUIET",
    }
    command = ["source-extractor", image, "-c", no_file(one.folder), *options_of(given | options)]
    _, seconds = call(command, one.folder)
    return seconds


def no_file(folder: Path) -> Path:
    """An empty configuration: what a program does is said by its options alone."""
    path = folder / "empty.conf"
    path.touch()
    return path


def keep_rows(catalogue: Path, x: np.ndarray, y: np.ndarray, radius: float = 2.0) -> int:
    """Leave in an LDAC catalogue only the sources next to the (zero-based) places; how many."""
    from astropy.io import fits
    from scipy.spatial import cKDTree

    with fits.open(catalogue, mode="update") as hdus:
        rows = hdus["LDAC_OBJECTS"].data
        places = np.stack([rows["X_IMAGE"], rows["Y_IMAGE"]], axis=1) - 1.0
        distance, _ = cKDTree(np.stack([x, y], axis=1)).query(places)
        hdus["LDAC_OBJECTS"].data = rows[distance < radius]
        return int((distance < radius).sum())


def psfex(one: Prepared, catalogue: Path, places: np.ndarray) -> tuple[np.ndarray, float]:
    """PSFEx's model drawn at (zero-based) places, (n, 41, 41), and its CPU seconds."""
    options: dict[str, object] = {
        "CENTER_KEYS": "XWIN_IMAGE,YWIN_IMAGE",
        # Left to itself it takes steps of 2 pixels and loses the core.
        "PSF_SAMPLING": 1.0,
        "PSF_SIZE": "41,41",
        "PSFVAR_DEGREES": 2,
        "SAMPLE_AUTOSELECT": "N",
        "SAMPLE_FWHMRANGE": "1.0,20.0",
        "SAMPLE_MINSN": 10,
        "SAMPLE_MAXELLIP": 0.5,
        "SAMPLE_FLAGMASK": "0x00fc",
        "BADPIXEL_FILTER": "Y",
        "BADPIXEL_NMAX": 50,
        "CHECKPLOT_TYPE": "NONE",
        "CHECKIMAGE_TYPE": "NONE",
        "WRITE_XML": "N",
        "NTHREADS": 1,
        "VERBOSE_TYPE": "QUIET",
    }
    _, seconds = call(
        ["psfex", catalogue, "-c", no_file(one.folder), *options_of(options)], one.folder
    )
    return draw_psfex(catalogue.with_suffix(".psf"), places), seconds


def draw_psfex(path: Path, places: np.ndarray, oversampling: int = 1) -> np.ndarray:
    """A .psf file's model at (zero-based) places, each star on the middle pixel of its stamp."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        head = hdus["PSF_DATA"].header
        basis = np.asarray(hdus["PSF_DATA"].data["PSF_MASK"][0], float)
    degree, step = int(head["POLDEG1"]), float(head["PSF_SAMP"])
    u = (places[:, 0] + 1.0 - head["POLZERO1"]) / head["POLSCAL1"]
    v = (places[:, 1] + 1.0 - head["POLZERO2"]) / head["POLSCAL2"]
    terms = [u**p * v**q for q in range(degree + 1) for p in range(degree + 1 - q)]
    models = np.tensordot(np.stack(terms, axis=1), basis, axes=1)
    size = oversampling * (STAMP - 1) + 1
    return np.array([resampled(model, step, size, 1.0 / oversampling) for model in models])


def resampled(model: np.ndarray, step: float, size: int, spacing: float = 1.0) -> np.ndarray:
    """A model sampled every `step` pixels, every `spacing` pixels, by Lanczos-3; zero outside."""
    offset = (np.arange(size) - size // 2) * spacing / step
    weights = []
    for n in model.shape:
        d = offset[:, None] - (np.arange(n) - n // 2)[None, :]
        kernel = np.where(np.abs(d) < 3.0, np.sinc(d) * np.sinc(d / 3.0), 0.0)
        weights.append(kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 0.5))
    return np.asarray(weights[0] @ model @ weights[1].T)


# -- Piff ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PiffResult:
    """What Piff made of one CCD-visit; `error` is empty when it went well."""

    stamps: np.ndarray
    cpu: float
    n_stars: int
    error: str


def run_piff(
    jobs: Sequence[tuple[Prepared, np.ndarray, np.ndarray, np.ndarray]],
) -> list[PiffResult]:
    """Piff's models of (CCD-visit, x and y of its stars, places to draw at), zero-based pixels."""
    from astropy.io import fits

    listed: list[dict[str, Any]] = []
    for one, x, y, places in jobs:
        stars = one.folder / f"{one.name}.stars.fits"
        columns = [fits.Column(name, "D", array=values + 1.0) for name, values in _xy(x, y)]
        fits.BinTableHDU.from_columns(columns).writeto(stars, overwrite=True)
        # As wide as the calibration aperture, at the resolution of the pixels.
        size = 2 * int(np.ceil(3.0 * one.fwhm)) + 1
        options = {
            "stamp": size + 4,
            "size": size,
            "scale": one.scale,
            "grid": one.scale,
            "solver": "cpp",
        }
        listed.append(
            {
                "image": str(one.with_weight),
                "stars": str(stars),
                "places": (np.rint(places) + 1.0).tolist(),
                "stamp": STAMP,
                "out": str(one.folder / f"{one.name}.piff.npy"),
                "options": options,
            }
        )
    path = jobs[0][0].folder / "piff.json"
    path.write_text(json.dumps(listed))
    out, _ = call([HOME / "bin" / "python", TOOLS / "_piff_worker.py", path])
    found = []
    for job, said in zip(listed, json.loads(out.strip().splitlines()[-1]), strict=True):
        stamps = np.empty((0, STAMP, STAMP)) if said["error"] else np.load(job["out"])
        found.append(PiffResult(stamps, said["cpu"], said["n_stars"], said["error"]))
    return found


def _xy(x: np.ndarray, y: np.ndarray) -> tuple[tuple[str, np.ndarray], ...]:
    return ("x", x), ("y", y)


# -- SCAMP -----------------------------------------------------------------------------------------


def scamp(catalogues: Sequence[Path], reference: Path) -> tuple[list[Any], float]:
    """SCAMP's joint solution of all catalogues: a WCS each, and its CPU seconds."""
    from astropy.io import fits
    from astropy.wcs import WCS

    folder = catalogues[0].parent
    options: dict[str, object] = {
        "ASTREF_CATALOG": "FILE",
        "ASTREFCAT_NAME": reference,
        "ASTREFMAG_LIMITS": "10.0,30.0",
        "ASTRINSTRU_KEY": "FILTER,CCD",
        "STABILITY_TYPE": "EXPOSURE",
        "PROJECTION_TYPE": "TPV",
        "DISTORT_DEGREES": 3,
        "POSITION_MAXERR": 2.0,
        "SN_THRESHOLDS": "20.0,100.0",
        "SOLVE_PHOTOM": "N",
        "CHECKPLOT_TYPE": "NONE",
        "WRITE_XML": "N",
        "NTHREADS": 1,
        "VERBOSE_TYPE": "QUIET",
    }
    command = ["scamp", *catalogues, "-c", no_file(folder), *options_of(options)]
    _, seconds = call(command, folder)
    solutions = []
    for path in catalogues:
        text = path.with_suffix(".head").read_text(errors="replace")
        cards = [line for line in text.splitlines() if not line.startswith(("HISTORY", "COMMENT"))]
        solutions.append(WCS(fits.Header.fromstring("\n".join(cards), sep="\n")))
    return solutions, seconds


def write_ldac_reference(path: Path, rows: np.ndarray, band: str) -> None:
    """Reference stars as the LDAC catalogue that SCAMP reads."""
    from astropy.io import fits

    degree = 1.0 / 3.6e6
    n = len(rows)
    values = {
        "X_WORLD": ("D", rows["ra"]),
        "Y_WORLD": ("D", rows["dec"]),
        "ERRA_WORLD": ("E", rows["ra_error"] * degree),
        "ERRB_WORLD": ("E", rows["dec_error"] * degree),
        "ERRTHETA_WORLD": ("E", np.zeros(n)),
        "MAG": ("E", rows[f"mag_{band}"]),
        "MAGERR": ("E", rows[f"mag_{band}_error"]),
        "OBSDATE": ("D", 2000.0 + (rows["epoch"] - 51544.5) / 365.25),
    }
    columns = [fits.Column(name, code, array=array) for name, (code, array) in values.items()]
    head = fits.Header()
    head["SIMPLE"], head["BITPIX"], head["NAXIS"] = True, 8, 0
    text = head.tostring(endcard=True, padding=True)
    field = fits.Column("Field Header Card", f"{len(text)}A", array=[text])
    hdus = [
        fits.PrimaryHDU(),
        fits.BinTableHDU.from_columns([field], name="LDAC_IMHEAD"),
        fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS"),
    ]
    fits.HDUList(hdus).writeto(path, overwrite=True)
