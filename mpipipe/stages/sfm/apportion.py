"""The light of a footprint, shared out to the sources in it: fluxes of children that add up.

A source's template is its PSF model and what is point-symmetric about it in the residual (the lower
of a pixel and its mirror image, where both are positive), as in the deblender of SDSS (Lupton,
"SDSS image processing I: the deblender"). Each pixel is divided as the templates are there. The
most significant source of a footprint also gets the pixels that no other has a template for, so
that the children's fluxes sum to their parent's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from mpipipe.stages.psf_models import PsfModels

_CHUNK = 256
_FLOOR = 1e-4
"""Of the flux, in the middle: keeps every pixel of a template above 0; falls as r^-3."""


def apportion(
    image: np.ndarray,
    residual: np.ndarray,
    variance: np.ndarray,
    labels: np.ndarray,
    label: np.ndarray,
    is_brightest: np.ndarray,
    box: np.ndarray,
    models: PsfModels,
    position: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Share out all footprints.

    Parameters
    ----------
    image, residual
        (ny, nx) float32, electrons; unusable pixels are 0.
    variance
        (ny, nx), electron^2 of sky and read noise.
    labels
        (ny, nx) int32, number of the footprint at each pixel, 0 outside.
    label
        (n,) which of these is each source's.
    is_brightest
        (n,) bool, one source a footprint.
    box
        (n, 4) limits of the source's footprint: first and last column, first and last row.
    models
        Images of the PSF at the sources.
    position
        x, y (pixels) and PSF flux (electrons; not finite or negative: 0) of each source.

    Returns
    -------
    flux, sky_error
        (n,) float64, electrons; NaN for a source without any pixel.
    """
    x, y, flux = position
    flux = np.where(np.isfinite(flux) & (flux > 0), flux, 0.0)
    total = np.zeros(image.shape, np.float32)
    sums = np.zeros((len(x), 3))
    box, numbers = np.asarray(box, np.int64), np.arange(len(x))
    for collect in (False, True):
        for some in _chunks(len(x)):
            drawn = models.at(numbers[some], x[some], y[some])
            _share(
                image, residual, variance, labels, drawn, x[some], y[some], flux[some],
                label[some], is_brightest[some], box[some], models.psf.fwhm, collect,
                total, sums[some],
            )  # fmt: skip
    with np.errstate(invalid="ignore"):
        known = sums[:, 2] > 0
        return np.where(known, sums[:, 0], np.nan), np.where(known, np.sqrt(sums[:, 1]), np.nan)


def _chunks(n: int) -> Iterator[slice]:
    for first in range(0, n, _CHUNK):
        yield slice(first, first + _CHUNK)


@njit(cache=True, error_model="numpy")
def _share(
    image: np.ndarray,
    residual: np.ndarray,
    variance: np.ndarray,
    labels: np.ndarray,
    models: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    flux: np.ndarray,
    label: np.ndarray,
    is_brightest: np.ndarray,
    box: np.ndarray,
    fwhm: float,
    collect: bool,
    total: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add the templates to `total`; or, to `collect`, each source's part of the image to `sums`:
    flux, variance, pixels."""
    ny, nx = image.shape
    half = models.shape[1] // 2
    for k in range(len(xs)):
        mx, my = int(np.round(xs[k])), int(np.round(ys[k]))
        x0, x1, y0, y1 = box[k, 0], box[k, 1], box[k, 2], box[k, 3]
        if not is_brightest[k]:
            x0, x1 = max(x0, mx - half), min(x1, mx + half)
            y0, y1 = max(y0, my - half), min(y1, my + half)
        # Pixel (x, y) mirrored is (turn_x - x, turn_y - y), to the nearest pixel.
        turn_x, turn_y = int(np.round(2 * xs[k])), int(np.round(2 * ys[k]))
        floor, scale = _FLOOR * (flux[k] + 1.0), 1 / (fwhm * fwhm)
        for y in range(max(y0, 0), min(y1 + 1, ny)):
            j, jj = y - my + half, turn_y - y
            near = 0 <= j <= 2 * half
            for x in range(max(x0, 0), min(x1 + 1, nx)):
                if labels[y, x] != label[k]:
                    continue
                away = 1.0 + scale * ((x - xs[k]) ** 2 + (y - ys[k]) ** 2)
                template = floor / (away * np.sqrt(away))
                i = x - mx + half
                if near and 0 <= i <= 2 * half:
                    template += flux[k] * max(models[k, j, i], 0.0)
                    ii = turn_x - x
                    if 0 <= jj < ny and 0 <= ii < nx:
                        template += max(0.0, min(residual[y, x], residual[jj, ii]))
                if not collect:
                    total[y, x] += template
                    continue
                share = template / total[y, x]
                sums[k, 0] += share * image[y, x]
                if variance[y, x] > 0:  # not where it is unknown
                    sums[k, 1] += share * share * variance[y, x]
                sums[k, 2] += 1
