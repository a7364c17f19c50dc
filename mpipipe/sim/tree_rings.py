"""Tree rings: circles of the wafer that push charge a little outwards or inwards.

Impurities of the silicon lie in rings about the axis of the crystal and make fields along the
surface (Plazas, Bernstein & Sheldon 2014, PASP 126, 750). Images are displaced along the radius,
and pixels collect from areas that differ: rings in flats and sky, not in the light of stars.
"""

from __future__ import annotations

import numpy as np

from mpipipe.sim.instrument import Chip
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey

_N_WAVES = 16


def ring_centre(survey: Survey, chip: Chip) -> tuple[float, float]:
    """The axis of the crystal in a CCD's pixels: near one of its corners, outside."""
    rng = generator(survey.seed, "ring centre", chip.detector.name)
    ny, nx = chip.shape
    right, top = rng.integers(2), rng.integers(2)
    out_x, out_y = rng.uniform(0.05, 0.15, 2)
    x = nx * (1.0 + out_x) if right else -nx * out_x
    y = ny * (1.0 + out_y) if top else -ny * out_y
    return float(x), float(y)


def ring_profile(survey: Survey, chip: Chip, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Displacement outwards (pixels) at distances from the centre, and its derivative."""
    rng = generator(survey.seed, "rings", chip.detector.name)
    periods = survey.tree_ring_period * np.exp(rng.uniform(-0.5, 0.5, _N_WAVES))
    phases = rng.uniform(0.0, 2.0 * np.pi, _N_WAVES)
    shift, slope = np.zeros(np.shape(radius)), np.zeros(np.shape(radius))
    size = survey.tree_rings * np.sqrt(2.0 / _N_WAVES)
    for period, phase in zip(periods, phases, strict=True):
        k = 2.0 * np.pi / period
        shift += size * np.cos(k * radius + phase)
        slope -= size * k * np.sin(k * radius + phase)
    return shift, slope


def displaced(
    survey: Survey, chip: Chip, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where light that falls on pixel positions is found."""
    if survey.tree_rings == 0.0:
        return x, y
    x0, y0 = ring_centre(survey, chip)
    radius = np.hypot(x - x0, y - y0)
    stretch = ring_profile(survey, chip, radius)[0] / radius
    return x + stretch * (x - x0), y + stretch * (y - y0)


def pixel_area(survey: Survey, chip: Chip) -> np.ndarray:
    """Area from which each pixel collects, in pixels; (ny, nx) float32."""
    x0, y0 = ring_centre(survey, chip)
    ny, nx = chip.shape
    # The profile is known along the radius: look it up there.
    at = np.arange(0.0, 2.5 * float(np.hypot(nx, ny)), 0.25)
    shift, slope = ring_profile(survey, chip, at)
    area = (1.0 - slope - shift / np.maximum(at, 1.0)).astype(np.float32)
    result = np.empty(chip.shape, dtype=np.float32)
    for start in range(0, ny, 128):
        y = np.arange(start, min(start + 128, ny))[:, None]
        result[start : start + 128] = np.interp(np.hypot(np.arange(nx) - x0, y - y0), at, area)
    return result
