"""Fourier transforms of profiles, as tables: Moffat, exponential and de Vaucouleurs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

MOFFAT_MAX = 24.0
"""Argument beyond which the transform of a Moffat profile counts as zero (it is below 1e-7)."""
MOFFAT_STEPS = 16384
BULGE_MAX = 20.0
BULGE_STEPS = 16384

EXPONENTIAL_RADIUS = 1.6783469900166605
"""Half-light radius of an exponential disk in scale lengths."""

_BULGE_B = 7.669249442500804
_BULGE_TAPER = (6.0, 8.0)
"""The bulge is cut softly between these radii, in half-light radii, as is usual for this
profile: its ideal wings hold 6 % of the light beyond 8."""


@lru_cache
def moffat_table(twice_beta: int) -> np.ndarray:
    """Transform of ``(beta - 1)/pi (1 + r^2)^-beta`` at 0 .. MOFFAT_MAX, MOFFAT_STEPS + 1 values.

    It is ``2 / Gamma(n) (k/2)^n K_n(k)`` with n = beta - 1.
    """
    from scipy.special import gamma, kv

    n = twice_beta / 2.0 - 1.0
    k = np.linspace(0.0, MOFFAT_MAX, MOFFAT_STEPS + 1)
    values = np.ones_like(k)
    values[1:] = 2.0 / gamma(n) * (k[1:] / 2.0) ** n * kv(n, k[1:])
    return values


def bulge_profile(r: np.ndarray) -> np.ndarray:
    """de Vaucouleurs surface brightness, not normalised; r in half-light radii."""
    low, high = _BULGE_TAPER
    taper = np.clip((high - r) / (high - low), 0.0, 1.0)
    smooth = taper * taper * (3.0 - 2.0 * taper)
    return np.asarray(np.exp(-_BULGE_B * (r**0.25 - 1.0)) * smooth)


@lru_cache
def bulge_table() -> np.ndarray:
    """Hankel transform of `bulge_profile`, normalised to 1 at 0, at 0 .. BULGE_MAX."""
    from scipy.interpolate import CubicSpline
    from scipy.special import j0

    nodes, weights = np.polynomial.legendre.leggauss(1500)
    top = _BULGE_TAPER[1] ** 0.25
    s = 0.5 * top * (nodes + 1.0)
    r = s**4
    # dr = 4 s^3 ds: the substitution takes the cusp of the profile away.
    light = bulge_profile(r) * r * 4.0 * s**3 * weights
    k = BULGE_MAX * np.linspace(0.0, 1.0, 700) ** 2
    values = j0(k[:, None] * r) @ light / light.sum()
    return np.asarray(CubicSpline(k, values)(np.linspace(0.0, BULGE_MAX, BULGE_STEPS + 1)))


@lru_cache
def bulge_slope() -> float:
    """Exponent of the power law that carries `bulge_table` on beyond its end."""
    table = bulge_table()
    half = BULGE_STEPS // 2
    # Averages over a range: the taper leaves small ripples.
    low, high = table[half - 500 : half].mean(), table[-500:].mean()
    k = np.linspace(0.0, BULGE_MAX, BULGE_STEPS + 1)
    return float(np.log(high / low) / np.log(k[-500:].mean() / k[half - 500 : half].mean()))


def exponential_radius_at(surface: np.ndarray, half_light: np.ndarray) -> np.ndarray:
    """Radius where an exponential of unit flux falls to `surface` (per unit area)."""
    h = half_light / EXPONENTIAL_RADIUS
    return np.asarray(h * np.log(np.maximum(1.0 / (2.0 * np.pi * h * h * surface), 1.0)))


def bulge_radius_at(surface: np.ndarray, half_light: np.ndarray) -> np.ndarray:
    """Radius where a bulge of unit flux falls to `surface`, at most where it is cut."""
    central = 1.0 / (7.2149 * np.pi * half_light**2 * surface)
    root = 1.0 + np.log(np.maximum(central, np.exp(-_BULGE_B))) / _BULGE_B
    return np.asarray(half_light * np.minimum(root**4, _BULGE_TAPER[1]))
