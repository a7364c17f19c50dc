"""What a CCD does to light before read-out: response, dark current, defects, full well."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from mpipipe.data.camera import Linearity
from mpipipe.sim.astrometry import focal_plane
from mpipipe.sim.instrument import Chip, make_chip, make_instrument
from mpipipe.sim.optics import vignetting, vignetting_at
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey
from mpipipe.sim.tree_rings import pixel_area

HOT, DEAD, LOW = 1, 2, 4
"""Bits of the truth's defect map."""


@lru_cache(maxsize=2)
def defect_map(survey: Survey, ccd: str) -> np.ndarray:
    """(ny, nx) uint8 bits of `HOT`, `DEAD` and `LOW`."""
    chip = make_chip(survey, ccd)
    ny, nx = chip.shape
    rng = generator(survey.seed, "defects", ccd)
    result = np.zeros((ny, nx), dtype=np.uint8)
    for bit, fraction in ((HOT, survey.hot_pixels), (LOW, survey.low_response)):
        n = rng.poisson(fraction * nx * ny)
        result[rng.integers(0, ny, n), rng.integers(0, nx, n)] |= bit
    for x in rng.choice(nx, size=min(survey.dead_columns, nx), replace=False):
        # A blocked column is dead from some row to the far edge of its half.
        start, upper = int(rng.integers(0, ny // 2)), bool(rng.integers(2))
        rows = slice(start, ny // 2) if upper else slice(ny // 2, ny - start)
        result[rows, x] |= DEAD
    return result


@lru_cache(maxsize=1)
def response(survey: Survey, ccd: str, band: str) -> np.ndarray:
    """Relative response of the pixels of a CCD to even light, (ny, nx) float32.

    It has the areas of the pixels in it (`tree_rings.pixel_area`), as a flat does.
    Its mean over all CCDs in use is 1 but for dust and defects, so that fluxes in electrons are
    those after division by a flat that is normalised by the camera.
    """
    instrument = make_instrument(survey)
    chip = make_chip(survey, ccd)
    place = focal_plane(instrument.camera, chip.detector, instrument.detectors)
    result = vignetting(survey, place, chip.shape) / _mean_vignetting(survey)
    rng = generator(survey.seed, "response", ccd, band)
    for start in range(0, chip.shape[0], 256):
        part = result[start : start + 256]
        part *= 1.0 + survey.pixel_response * rng.standard_normal(part.shape, dtype=np.float32)
    _add_dust(survey, ccd, result)
    if survey.tree_rings > 0:
        result *= pixel_area(survey, chip)
    defects = defect_map(survey, ccd)
    result[(defects & DEAD) != 0] = 0.0
    low = (defects & LOW) != 0
    rng = generator(survey.seed, "low", ccd)
    result[low] *= rng.uniform(0.1, 0.6, int(low.sum())).astype(np.float32)
    result.flags.writeable = False
    return np.asarray(result)


@lru_cache(maxsize=4)
def _mean_vignetting(survey: Survey) -> float:
    """Mean of the vignetting over all CCDs in use, by a midpoint rule."""
    instrument = make_instrument(survey)
    total = 0.0
    for detector in instrument.detectors:
        place = focal_plane(instrument.camera, detector, instrument.detectors)
        nx, ny = instrument.camera.type_of(detector).size
        x = (np.arange(64) + 0.5) * nx / 64 - 0.5
        y = (np.arange(64) + 0.5) * ny / 64 - 0.5
        total += float(vignetting_at(survey, *place.to_unit(x[None, :], y[:, None])).mean())
    return total / len(instrument.detectors)


def _add_dust(survey: Survey, ccd: str, image: np.ndarray) -> None:
    """Out-of-focus shadows of dust: rings, as the telescope's pupil is one."""
    ny, nx = image.shape
    rng = generator(survey.seed, "dust", ccd)
    for _ in range(rng.poisson(survey.doughnuts * nx * ny / 1e6)):
        x, y = rng.uniform(0, nx), rng.uniform(0, ny)
        outer = rng.uniform(12.0, 40.0)
        depth = survey.doughnut_depth * rng.uniform(0.3, 1.0)
        x0, x1 = max(0, int(x - outer) - 2), min(nx, int(x + outer) + 3)
        y0, y1 = max(0, int(y - outer) - 2), min(ny, int(y + outer) + 3)
        dy, dx = np.ogrid[y0:y1, x0:x1]
        r = np.hypot(dx - x, dy - y)
        # Edges soft over about a pixel.
        ring = np.clip(outer - r + 0.5, 0, 1) * np.clip(r - 0.4 * outer + 0.5, 0, 1)
        image[y0:y1, x0:x1] *= (1.0 - depth * ring).astype(np.float32)


@lru_cache(maxsize=1)
def dark_rate(survey: Survey, ccd: str) -> np.ndarray:
    """Dark current of every pixel, electrons per second, (ny, nx) float32."""
    chip = make_chip(survey, ccd)
    hot = (defect_map(survey, ccd) & HOT) != 0
    rng = generator(survey.seed, "dark", ccd)
    result = np.full(chip.shape, survey.dark_current, dtype=np.float32)
    result[hot] += survey.hot_rate * 10 ** rng.normal(0.0, 0.6, int(hot.sum()))
    result.flags.writeable = False
    return result


@lru_cache(maxsize=1)
def bias_pattern(survey: Survey, ccd: str) -> tuple[np.ndarray, ...]:
    """Bias of every channel above its overscan, ADU, float32, in the orientation of the file."""
    chip = make_chip(survey, ccd)
    patterns = []
    for channel in chip.kind.channels:
        assert channel.datasec is not None
        ny, nx = channel.datasec.shape
        rng = generator(survey.seed, "bias pattern", ccd, channel.name)
        x, y = np.linspace(0, 1, nx), np.linspace(0, 1, ny)
        a = survey.bias_pattern * rng.uniform(0.3, 1.0, 3) * rng.choice([-1.0, 1.0], 3)
        # A glow at the corner of the amplifier, a slope along the register, a ripple along rows.
        glow = a[0] * np.exp(-x[None, :] / 0.1) * np.exp(-y[:, None] / 0.05)
        slope = 0.5 * a[1] * (x - 0.5)
        ripple = 0.2 * a[2] * np.sin(2 * np.pi * (y * rng.uniform(1, 4) + rng.uniform()))
        columns = survey.bias_columns * rng.normal(size=nx)
        patterns.append((glow + (slope + columns)[None, :] + ripple[:, None]).astype(np.float32))
    return tuple(patterns)


def linear_signal(measured: np.ndarray, linearity: Linearity) -> np.ndarray:
    """The linear signal behind a measured one, ADU above overscan (the camera's correction)."""
    if linearity.kind == "none" or not linearity.coefficients:
        return np.asarray(measured, dtype=float)
    if linearity.kind == "table":
        pairs = np.array(linearity.coefficients).reshape(-1, 2)
        return np.interp(measured, pairs[:, 0], pairs[:, 1])
    result = np.array(measured, dtype=float)
    for power, coefficient in enumerate(linearity.coefficients, start=2):
        result += coefficient * np.asarray(measured, float) ** power
    return result


def measured_signal(linear: np.ndarray, linearity: Linearity) -> np.ndarray:
    """The inverse of `linear_signal`, to 1e-4 ADU: what a non-linear channel shows."""
    if linearity.kind == "none" or not linearity.coefficients:
        return linear
    if linearity.kind == "table":
        pairs = np.array(linearity.coefficients).reshape(-1, 2)
        return np.interp(linear, pairs[:, 1], pairs[:, 0]).astype(np.float32)
    result: np.ndarray = _invert_polynomial(
        np.ascontiguousarray(linear, dtype=np.float32), np.array(linearity.coefficients)
    )
    return result


@njit(cache=True)
def _invert_polynomial(linear, coefficients):  # type: ignore[no-untyped-def] # pragma: no cover
    result = np.empty_like(linear)
    flat, out = linear.ravel(), result.ravel()
    for k in range(flat.size):
        target = float(flat[k])
        x = target
        for _ in range(4):
            # Newton's step on x + c0 x^2 + c1 x^3 + ... - target.
            value, slope, power = x, 1.0, x
            for i in range(coefficients.size):
                slope += (i + 2) * coefficients[i] * power
                power *= x
                value += coefficients[i] * power
            x -= (value - target) / slope
        out[k] = x
    return result


def full_well_map(survey: Survey, chip: Chip) -> np.ndarray:
    """Charge that a pixel holds, electrons, (ny, nx) float32.

    It lies a little above what the camera file calls saturated, so every full pixel is seen so.
    """
    result = np.empty(chip.shape, dtype=np.float32)
    for channel, gain in zip(chip.kind.channels, chip.gain, strict=True):
        assert channel.detsec is not None
        level = (channel.saturation or 65535.0) - survey.bias_level
        measured = min(level * survey.full_well, 65535.0 - survey.bias_level)
        result[channel.detsec.slices] = gain * float(
            linear_signal(np.array([measured]), channel.linearity)[0]
        )
    return result


@njit(cache=True)
def spill(charge, well):  # type: ignore[no-untyped-def]
    """Let charge beyond the full well bleed along columns, half up, half down, in place.

    Parameters
    ----------
    charge, well
        (ny, nx) float32 electrons. What reaches an edge of the CCD is lost.

    Returns
    -------
    (ny, nx) uint8: 1 full, 2 reached by a bleed, 0 neither.
    """
    ny, nx = charge.shape
    state = np.zeros((ny, nx), dtype=np.uint8)
    excess = np.empty(ny)
    for x in range(nx):
        any_full = False
        for y in range(ny):
            over = charge[y, x] - well[y, x]
            excess[y] = 0.0
            if over >= 0.0:
                any_full = True
                excess[y] = over
                charge[y, x] = well[y, x]
                state[y, x] = 1
        if not any_full:
            continue
        for direction in range(2):
            carried = 0.0
            for step in range(ny):
                y = step if direction == 0 else ny - 1 - step
                if carried > 0.0:
                    room = well[y, x] - charge[y, x]
                    if room > 0.0:
                        taken = min(room, carried)
                        charge[y, x] += taken
                        carried -= taken
                        state[y, x] |= 2
                carried += 0.5 * excess[y]
    return state


def brighter_fatter(charge: np.ndarray, strength: float) -> np.ndarray:
    """Charge moved from fuller to emptier neighbours, in proportion to difference and mean.

    The simplest form that keeps the charge (after Antilogus et al. 2014, JINST 9, C03048): the
    border between two pixels shifts by `strength` times the difference of their charges.
    """
    result = charge.copy()
    for axis in (0, 1):
        first = charge[:-1, :] if axis == 0 else charge[:, :-1]
        second = charge[1:, :] if axis == 0 else charge[:, 1:]
        flow = (strength * 0.5) * (first - second) * (first + second)
        if axis == 0:
            result[:-1, :] -= flow
            result[1:, :] += flow
        else:
            result[:, :-1] -= flow
            result[:, 1:] += flow
    return result
