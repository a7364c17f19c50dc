"""Cosmic rays: straight muons, wandering electrons, delta rays, as charge in pixels."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numba import njit

from mpipipe.data.camera import Detector
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey

_MUON_CHARGE = 80.0
"""Electrons per micron that a minimum-ionising particle frees in silicon."""

_STEP = 0.1
"""Charge is laid down at steps of this length, pixels."""


def hits(
    survey: Survey,
    detector: Detector,
    shape: tuple[int, int],
    pixel_um: float,
    seconds: float,
    *key: object,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosmic rays of one exposure of a CCD.

    Parameters
    ----------
    shape
        (ny, nx) of the CCD.
    seconds
        Time during which the CCD collects charge.
    key
        What makes this exposure different from others.

    Returns
    -------
    y, x, charge
        Pixels with any charge: int32, int32, and float32 electrons.
    """
    rng = generator(survey.seed, "cosmic rays", detector.name, *key)
    ny, nx = shape
    area = nx * ny * (pixel_um * 1e-4) ** 2
    image = np.zeros(shape, dtype=np.float32)
    for _ in range(rng.poisson(survey.cosmic_rays * area * seconds)):
        start = rng.uniform(0, (nx, ny))
        if rng.uniform() < survey.muon_fraction:
            track = _muon(rng, start, survey.thickness, pixel_um)
        else:
            track = _worm(rng, start, survey.thickness, pixel_um)
        _deposit(image, *track, survey.diffusion)
    y, x = np.nonzero(image)
    return y.astype(np.int32), x.astype(np.int32), image[y, x]


Track = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""x, y in pixels, charge in electrons, depth as a fraction of the thickness."""


def _muon(rng: np.random.Generator, start: np.ndarray, thickness: float, pixel: float) -> Track:
    """A straight track through the silicon, with now and then a delta ray."""
    # Flux through a flat surface goes as cos^3 of the angle of incidence.
    cosine = max(rng.uniform() ** 0.25, 0.02)
    length = thickness / pixel * sqrt(1.0 - cosine**2) / cosine
    n = max(int(length / _STEP), 20)
    along = (np.arange(n) + 0.5) / n
    turn = rng.uniform(0.0, 2.0 * np.pi)
    x, y = start[0] + length * along * np.cos(turn), start[1] + length * along * np.sin(turn)
    path = thickness / cosine
    # Losses scatter like a Landau distribution: a gamma distribution for each step comes near.
    mean = _MUON_CHARGE * path / n
    shape = max(0.25 * path / n, 0.02)
    charge = rng.gamma(shape, mean / shape, n)
    depth = along if rng.integers(2) else 1.0 - along
    if rng.uniform() < path / 1500.0:
        at = int(rng.integers(n))
        branch = _worm(rng, np.array([x[at], y[at]]), thickness, pixel, rng.uniform(5.0, 30.0))
        parts = zip((x, y, charge, depth), branch, strict=True)
        x, y, charge, depth = (np.concatenate(part) for part in parts)
    return x, y, charge, depth


def _worm(
    rng: np.random.Generator,
    start: np.ndarray,
    thickness: float,
    pixel: float,
    path: float | None = None,
) -> Track:
    """An electron (of Compton scattering or radioactivity): a path bent by scattering.

    `path` is its length in microns; by default between 10 and 600.
    """
    if path is None:
        path = 10.0 ** rng.uniform(1.0, 2.8)
    n = max(int(path / pixel / _STEP), 5)
    # Scattering grows as the electron slows down; so does the charge it frees.
    left = 1.0 - np.arange(n) / n
    bend = rng.normal(size=n) * 0.15 / np.sqrt(left + 0.05)
    turn = rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(bend)
    tilt = np.cumsum(rng.normal(size=n) * 0.15) + rng.uniform(-1.0, 1.0)
    step = path / n / pixel
    x = start[0] + np.cumsum(step * np.cos(turn) * np.cos(tilt))
    y = start[1] + np.cumsum(step * np.sin(turn) * np.cos(tilt))
    z = rng.uniform() + np.cumsum(step * np.sin(tilt)) * pixel / thickness
    charge = _MUON_CHARGE * path / n * (1.0 + 1.5 / (1.0 + 20.0 * left)) * rng.gamma(4.0, 0.25, n)
    # It ends where it leaves the silicon.
    outside = np.flatnonzero((z < 0.0) | (z > 1.0))
    end = int(outside[0]) + 1 if len(outside) else n
    return x[:end], y[:end], charge[:end], np.clip(z[:end], 0.0, 1.0)


@njit(cache=True)
def _deposit(image, x, y, charge, depth, diffusion):  # type: ignore[no-untyped-def]
    # pragma: no cover - compiled
    """Add the charge of a track; it spreads as sqrt(depth) on its way to the gates."""
    ny, nx = image.shape
    wx, wy = np.empty(7), np.empty(7)
    for k in range(x.size):
        sigma = max(diffusion * sqrt(depth[k]), 1e-3) * sqrt(2.0)
        ix, iy = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
        reach = min(3, int(3.0 * sigma + 1.0))
        for i in range(-reach, reach + 1):
            fx, fy = ix + i - x[k], iy + i - y[k]
            wx[i + 3] = 0.5 * (erf((fx + 0.5) / sigma) - erf((fx - 0.5) / sigma))
            wy[i + 3] = 0.5 * (erf((fy + 0.5) / sigma) - erf((fy - 0.5) / sigma))
        for j in range(-reach, reach + 1):
            for i in range(-reach, reach + 1):
                px, py = ix + i, iy + j
                value = charge[k] * wx[i + 3] * wy[j + 3]
                if value > 1e-3 and px >= 0 and px < nx and py >= 0 and py < ny:
                    image[py, px] += value
