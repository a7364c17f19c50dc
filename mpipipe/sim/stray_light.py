"""Light of bright stars that does not come to their images: diffraction spikes and ghosts.

Both are on top of a star's own light: its flux in the truth is that of its image alone.

Spikes stand across the vanes that hold the secondary mirror. Along a spike the light falls with
the square of the distance, as that behind a straight edge does; across, it is as wide as the seeing
makes it. The vanes stand still with the telescope while the camera turns with the sky, so spikes
have an angle of their own in every visit.

Ghosts are images of the pupil, rings of light that went to and fro between two surfaces. They lie
on the line from the star through the optical axis (of the field), so a ghost in one CCD can come
from a star in another.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gamma, pi, sqrt

import numpy as np
from numba import njit

from mpipipe.sim.astrometry import CcdWcs, FocalPlane
from mpipipe.sim.clouds import transmission
from mpipipe.sim.optics import Psf
from mpipipe.sim.sky import STAR, magnitudes_at, objects_around, positions_at
from mpipipe.sim.survey import Survey
from mpipipe.sim.visits import Visit

# Of each ghost: its place over that of the star (both from the axis), its radius over the largest
# ghost's, and the hole in it (the secondary mirror's shadow) over its radius.
_GHOSTS = ((-0.95, 1.0, 0.45), (1.12, 0.6, 0.45))

_SPIKE_REACH = 1200.0
"""Spikes are drawn up to this far from their star, pixels."""

_SPIKE_WIDTH = 4.0
"""and across to this many FWHM."""

_SPIKE_FLOOR = 10.0
"""They end where they fall to this many times the floor of the renderer."""

_EDGE = 3.0
"""Width of the soft edge of ghosts, pixels."""


@dataclass(frozen=True)
class BrightStars:
    """Stars with stray light: zero-based pixels, maybe far outside, and electrons per second."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray


def draw_stray_light(
    survey: Survey, visit: Visit, psf: Psf, wcs: CcdWcs, shape: tuple[int, int]
) -> np.ndarray:
    """Expected electrons of spikes and ghosts in one snap on a CCD, (ny, nx) float32."""
    image = np.zeros(shape, dtype=np.float32)
    place = psf.place
    reach = 0.5 * float(np.hypot(*shape))
    if survey.spikes > 0:
        stars = bright_stars(survey, visit, place, wcs, place.centre, reach + _SPIKE_REACH)
        add_spikes(image, psf, visit, wcs, stars)
    if survey.ghosts > 0:
        scale = np.sqrt(abs(np.linalg.det(place.matrix)))
        for factor, size, hole in _GHOSTS:
            radius = survey.ghost_radius * size / scale
            # The place of stars whose ghosts come to the middle of this CCD.
            source = _from_field(place, np.array([place.u0, place.v0]) / factor)
            wanted = (reach + radius) / abs(factor)
            stars = bright_stars(survey, visit, place, wcs, source, wanted)
            u, v = place.to_field(stars.x, stars.y)
            at = np.array(
                [_from_field(place, factor * np.array(p)) for p in zip(u, v, strict=True)]
            )
            light = survey.ghosts * survey.snap_time * stars.flux
            for (x, y), electrons in zip(at.reshape(-1, 2), light, strict=True):
                _add_ring(image, x, y, radius, hole * radius, electrons)
    return image


def bright_stars(
    survey: Survey,
    visit: Visit,
    place: FocalPlane,
    wcs: CcdWcs,
    centre: tuple[float, float],
    reach: float,
) -> BrightStars:
    """Stars of at most `stray_light_mag` within `reach` pixels of a pixel, inside the field."""
    ra, dec = wcs.pixel_to_sky(np.array([centre[0]]), np.array([centre[1]]))
    scale = np.sqrt(abs(np.linalg.det(place.matrix)))
    rows = objects_around(survey, float(ra[0]), float(dec[0]), reach * scale / 60.0)
    rows = rows[(rows["kind"] == STAR) & (rows["mag_r"] < survey.stray_light_mag)]
    x, y = wcs.sky_to_pixel(*positions_at(survey, rows, visit.mjd))
    u, v = place.to_unit(x, y)
    seen = (np.hypot(x - centre[0], y - centre[1]) < reach) & (np.hypot(u, v) < 1.2)
    rows, x, y, u, v = rows[seen], x[seen], y[seen], u[seen], v[seen]
    mag = magnitudes_at(survey, rows, visit.band, visit.mjd)
    flux = 10.0 ** (-0.4 * (mag - survey.of_band("zero_points", visit.band)))
    return BrightStars(x, y, flux * transmission(survey, visit, u, v))


