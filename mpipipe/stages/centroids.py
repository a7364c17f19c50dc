"""Gaussian-windowed centroids with errors (SExtractor's XWIN; Bertin 2010 manual, section 9.3).

The centroid is where the first moment under a Gaussian window of the seeing vanishes. Its error
follows from the noise of that moment over its slope, so it holds for any profile, not only for
one of the window's size.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mpipipe.stages.seeing import FWHM_OF_SIGMA

CENTROID = np.dtype(
    [("x", "f8"), ("y", "f8"), ("xx", "f8"), ("yy", "f8"), ("xy", "f8"), ("failed", "?"),
     ("edge", "?")]
)  # fmt: skip
"""Position, its covariance matrix (pixel^2), whether it failed, whether the window was cut."""


SETTLED = 1e-4
"""Steps shorter than this, pixels, are the last, if nobody makes better positions of them."""


def windowed_centroids(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    fwhm: float,
    settled: float = SETTLED,
) -> np.ndarray:
    """Centroids from peak pixels.

    Parameters
    ----------
    image, variance, unusable
        (ny, nx): electrons, electrons^2 without sources, bool. An unusable pixel takes the value
        of its mirror image through the centre.
    y, x
        Peak pixels.
    fwhm
        Of the window, pixels.
    settled
        Steps shorter than this, pixels, are the last: a fifth of it is left.

    Returns
    -------
    numpy.ndarray
        One `CENTROID` row each; what fails stays at its peak with a variance of sigma^2 / 2.
    """
    out = np.zeros((len(y), 7))
    sigma = fwhm / FWHM_OF_SIGMA
    _centroids(
        image, variance, unusable, y.astype(float), x.astype(float), sigma, settled, out
    )  # fmt: skip
    rows = np.zeros(len(y), CENTROID)
    for column, name in enumerate(CENTROID.names or ()):
        rows[name] = out[:, column]
    return rows


@njit(cache=True)
def _span(centre: float, half: float) -> tuple[int, int]:
    """The first whole number within `half` of the centre, and the one after the last."""
    return int(np.ceil(centre - half)), int(np.floor(centre + half)) + 1


@njit(cache=True)
def _is_whole(unusable: np.ndarray, cx: float, cy: float, reach: float) -> bool:
    """Whether all pixels of the square about the window are there and usable."""
    ny, nx = unusable.shape
    (x0, x1), (y0, y1) = _span(cx, reach), _span(cy, reach)
    if x0 < 0 or y0 < 0 or x1 > nx or y1 > ny:
        return False
    bad = False
    for j in range(y0, y1):
        line = unusable[j, x0:x1]
        for k in range(len(line)):
            bad |= line[np.uint64(k)]  # unsigned: no test for negative indices, so on vectors
    return not bad


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _line_sums(
    light: np.ndarray, w: np.ndarray, dx: np.ndarray
) -> tuple[np.float32, np.float32, np.float32]:
    """Sums of w d, w d dx, w d dx^2 along a line."""
    total = first = second = np.float32(0)
    for k in range(len(light)):
        i = np.uint64(k)
        wd = w[i] * light[i]
        wdx = wd * dx[i]
        total += wd
        first += wdx
        second += wdx * dx[i]
    return total, first, second


@njit(cache=True)
def _whole_sums(
    image: np.ndarray, cx: float, cy: float, sigma: float, lines: np.ndarray, sums: np.ndarray
) -> None:
    """Moments and slopes of `_window_sums`, of a window whose pixels are all usable.

    `lines` is scratch: weights and distances along a line.
    """
    reach, scale = 4 * sigma, 1 / (sigma * sigma)
    x0, x1 = _span(cx, reach)
    for i in range(x0, x1):
        lines[0, i - x0], lines[1, i - x0] = np.exp(-0.5 * scale * (i - cx) ** 2), i - cx
    total = first_x = first_y = second_x = second_y = 0.0
    for j in range(*_span(cy, reach)):
        dy = j - cy
        low, high = _span(cx, np.sqrt(max(reach * reach - dy * dy, 0.0)))
        along, first, second = _line_sums(
            image[j, low:high], lines[0, low - x0 : high - x0], lines[1, low - x0 : high - x0]
        )
        across = np.exp(-0.5 * scale * dy * dy)
        total += across * along
        first_x += across * first
        second_x += across * second
        first_y += across * along * dy
        second_y += across * along * dy * dy
    sums[0], sums[1] = first_x, first_y
    sums[2], sums[3] = total - scale * second_x, total - scale * second_y
    sums[7] = total


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _line_noise(
    light: np.ndarray, variance: np.ndarray, w: np.ndarray, dx: np.ndarray
) -> tuple[np.float32, np.float32, np.float32]:
    """Sums of w^2 v, w^2 v dx, w^2 v dx^2 along a line."""
    zero = np.float32(0)
    total = first = second = zero
    for k in range(len(light)):
        i = np.uint64(k)
        v = w[i] * w[i] * (variance[i] + max(light[i], zero))
        vdx = v * dx[i]
        total += v
        first += vdx
        second += vdx * dx[i]
    return total, first, second


@njit(cache=True)
def _whole_noise(
    image: np.ndarray,
    variance: np.ndarray,
    cx: float,
    cy: float,
    sigma: float,
    lines: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Noise of the moments that `_whole_sums` has just made."""
    reach, scale = 4 * sigma, 1 / (sigma * sigma)
    x0, _ = _span(cx, reach)
    noise_x = noise_y = noise_xy = 0.0
    for j in range(*_span(cy, reach)):
        dy = j - cy
        low, high = _span(cx, np.sqrt(max(reach * reach - dy * dy, 0.0)))
        along, first, second = _line_noise(
            image[j, low:high], variance[j, low:high], lines[0, low - x0 : high - x0],
            lines[1, low - x0 : high - x0],
        )  # fmt: skip
        across = np.exp(-scale * dy * dy)
        noise_x += across * second
        noise_xy += across * first * dy
        noise_y += across * along * dy * dy
    sums[4], sums[5], sums[6] = noise_x, noise_y, noise_xy


