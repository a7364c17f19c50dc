"""Fluxes of point sources at fixed positions that overlap so much that fits in turn do not settle.

Fits in turn (`mpipipe.stages.psf_photometry.blended_photometry`) leave of an error its share r^2 a
sweep, r the overlap of two profiles: next to nothing from 1 FWHM on, but most of it at a third.
Positions that are fixed make the problem linear, so that groups of close sources are solved at
once; the inverse of their normal matrix tells how much less is known of each than if it were alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from mpipipe.data.psf import Psf
from mpipipe.stages.psf_photometry import Pixels

_MOST = 500
"""Sources of a group that is solved; more of them in one place have no fluxes of their own."""
_BATCH = 1000


def solve_close(
    pixels: Pixels,
    residual: np.ndarray,
    psf: Psf,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    radius: float,
    close: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrections of fluxes, and factors of their errors, of sources that are close to each other.

    Parameters
    ----------
    residual
        (ny, nx) float32: the image without the models of all sources.
    x, y, flux
        (n,) where they are, and what was found by fits in turn; NaN fluxes are left alone.
    radius
        Pixels within it are fitted.
    close
        Distance below which two sources are solved together, pixels.

    Returns
    -------
    correction, factor
        (n,) what is added to the flux (0 for sources that are alone; NaN where nothing can be
        told), and by what its error grows (at least 1).
    """
    correction, factor = np.zeros(len(x)), np.ones(len(x))
    for batch in _batches(_groups(x, y, flux, close)):
        members = np.concatenate(batch)
        begins = np.cumsum([0, *(len(group) for group in batch)])
        at_x, at_y = x[members], y[members]
        models = psf.images(at_x, at_y)
        size = max(len(group) for group in batch)
        normal, light = np.zeros((len(members), size)), np.zeros(len(members))
        _sums(
            residual, pixels.variance, pixels.unusable, models, at_x, at_y, flux[members], radius,
            begins, normal, light,
        )  # fmt: skip
        for group, begin, end in zip(batch, begins[:-1], begins[1:], strict=True):
            matrix = normal[begin:end, : end - begin]
            correction[group], factor[group] = _solve(matrix, light[begin:end])
    return correction, factor


def _solve(matrix: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of one group: corrections, and factors of errors."""
    nothing = np.full(len(light), np.nan)
    if len(light) > _MOST:
        return nothing, nothing
    symmetric = 0.5 * (matrix + matrix.T)
    try:
        inverse = np.linalg.inv(symmetric)
        found = np.linalg.solve(matrix, light)
    except np.linalg.LinAlgError:
        return nothing, nothing
    growth = np.diag(inverse) * np.diag(symmetric)
    if not (growth > 0).all():  # no normal matrix any more, but rounding errors
        return nothing, nothing
    return found, np.sqrt(np.maximum(growth, 1.0))


def _groups(x: np.ndarray, y: np.ndarray, flux: np.ndarray, close: float) -> list[np.ndarray]:
    """Indices of sources that are linked by distances below `close`, two or more a group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    known = np.flatnonzero(np.isfinite(flux))
    if len(known) < 2:
        return []
    pairs = KDTree(np.stack([x[known], y[known]], axis=1)).query_pairs(close, output_type="ndarray")
    if not len(pairs):
        return []
    shape = (len(known), len(known))
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape)
    _, label = connected_components(links, directed=False)
    order = np.argsort(label, kind="stable")
    cuts = np.flatnonzero(np.diff(label[order])) + 1
    return [known[group] for group in np.split(order, cuts) if len(group) > 1]


def _batches(groups: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Groups whose models together need little memory."""
    batch: list[np.ndarray] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > _BATCH:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


@njit(cache=True)
def _sums(
    residual: np.ndarray,
    variance: np.ndarray,
    unusable: np.ndarray,
    models: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    fluxes: np.ndarray,
    radius: float,
    begins: np.ndarray,
    normal: np.ndarray,
    light: np.ndarray,
) -> None:
    """Rows of the normal matrices and right sides: each source's pixels, under its own weights."""
    ny, nx = residual.shape
    half = models.shape[1] // 2
    reach = min(int(radius) + 1, half)
    for g in range(len(begins) - 1):
        for k in range(begins[g], begins[g + 1]):
            mx, my = int(np.round(xs[k])), int(np.round(ys[k]))
            for y in range(max(0, my - reach), min(ny, my + reach + 1)):
                for x in range(max(0, mx - reach), min(nx, mx + reach + 1)):
                    if unusable[y, x] or (x - xs[k]) ** 2 + (y - ys[k]) ** 2 > radius * radius:
                        continue
                    p = models[k, y - my + half, x - mx + half]
                    weighted = p / (variance[y, x] + max(fluxes[k], 0.0) * max(p, 0.0))
                    light[k] += weighted * residual[y, x]
                    for m in range(begins[g], begins[g + 1]):
                        j = y - int(np.round(ys[m])) + half
                        i = x - int(np.round(xs[m])) + half
                        if 0 <= j <= 2 * half and 0 <= i <= 2 * half:
                            normal[k, m - begins[g]] += weighted * models[m, j, i]