def add_spikes(image: np.ndarray, psf: Psf, visit: Visit, wcs: CcdWcs, stars: BrightStars) -> None:
    """Add the diffraction spikes of stars to an image, in place."""
    survey = psf.survey
    scale = np.sqrt(abs(np.linalg.det(psf.place.matrix)))
    length = survey.spike_length / scale
    n_lines = survey.spike_arms // 2
    # The profile across, as that of a line of Moffat profiles: see `render.add_streak`.
    beta = survey.core_beta
    across = (beta - 1.0) / (sqrt(pi) * psf.alpha) * gamma(beta - 0.5) / gamma(beta)
    electrons = survey.spikes * survey.snap_time * stars.flux / n_lines
    peak = electrons * across / (pi * length)
    floor = _SPIKE_FLOOR * survey.render_floor
    reach = length * np.sqrt(np.maximum(peak / floor - 1.0, 0.0))
    for line in range(n_lines):
        turn = np.radians(visit.zenith_angle) + pi * (line + 0.5) / n_lines
        along = np.linalg.inv(wcs.cd) @ np.array([np.sin(turn), np.cos(turn)])
        along /= np.hypot(*along)
        _add_spikes(
            image,
            stars.x,
            stars.y,
            peak,
            np.minimum(reach, _SPIKE_REACH),
            along[0],
            along[1],
            length,
            _SPIKE_WIDTH * psf.fwhm,
            psf.alpha,
            beta,
        )


@njit(cache=True)
def _add_spikes(  # type: ignore[no-untyped-def]
    image, x, y, peak, reach, cosine, sine, length, width, alpha, beta
):  # pragma: no cover - compiled
    """Both arms of one line of spikes through each star."""
    ny, nx = image.shape
    for k in range(x.size):
        high = reach[k] * abs(sine) + width
        for iy in range(max(0, int(y[k] - high)), min(ny, int(y[k] + high) + 2)):
            dy = iy - y[k]
            # The stretch of this row that is within the line's width, and within its reach.
            if abs(sine) * reach[k] > width:
                middle, half = dy * cosine / sine, width / abs(sine)
                low = max(middle - half, -reach[k] - width)
                top = min(middle + half, reach[k] + width)
            else:
                low, top = -reach[k] - width, reach[k] + width
            for ix in range(max(0, int(x[k] + low)), min(nx, int(x[k] + top) + 2)):
                dx = ix - x[k]
                r = dx * cosine + dy * sine
                d = -dx * sine + dy * cosine
                if abs(r) > reach[k] or abs(d) > width:
                    continue
                fall = 1.0 / (1.0 + (r / length) ** 2)
                image[iy, ix] += peak[k] * fall * (1.0 + (d / alpha) ** 2) ** (0.5 - beta)


@njit(cache=True)
def _add_ring(  # type: ignore[no-untyped-def]
    image, x, y, outer, inner, electrons
):  # pragma: no cover - compiled
    """A ring of even light with soft edges."""
    ny, nx = image.shape
    level = electrons / (np.pi * (outer * outer - inner * inner))
    for iy in range(max(0, int(y - outer - _EDGE)), min(ny, int(y + outer + _EDGE) + 2)):
        for ix in range(max(0, int(x - outer - _EDGE)), min(nx, int(x + outer + _EDGE) + 2)):
            r = np.sqrt((ix - x) ** 2 + (iy - y) ** 2)
            rising = min(max((r - inner) / _EDGE + 0.5, 0.0), 1.0)
            falling = min(max((outer - r) / _EDGE + 0.5, 0.0), 1.0)
            image[iy, ix] += level * rising * falling


def _from_field(place: FocalPlane, field: np.ndarray) -> tuple[float, float]:
    """The pixel of field coordinates in arcsec."""
    x, y = np.linalg.solve(place.matrix, field - np.array([place.u0, place.v0]))
    return float(x) + place.centre[0], float(y) + place.centre[1]