@njit(cache=True)
def _window_sums(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    cx: float,
    cy: float,
    sigma: float,
    sums: np.ndarray,
) -> bool:
    """Moments of the window at (cx, cy) into `sums`; True if it was cut by an edge.

    sums: first moments x, y; slopes -d/dcx, -d/dcy of them; noise xx, yy, xy; sum of w d.
    """
    ny, nx = image.shape
    reach, scale = 4 * sigma, 1 / (sigma * sigma)
    cut = False
    x0, x1 = int(np.ceil(cx - reach)), int(np.floor(cx + reach))
    # The window is a product of a column's part and a row's.
    along = np.exp(-0.5 * scale * (np.arange(x0, x1 + 1) - cx) ** 2)
    total = first_x = first_y = second_x = second_y = 0.0
    noise_x = noise_y = noise_xy = 0.0
    for j in range(int(np.ceil(cy - reach)), int(np.floor(cy + reach)) + 1):
        dy = j - cy
        across = np.exp(-0.5 * scale * dy * dy)
        rest = 16 - scale * dy * dy
        for i in range(x0, x1 + 1):
            dx = i - cx
            if scale * dx * dx > rest:
                continue
            if i < 0 or i >= nx or j < 0 or j >= ny:
                cut = True
                continue
            jj, ii = j, i
            if unusable[j, i]:
                jj, ii = int(round(2 * cy - j)), int(round(2 * cx - i))
                if ii < 0 or ii >= nx or jj < 0 or jj >= ny or unusable[jj, ii]:
                    continue
            d, w = image[jj, ii], across * along[i - x0]
            v = w * w * (variance[jj, ii] + max(d, np.float32(0)))
            light = w * d
            total += light
            first_x += light * dx
            first_y += light * dy
            second_x += light * dx * dx
            second_y += light * dy * dy
            noise_x += v * dx * dx
            noise_y += v * dy * dy
            noise_xy += v * dx * dy
    sums[0], sums[1] = first_x, first_y
    sums[2], sums[3] = total - scale * second_x, total - scale * second_y
    sums[4], sums[5], sums[6], sums[7] = noise_x, noise_y, noise_xy, total
    return cut


@njit(cache=True)
def _centroids(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    sigma: float,
    settled: float,
    out: np.ndarray,
) -> None:
    sums, lines = np.empty(8), np.empty((2, int(8 * sigma) + 3), np.float32)
    furthest = 2.0 * sigma + 1
    for k in range(len(ys)):
        cx, cy = xs[k], ys[k]
        failed, cut = True, False
        safe_x, safe_y, whole = cx, cy, _is_whole(unusable, cx, cy, 4 * sigma + 1)
        for _ in range(40):
            if max(abs(cx - safe_x), abs(cy - safe_y)) > 1:
                safe_x, safe_y, whole = cx, cy, _is_whole(unusable, cx, cy, 4 * sigma + 1)
            if whole:
                _whole_sums(image, cx, cy, sigma, lines, sums)
            else:
                cut = _window_sums(image, variance, unusable, cx, cy, sigma, sums)
            if not (sums[7] > 0 and sums[2] > 0 and sums[3] > 0):
                break
            # Twice the moment over the sum is Newton's step for a star; never a long one.
            step_x = min(max(2 * sums[0] / sums[7], -1.0), 1.0)
            step_y = min(max(2 * sums[1] / sums[7], -1.0), 1.0)
            if whole and np.hypot(step_x, step_y) < settled:
                _whole_noise(image, variance, cx, cy, sigma, lines, sums)
            cx += step_x
            cy += step_y
            if np.hypot(cx - xs[k], cy - ys[k]) > furthest:
                break
            if np.hypot(step_x, step_y) < settled:
                failed = False
                break
        row = out[k]
        row[5], row[6] = failed, cut
        if failed:
            row[0], row[1] = xs[k], ys[k]
            row[2], row[3], row[4] = 0.5 * sigma * sigma, 0.5 * sigma * sigma, 0.0
        else:
            row[0], row[1] = cx, cy
            row[2] = sums[4] / (sums[2] * sums[2])
            row[3] = sums[5] / (sums[3] * sums[3])
            row[4] = sums[6] / (sums[2] * sums[3])
