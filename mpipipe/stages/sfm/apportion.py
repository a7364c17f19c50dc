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
    scale = 1 / (fwhm * fwhm)
    template, mirrored = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for k in range(len(xs)):
        mx, my = int(np.round(xs[k])), int(np.round(ys[k]))
        x0, x1 = max(box[k, 0], 0), min(box[k, 1], nx - 1) + 1
        y0, y1 = max(box[k, 2], 0), min(box[k, 3], ny - 1) + 1
        inner, outer = max(x0, mx - half), min(x1, mx + half + 1)
        if not is_brightest[k]:
            x0, x1 = inner, outer
            y0, y1 = max(y0, my - half), min(y1, my + half + 1)
        # Pixel (x, y) mirrored is (turn_x - x, turn_y - y), to the nearest pixel.
        turn_x, turn_y = int(np.round(2 * xs[k])), int(np.round(2 * ys[k]))
        floor = _FLOOR * (flux[k] + 1.0)
        for y in range(y0, y1):
            if x0 >= x1:
                break
            across = 1.0 + scale * (y - ys[k]) ** 2
            _far(x0 - xs[k], across, scale, floor, template[x0:x1])
            j, jj = y - my + half, turn_y - y
            if 0 <= j <= 2 * half and inner < outer:
                line = models[k, j, inner - mx + half : outer - mx + half]
                other = mirrored[inner:outer]
                other[:] = 0.0
                if 0 <= jj < ny:
                    _turn(residual[jj], turn_x - inner, other)
                _near(line, residual[y, inner:outer], other, flux[k], template[inner:outer])
            if collect:
                light, noise, n = _part(
                    image[y, x0:x1], variance[y, x0:x1], labels[y, x0:x1], label[k],
                    template[x0:x1], total[y, x0:x1],
                )  # fmt: skip
                sums[k, 0] += light
                sums[k, 1] += noise
                sums[k, 2] += n
            else:
                _add(labels[y, x0:x1], label[k], template[x0:x1], total[y, x0:x1])


@njit(cache=True, error_model="numpy")
def _far(dx: float, across: float, scale: float, floor: float, out: np.ndarray) -> None:
    """What keeps a line of the template above 0; `dx` is that of its first pixel."""
    begin, line, by = np.float32(dx), np.float32(across), np.float32(scale)
    low = np.float32(floor)
    for k in range(len(out)):
        i = np.uint64(k)  # here and below unsigned, without a test for negative indices
        x = begin + np.float32(np.int32(k))
        away = line + by * x * x
        out[i] = low / (away * np.sqrt(away))


@njit(cache=True)
def _turn(line: np.ndarray, last: int, out: np.ndarray) -> None:
    """``out[i] = line[last - i]`` where there is such a pixel."""
    for i in range(max(0, last - len(line) + 1), min(len(out), last + 1)):
        out[np.uint64(i)] = line[np.uint64(last - i)]


@njit(cache=True, fastmath={"contract"})
def _near(
    model: np.ndarray, residual: np.ndarray, mirrored: np.ndarray, flux: float, out: np.ndarray
) -> None:
    """Add the model, and the lower of a pixel of the residual and its mirror image."""
    zero, by = np.float32(0), np.float32(flux)
    for k in range(len(out)):
        i = np.uint64(k)
        own = residual[i] if residual[i] < mirrored[i] else mirrored[i]
        out[i] += by * max(model[i], zero) + max(own, zero)


@njit(cache=True)
def _add(labels: np.ndarray, label: int, template: np.ndarray, total: np.ndarray) -> None:
    own, zero = np.int32(label), np.float32(0)
    for k in range(len(total)):
        i = np.uint64(k)
        total[i] += template[i] if labels[i] == own else zero


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _part(
    image: np.ndarray,
    variance: np.ndarray,
    labels: np.ndarray,
    label: int,
    template: np.ndarray,
    total: np.ndarray,
) -> tuple[float, float, int]:
    """A source's part of a line: flux, variance, pixels."""
    own, zero, n = np.int32(label), np.float32(0), 0
    light = noise = zero
    for k in range(len(total)):
        i = np.uint64(k)
        inside = labels[i] == own
        share = template[i] / total[i] if inside else zero
        light += share * image[i] if inside else zero
        # Not where it is unknown.
        noise += share * share * max(variance[i], zero) if inside else zero
        n += inside
    return float(light), float(noise), n
