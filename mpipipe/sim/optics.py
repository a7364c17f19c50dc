"""The point-spread function and the throughput over the field.

The PSF is a sum of three elliptical Moffat profiles (Moffat 1969, A&A 3, 455): the core, light
that coma displaces, and the wings. Its centroid is at zero by construction, so the position of
a star means the centroid of its light.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.camera import Camera, Detector
from mpipipe.sim.astrometry import FocalPlane
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey
from mpipipe.sim.visits import Visit

WEIGHT, DX, DY, M11, M12, M22 = range(6)
"""Columns of the component table: weight, displacement (pixel), inverse shape (1/pixel)."""

N_COMPONENTS = 3
_COMA_WIDTH = 1.3
"""Width of the displaced light in units of the core: coma blurs as it displaces."""


@dataclass(frozen=True)
class Psf:
    """The PSF of one CCD in one snap.

    Attributes
    ----------
    twice_beta
        (3,) twice the Moffat exponents, whole numbers.
    alpha
        Scale of the core, pixels, before it varies over the field.
    fwhm
        FWHM of the core, pixels, likewise.
    """

    survey: Survey
    place: FocalPlane
    twice_beta: np.ndarray
    alpha: float
    fwhm: float
    ellipticity: np.ndarray
    size_step: float
    coma_offset: np.ndarray

    def components(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The profile at pixel positions.

        Returns
        -------
        (n, 3, 6) float64. Component c of source k adds, at an offset r from its centroid,
        ``weight * (beta - 1) / pi * det(m) * (1 + |m (r - d)|^2)^-beta``.
        """
        a, b = self.place.to_unit(x, y)
        r2 = a * a + b * b
        terms = np.stack([np.ones_like(a), a, b, a * a, a * b, b * b])
        e1, e2 = self.ellipticity @ terms
        # Far outside the field the polynomials lose their meaning.
        limit = np.minimum(1.0, 0.7 / np.maximum(np.hypot(e1, e2), 1e-9))
        e1, e2 = e1 * limit, e2 * limit
        size = 1.0 + self.survey.size_variation * r2 + self.size_step
        shift = self.survey.coma_shift * self.fwhm
        # Coma points outwards in the field; the component table counts along pixel axes.
        outward = np.stack([a + self.coma_offset[0], b + self.coma_offset[1]])
        turn = self.place.matrix / np.sqrt(np.linalg.det(self.place.matrix))
        d = shift * (turn.T @ outward)
        wc, ww = self.survey.coma_fraction, self.survey.wing_fraction
        core = 1.0 - wc - ww
        table = np.empty((len(a), N_COMPONENTS, 6))
        scales = (self.alpha, _COMA_WIDTH * self.alpha, self.survey.wing_scale * self.fwhm)
        for c, (weight, scale) in enumerate(zip((core, wc, ww), scales, strict=True)):
            share = (-wc / core, 1.0, 0.0)[c]
            table[:, c, WEIGHT] = weight
            table[:, c, DX], table[:, c, DY] = share * d
            norm = 1.0 / (scale * size * np.sqrt(1.0 - e1 * e1 - e2 * e2))
            table[:, c, M11] = norm * (1.0 - e1)
            table[:, c, M12] = -norm * e2
            table[:, c, M22] = norm * (1.0 + e1)
        return table


def make_psf(
    survey: Survey, camera: Camera, detector: Detector, place: FocalPlane, visit: Visit, snap: int
) -> Psf:
    """The PSF of one CCD in one snap of a visit."""
    fwhm = visit.seeing[snap] / camera.pixel_scale
    beta = survey.core_beta
    alpha = fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))
    # Telescope aberrations of the visit, the same for all CCDs ...
    rng = generator(survey.seed, "optics", visit.index)
    ellipticity = 0.4 * survey.ellipticity * rng.normal(size=(2, 6))
    ellipticity[0, [3, 5]] += survey.ellipticity * np.array([1.0, -1.0])
    ellipticity[1, 4] += 2.0 * survey.ellipticity
    ellipticity[:, 0] = visit.ellipticity
    coma_offset = 0.15 * rng.normal(size=2)
    # ... and steps from CCD to CCD, the same for all visits: their heights differ.
    rng = generator(survey.seed, "height", detector.name)
    ellipticity[:, 0] += survey.ellipticity_step * rng.normal(size=2)
    return Psf(
        survey=survey,
        place=place,
        twice_beta=np.array(
            [round(2 * beta), round(2 * beta), round(2 * survey.wing_beta)], dtype=np.int64
        ),
        alpha=float(alpha),
        fwhm=float(fwhm),
        ellipticity=ellipticity,
        size_step=float(survey.size_step * rng.normal()),
        coma_offset=coma_offset,
    )


def enclosed_fraction(psf: Psf, radius: float, x: float, y: float) -> float:
    """Fraction of a star's light within `radius` pixels of its centroid (by quadrature)."""
    table = psf.components(np.array([x]), np.array([y]))[0]
    nodes, weights = np.polynomial.legendre.leggauss(200)
    r = 0.5 * radius * (nodes + 1.0)
    phi = (np.arange(128) + 0.5) * (2.0 * np.pi / 128)
    px, py = r[:, None] * np.cos(phi), r[:, None] * np.sin(phi)
    density = np.zeros_like(px)
    for (w, dx, dy, m11, m12, m22), twice in zip(table, psf.twice_beta, strict=True):
        t = 1.0 + (m11 * (px - dx) + m12 * (py - dy)) ** 2
        t += (m12 * (px - dx) + m22 * (py - dy)) ** 2
        beta = twice / 2.0
        density += w * (beta - 1.0) / np.pi * (m11 * m22 - m12 * m12) * t**-beta
    return float((density.mean(axis=1) * 2.0 * np.pi * r) @ weights * 0.5 * radius)


def vignetting(survey: Survey, place: FocalPlane, shape: tuple[int, int]) -> np.ndarray:
    """Relative throughput over a CCD, 1 at the field's centre; (ny, nx) float32."""
    x = np.arange(shape[1], dtype=float)
    result = np.empty(shape, dtype=np.float32)
    for start in range(0, shape[0], 128):
        y = np.arange(start, min(start + 128, shape[0]), dtype=float)
        result[start : start + 128] = vignetting_at(survey, *place.to_unit(x[None, :], y[:, None]))
    return result


def vignetting_at(survey: Survey, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The same at field positions in units of the field's radius."""
    r2 = u * u + v * v
    return np.asarray(1.0 - survey.vignetting * r2 * (0.3 + 0.7 * r2))
