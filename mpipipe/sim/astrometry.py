"""The true mapping between pixels and sky, and the wrong one that headers carry.

A CCD sees the sky through a cubic distortion of the whole field. As the way from pixels to the
focal plane is linear, the distortion is a cubic polynomial of the pixels of each CCD too, so a
TAN-SIP header (Shupe et al. 2005, ASPC 347, 491) describes it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.data.camera import Camera, Detector
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey
from mpipipe.sim.visits import Visit

_ORDERS = tuple((p, q) for p in range(4) for q in range(4) if 2 <= p + q <= 3)
"""Exponents (p, q) of the terms u^p v^q of the distortion."""


def gnomonic(
    ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tangent-plane coordinates (xi to the east, eta to the north), all in degrees."""
    a, d, d0 = np.radians(ra - ra0), np.radians(dec), np.radians(dec0)
    cosine = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / cosine
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / cosine
    return np.degrees(xi), np.degrees(eta)


def inverse_gnomonic(
    xi: np.ndarray, eta: np.ndarray, ra0: float, dec0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination of tangent-plane coordinates, all in degrees."""
    x, y, d0 = np.radians(xi), np.radians(eta), np.radians(dec0)
    ra = ra0 + np.degrees(np.arctan2(x, np.cos(d0) - y * np.sin(d0)))
    norm = np.sqrt(1.0 + x * x + y * y)
    dec = np.degrees(np.arcsin((np.sin(d0) + y * np.cos(d0)) / norm))
    return ra % 360.0, dec


@dataclass(frozen=True)
class FocalPlane:
    """Where a CCD lies in the field.

    Field coordinates (u, v) are angles from the optical axis in arcsec, without distortion.

    Attributes
    ----------
    u0, v0
        Centre of the CCD, arcsec.
    matrix
        (2, 2) from pixels to arcsec.
    centre
        (x, y) of the CCD's centre, zero-based pixels.
    radius
        Radius of the field's corner, arcsec: the scale of distortion, vignetting and PSF.
    """

    u0: float
    v0: float
    matrix: np.ndarray
    centre: tuple[float, float]
    radius: float

    def to_field(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Field coordinates of pixels, arcsec."""
        dx, dy = np.asarray(x) - self.centre[0], np.asarray(y) - self.centre[1]
        m = self.matrix
        return self.u0 + m[0, 0] * dx + m[0, 1] * dy, self.v0 + m[1, 0] * dx + m[1, 1] * dy

    def to_unit(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Field coordinates of pixels in units of the field's radius."""
        u, v = self.to_field(x, y)
        return u / self.radius, v / self.radius


def focal_plane(
    camera: Camera,
    detector: Detector,
    used: tuple[Detector, ...],
    survey: Survey | None = None,
) -> FocalPlane:
    """The place of a CCD: as the camera file says, or as it truly is when `survey` is given.

    `used` are the CCDs that span the field.
    """
    corner = 0.0
    for other in used:
        nx, ny = camera.type_of(other).size
        scale = camera.pixel_scale / camera.type_of(other).pixel_size_um * 1000.0
        centre = np.hypot(other.x_mm, other.y_mm) * scale
        corner = max(corner, centre + 0.5 * camera.pixel_scale * float(np.hypot(nx, ny)))
    kind = camera.type_of(detector)
    scale = camera.pixel_scale / kind.pixel_size_um * 1000.0
    shift, turn = np.zeros(2), 0.0
    if survey is not None:
        rng = generator(survey.seed, "place", detector.name)
        shift = survey.ccd_shift * rng.normal(size=2)
        turn = survey.ccd_rotation * float(rng.normal())
    angle = np.radians(detector.rotation_deg + turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return FocalPlane(
        u0=float(detector.x_mm * scale + shift[0]),
        v0=float(detector.y_mm * scale + shift[1]),
        matrix=rotation * camera.pixel_scale,
        centre=((kind.size[0] - 1) / 2.0, (kind.size[1] - 1) / 2.0),
        radius=corner,
    )


def distort(u: np.ndarray, v: np.ndarray, size: float, radius: float) -> tuple[np.ndarray, ...]:
    """Field coordinates as the optics show them: mostly radial, with some decentring.

    Parameters
    ----------
    size
        The radial term at `radius`, in the unit of `u` and `v`.
    """
    a, b = u / radius, v / radius
    r2 = a * a + b * b
    # A decentred lens adds quadratic terms (Conrady 1919); their sizes are a free choice.
    p, q = 0.12, -0.08
    du = size * (a * r2 + p * (r2 + 2.0 * a * a) + 2.0 * q * a * b)
    dv = size * (b * r2 + q * (r2 + 2.0 * b * b) + 2.0 * p * a * b)
    return u + du, v + dv


@dataclass(frozen=True)
class CcdWcs:
    """A TAN projection with SIP distortion, zero-based pixels.

    Attributes
    ----------
    ra, dec
        Tangent point, degrees.
    x0, y0
        Its pixel.
    cd
        (2, 2) degrees per pixel.
    a, b
        Coefficients of the distortion along x and y, one for each of the terms in `_ORDERS`;
        all zero for a plain TAN.
    """

    ra: float
    dec: float
    x0: float
    y0: float
    cd: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def pixel_to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination of pixels, degrees."""
        xi, eta = self._tangent(np.asarray(x, float), np.asarray(y, float))
        return inverse_gnomonic(xi, eta, self.ra, self.dec)

    def sky_to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of sky positions, to about 1e-11 pixel; NaN beyond 60 degrees."""
        xi, eta = gnomonic(np.asarray(ra, float), np.asarray(dec, float), self.ra, self.dec)
        inverse = np.linalg.inv(self.cd)
        u = u0 = inverse[0, 0] * xi + inverse[0, 1] * eta
        v = v0 = inverse[1, 0] * xi + inverse[1, 1] * eta
        # The distortion changes by about 1e-3 of the step: a fixed point in few rounds.
        for _ in range(12):
            du, dv = self._sip(u, v)
            u, v = u0 - du, v0 - dv
        return self.x0 + u, self.y0 + v

    def _sip(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        terms = [u**p * v**q for p, q in _ORDERS]
        du = sum(c * t for c, t in zip(self.a, terms, strict=True))
        dv = sum(c * t for c, t in zip(self.b, terms, strict=True))
        return np.asarray(du), np.asarray(dv)

    def _tangent(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u, v = x - self.x0, y - self.y0
        du, dv = self._sip(u, v)
        u, v = u + du, v + dv
        return self.cd[0, 0] * u + self.cd[0, 1] * v, self.cd[1, 0] * u + self.cd[1, 1] * v

    def cards(self) -> dict[str, object]:
        """FITS header cards (one-based, as FITS counts)."""
        sip = bool(np.any(self.a) or np.any(self.b))
        cards: dict[str, object] = {
            "WCSAXES": 2,
            "CTYPE1": "RA---TAN-SIP" if sip else "RA---TAN",
            "CTYPE2": "DEC--TAN-SIP" if sip else "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "RADESYS": "ICRS",
            "CRVAL1": self.ra,
            "CRVAL2": self.dec,
            "CRPIX1": self.x0 + 1.0,
            "CRPIX2": self.y0 + 1.0,
            "CD1_1": float(self.cd[0, 0]),
            "CD1_2": float(self.cd[0, 1]),
            "CD2_1": float(self.cd[1, 0]),
            "CD2_2": float(self.cd[1, 1]),
        }
        if sip:
            for letter, values in (("A", self.a), ("B", self.b)):
                cards[f"{letter}_ORDER"] = 3
                for (p, q), value in zip(_ORDERS, values, strict=True):
                    cards[f"{letter}_{p}_{q}"] = float(value)
        return cards


def true_wcs(place: FocalPlane, survey: Survey, visit: Visit) -> CcdWcs:
    """The WCS that the sources of a visit were drawn with."""
    turn = _camera_to_sky(visit.angle)

    def tangent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = place.to_field(x, y)
        return turn @ np.stack(distort(u, v, survey.distortion, place.radius)) / 3600.0

    # The pixel of the tangent point, and the linear part there, by Newton's method.
    pixel = np.array(place.centre)
    for _ in range(12):
        value = tangent(*pixel.reshape(2, 1))[:, 0]
        cd = _jacobian(tangent, pixel)
        pixel = pixel - np.linalg.solve(cd, value)
    cd = _jacobian(tangent, pixel)
    # The rest is a polynomial of degrees 2 and 3, so a grid determines it exactly.
    reach = place.radius / np.sqrt(abs(np.linalg.det(place.matrix)))
    u, v = (grid.ravel() * reach for grid in np.meshgrid(*[np.linspace(-1, 1, 7)] * 2))
    rest = np.linalg.solve(cd, tangent(pixel[0] + u, pixel[1] + v)) - np.stack([u, v])
    design = np.stack([(u / reach) ** p * (v / reach) ** q for p, q in _ORDERS], axis=1)
    scaled = np.linalg.lstsq(design, rest.T, rcond=None)[0]
    scale = np.array([reach ** -(p + q) for p, q in _ORDERS])
    a, b = (scaled * scale[:, None]).T
    return CcdWcs(visit.ra, visit.dec, float(pixel[0]), float(pixel[1]), cd, a, b)


def header_wcs(place: FocalPlane, visit: Visit) -> CcdWcs:
    """The WCS of the raw header: no distortion, wrong pointing, the camera file's geometry."""
    offset = np.linalg.solve(place.matrix, np.array([place.u0, place.v0]))
    zero = np.zeros(len(_ORDERS))
    cd = _camera_to_sky(visit.header_angle) @ place.matrix / 3600.0
    x0, y0 = place.centre[0] - float(offset[0]), place.centre[1] - float(offset[1])
    return CcdWcs(visit.header_ra, visit.header_dec, x0, y0, cd, zero, zero)


def _camera_to_sky(angle: float) -> np.ndarray:
    """From (u, v) of the field to (xi, eta): east is to the left, then a position angle."""
    a = np.radians(angle)
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return np.asarray(turn @ np.diag([-1.0, 1.0]))


def _jacobian(function, pixel: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """(2, 2) derivative of a cubic map; central differences at two steps are exact for it."""
    columns = []
    for axis in range(2):
        estimates = []
        for step in (64.0, 128.0):
            delta = np.zeros(2)
            delta[axis] = step
            ahead = function(*(pixel + delta).reshape(2, 1))[:, 0]
            behind = function(*(pixel - delta).reshape(2, 1))[:, 0]
            estimates.append((ahead - behind) / (2.0 * step))
        columns.append((4.0 * estimates[0] - estimates[1]) / 3.0)
    return np.stack(columns, axis=1)
