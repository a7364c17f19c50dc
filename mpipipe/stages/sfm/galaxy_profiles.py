"""Profiles of galaxies as their Fourier transforms, in tables.

A profile of unit flux and half-light radius 1 has the transform G(q). An ellipse stretches it:
u = k^T A k takes the place of q^2, where A holds the squares of its half-light axes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

STEP = 1 / 128
"""Spacing of the tables in q."""
_MOST = 30.0

_EXPONENTIAL_RADIUS = 1.6783469900166605
"""Half-light radius of an exponential disc, scale lengths."""
_B4 = 7.669249442500804
_TAPER = (6.0, 8.0)
"""A de Vaucouleurs profile is cut softly between these radii, half-light radii, as usual: its
wings would hold 6 % of the light beyond 8."""

BULGE_SHARE, BULGE_RADIUS = 0.2, 0.45
"""Of the disc with a small bulge: the bulge's share of the light, and its half-light radius in that
of the disc."""


class Profile(NamedTuple):
    """Tables of a transform at q = 0, STEP, ...

    Attributes
    ----------
    value, slope
        G, and its derivative with respect to q^2.
    """

    value: np.ndarray
    slope: np.ndarray


def _q() -> np.ndarray:
    return np.arange(round(_MOST / STEP) + 2) * STEP


@lru_cache
def exponential() -> Profile:
    """An exponential disc."""
    scale = _EXPONENTIAL_RADIUS**-2
    one = 1 + scale * _q() ** 2
    return Profile(one**-1.5, -1.5 * scale * one**-2.5)


@lru_cache
def de_vaucouleurs() -> Profile:
    """A de Vaucouleurs profile, by its Hankel transform."""
    from scipy.interpolate import CubicSpline
    from scipy.special import j0

    nodes, weights = np.polynomial.legendre.leggauss(1500)
    # In s = r^(1/4) the profile has no cusp; dr = 4 s^3 ds.
    s = 0.5 * _TAPER[1] ** 0.25 * (nodes + 1)
    r = s**4
    cut = np.clip((_TAPER[1] - r) / (_TAPER[1] - _TAPER[0]), 0, 1)
    light = np.exp(-_B4 * (s - 1)) * cut * cut * (3 - 2 * cut) * r * s**3 * weights
    light /= light.sum()
    knots = (_MOST + 1) * np.linspace(0, 1, 700) ** 2
    spline = CubicSpline(knots, j0(knots[:, None] * r) @ light)
    q = _q()
    slope = np.empty_like(q)
    slope[1:] = spline(q[1:], 1) / (2 * q[1:])
    slope[0] = -0.25 * (light * r * r).sum()
    return Profile(spline(q), slope)


@lru_cache
def disc_with_bulge() -> Profile:
    """An exponential disc with a de Vaucouleurs bulge of fixed share and size; the disc's radius
    is 1."""
    disc, bulge = exponential(), de_vaucouleurs()
    at = BULGE_RADIUS * _q()
    value = np.interp(at, _q(), bulge.value)
    slope = np.interp(at, _q(), bulge.slope) * BULGE_RADIUS**2
    share = BULGE_SHARE
    return Profile(
        (1 - share) * disc.value + share * value, (1 - share) * disc.slope + share * slope
    )
