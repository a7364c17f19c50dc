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


def windowed_centroids(
    image: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    fwhm: float,
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

    Returns
    -------
    numpy.ndarray
        One `CENTROID` row each; what fails stays at its peak with a variance of sigma^2 / 2.
    """
    out = np.zeros((len(y), 7))
    sigma = fwhm / FWHM_OF_SIGMA
    _centroids(image, variance, unusable, y.astype(float), x.astype(float), sigma, out)
    rows = np.zeros(len(y), CENTROID)
    for column, name in enumerate(CENTROID.names or ()):
        rows[name] = out[:, column]
    return rows


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
    out: np.ndarray,
) -> None:
    sums = np.empty(8)
    furthest = 2.0 * sigma + 1
    for k in range(len(ys)):
        cx, cy = xs[k], ys[k]
        failed, cut = True, False
        for _ in range(40):
            cut = _window_sums(image, variance, unusable, cx, cy, sigma, sums)
            if not (sums[7] > 0 and sums[2] > 0 and sums[3] > 0):
                break
            # Twice the moment over the sum is Newton's step for a star; never a long one.
            step_x = min(max(2 * sums[0] / sums[7], -1.0), 1.0)
            step_y = min(max(2 * sums[1] / sums[7], -1.0), 1.0)
            cx += step_x
            cy += step_y
            if np.hypot(cx - xs[k], cy - ys[k]) > furthest:
                break
            if np.hypot(step_x, step_y) < 1e-4:
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
