"""Stars of a known PSF that varies over the field, cut out as the fits of PSF models take them."""

from __future__ import annotations

import numpy as np

from mpipipe.data.ccd_polynomial import terms
from mpipipe.stages.ic.psf_stars import PsfStars

SHAPE = (1000, 1200)
FWHM = 3.6
BETA = 3.0
_PARTS = 5


def profile(dx: np.ndarray, dy: np.ndarray, x: float, y: float) -> np.ndarray:
    """Surface brightness at an offset from a star at (x, y): an elliptical Moffat profile of unit
    flux, with ellipticities and a size that vary linearly and quadratically over the field."""
    _, u, v, uu, _, _ = terms(np.array([x]), np.array([y]), SHAPE, 2)[0]
    e1, e2, size = 0.02 * u, 0.015 * v - 0.01, 1.0 + 0.03 * uu
    alpha = size * FWHM / (2.0 * np.sqrt(2.0 ** (1.0 / BETA) - 1.0))
    p, q = (1 - e1) * dx - e2 * dy, (1 + e1) * dy - e2 * dx
    area = 1.0 - e1**2 - e2**2
    density = (1.0 + (p * p + q * q) / (alpha**2 * area)) ** -BETA
    return (BETA - 1.0) / (np.pi * alpha**2) * density


def true_image(x: float, y: float, half: int) -> np.ndarray:
    """The profile integrated over pixels (Gauss-Legendre), around (round(x), round(y))."""
    nodes, weights = np.polynomial.legendre.leggauss(_PARTS)
    fine = (np.arange(-half, half + 1)[:, None] + 0.5 * nodes).ravel()
    share = np.tile(0.5 * weights, 2 * half + 1)
    dx, dy = fine[None, :] - (x - round(x)), fine[:, None] - (y - round(y))
    light = profile(dx, dy, x, y) * share[None, :] * share[:, None]
    side = 2 * half + 1
    return light.reshape(side, _PARTS, side, _PARTS).sum(axis=(1, 3))


def toy_stars(n: int = 60, seed: int = 0, noise: float = 1.0, sky: float = 300.0) -> PsfStars:
    """n stars of 30,000 to 1,000,000 electrons anywhere, with `noise` times their noise."""
    rng = np.random.default_rng(seed)
    radius = 3.0 * FWHM
    half = int(np.ceil(radius + 0.5))
    x = rng.uniform(half, SHAPE[1] - half - 1, n)
    y = rng.uniform(half, SHAPE[0] - half - 1, n)
    flux = 10.0 ** rng.uniform(4.5, 6.0, n)
    light = np.array([f * true_image(*xy, half) for f, *xy in zip(flux, x, y, strict=True)])
    stamps = light + noise * np.sqrt(light + sky) * rng.standard_normal(light.shape)
    middle_x, middle_y = np.round(x).astype(np.int64), np.round(y).astype(np.int64)
    return PsfStars(
        stamps=stamps,
        variance=np.full_like(stamps, sky),
        bad=np.zeros(stamps.shape, dtype=bool),
        x=x + 0.05 * rng.standard_normal(n),
        y=y + 0.05 * rng.standard_normal(n),
        flux=flux * (1.0 + 0.03 * rng.standard_normal(n)),
        middle_x=middle_x,
        middle_y=middle_y,
        shape=SHAPE,
        radius=radius,
        fwhm=FWHM,
    )
