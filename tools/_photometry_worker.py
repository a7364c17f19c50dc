"""Photometry with sep and photutils; runs under the Python that has them, knows nothing of mpipipe.

usage: python _photometry_worker.py JOBS.json

Each job names the `program`, the image (FITS: pixels above the sky), its variance (FITS, of the
sky), the FWHM (pixels), what a pixel's variance is at least if it can not be used, the PSF on a
grid (npy, oversampled twice) with its places, and the file to write the table to (npy: x, y,
zero-based, then fluxes and their errors). Prints a JSON list of CPU seconds of detection and
measurement, and errors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

THRESHOLD = 5.0
OVERSAMPLING = 2
_FWHM_OF_SIGMA = 2.354820045

Columns = dict[str, np.ndarray]


def with_sep(job: dict[str, Any], image: np.ndarray, variance: np.ndarray) -> tuple[Columns, float]:
    """Matched-filter extraction, circles, Kron ellipses as its documentation makes them."""
    import sep

    mask, fwhm = variance >= job["no_weight"], job["fwhm"]
    start = process_time()
    # With clean=True most faint sources go.
    found = sep.extract(
        image, THRESHOLD, var=variance, mask=mask, filter_kernel=gaussian(fwhm),
        filter_type="matched", minarea=1, clean=False,
    )  # fmt: skip
    detection = process_time() - start
    x, y, a, b = (found[name] for name in ("x", "y", "a", "b"))
    theta = np.clip(found["theta"], -np.pi / 2, np.pi / 2)
    how = {"var": variance, "mask": mask, "gain": 1.0}
    ap1, ap1_error, _ = sep.sum_circle(image, x, y, fwhm, **how)
    radius, _ = sep.kron_radius(image, x, y, a, b, theta, 6.0, mask=mask)
    kron, kron_error, _ = sep.sum_ellipse(image, x, y, a, b, theta, 2.5 * radius, subpix=1, **how)
    small = radius * np.sqrt(a * b) < 1.75
    circle, circle_error, _ = sep.sum_circle(image, x[small], y[small], 3.5 / 2, subpix=1, **how)
    kron[small], kron_error[small] = circle, circle_error
    fluxes = {"ap1Flux": ap1, "ap1FluxErr": ap1_error, "kronFlux": kron, "kronFluxErr": kron_error}
    return {"x": x, "y": y, **fluxes}, detection


def with_photutils(
    job: dict[str, Any], image: np.ndarray, variance: np.ndarray
) -> tuple[Columns, float]:
    """DAOStarFinder, circles, PSF fits of one source at a time with the PSF of the grid."""
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.aperture import CircularAperture, aperture_photometry
    from photutils.detection import DAOStarFinder
    from photutils.psf import GriddedPSFModel, PSFPhotometry
    from photutils.utils import calc_total_error

    mask, fwhm = variance >= job["no_weight"], job["fwhm"]
    sky = np.sqrt(np.where(mask, np.median(variance), variance))
    start = process_time()
    found = DAOStarFinder(THRESHOLD * float(np.median(sky)), fwhm)(image, mask=mask)
    detection = process_time() - start
    place = {("x" if "x" in name else "y"): name for name in found.colnames if "centroid" in name}
    x, y = (np.asarray(found[place[axis]], float) for axis in "xy")
    error = calc_total_error(image, sky, 1.0)
    circles = CircularAperture(np.stack([x, y], axis=1), fwhm)
    sums = aperture_photometry(image, circles, error=error, mask=mask)
    psf = NDData(np.load(job["psf"]))
    psf.meta = {"grid_xypos": [tuple(at) for at in job["psf_at"]], "oversampling": OVERSAMPLING}
    fit = PSFPhotometry(GriddedPSFModel(psf), 2 * int(np.ceil(fwhm)) + 1, aperture_radius=fwhm)
    stars = fit(image, mask=mask, error=error, init_params=Table({"x": x, "y": y}))
    return {
        "x": np.asarray(stars["x_fit"]),
        "y": np.asarray(stars["y_fit"]),
        "psfFlux": np.asarray(stars["flux_fit"]),
        "psfFluxErr": np.asarray(stars["flux_err"]),
        "ap1Flux": np.asarray(sums["aperture_sum"]),
        "ap1FluxErr": np.asarray(sums["aperture_sum_err"]),
    }, detection


PROGRAMS: dict[str, Callable[..., tuple[Columns, float]]] = {
    "sep": with_sep,
    "photutils": with_photutils,
}


def gaussian(fwhm: float) -> np.ndarray:
    """A Gaussian on an odd square, of sum 1."""
    half = int(np.ceil(fwhm))
    d = np.arange(-half, half + 1)
    line = np.exp(-0.5 * (d * _FWHM_OF_SIGMA / fwhm) ** 2)
    kernel = line[:, None] * line
    return np.asarray(kernel / kernel.sum())


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One program on one CCD-visit."""
    from astropy.io import fits

    image = np.ascontiguousarray(fits.getdata(job["image"]), np.float32)
    variance = np.ascontiguousarray(fits.getdata(job["variance"]), np.float32)
    start = process_time()
    columns, detection = PROGRAMS[job["program"]](job, image, variance)
    seconds = process_time() - start
    table = np.zeros(len(columns["x"]), [(name, "f8") for name in columns])
    for name, values in columns.items():
        table[name] = values
    np.save(job["out"], table)
    return {"detection": detection, "measurement": seconds - detection, "error": ""}


def main() -> int:
    """Do all jobs; one that fails is said, not fatal."""
    results = []
    for job in json.loads(Path(sys.argv[1]).read_text()):
        try:
            results.append(measure(job))
        except Exception as error:  # whatever goes wrong in there is a result of the comparison
            failure = f"{type(error).__name__}: {error}"
            results.append({"detection": None, "measurement": None, "error": failure})
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
