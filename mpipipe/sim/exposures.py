"""One exposure of one CCD: bias, dark, flat, or all snaps of a visit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpipipe.sim import cosmic_rays
from mpipipe.sim.astrometry import CcdWcs, FocalPlane, focal_plane, true_wcs
from mpipipe.sim.clouds import transmission
from mpipipe.sim.detector import brighter_fatter, dark_rate, full_well_map, response, spill
from mpipipe.sim.eggs import passing, planted
from mpipipe.sim.instrument import Chip, Instrument, make_chip, make_instrument
from mpipipe.sim.movers import colour, in_field, places_at, survey_movers
from mpipipe.sim.optics import Psf, make_psf
from mpipipe.sim.readout import read_out
from mpipipe.sim.render import add_galaxies, add_stars, add_streak
from mpipipe.sim.seeds import generator
from mpipipe.sim.sky import GALAXY, bulge_fraction, magnitudes_at, objects_around, positions_at
from mpipipe.sim.stray_light import draw_stray_light
from mpipipe.sim.survey import Survey
from mpipipe.sim.tree_rings import displaced, pixel_area
from mpipipe.sim.visits import SNAP_GAP, Visit, plan_visit

FLAT_TIME = 5.0
"""Exposure time of flats, seconds."""

_MARGIN = 150.0
"""Sources this far outside a CCD still shine into it, pixels; brighter ones reach further."""

_TRAIL_STEP = 0.1
"""Points of a trail stand so many FWHM apart: closer than anybody can see."""

_STREAK_SEEN = 0.5
"""A pixel with more light of a satellite than this, electrons, counts as crossed."""

Rays = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Sources:
    """The objects that shine onto a CCD in a visit.

    Attributes
    ----------
    rows
        Their rows of `sky.OBJECTS`.
    ra, dec
        Position at the time of the visit, degrees.
    x, y
        Zero-based pixels.
    mag, flux
        True magnitude, and electrons per second on a pixel of unit response.
    """

    rows: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    mag: np.ndarray
    flux: np.ndarray


@dataclass(frozen=True)
class Bodies:
    """The bodies of the Solar System that shine onto a CCD in a visit.

    Attributes
    ----------
    rows
        Their rows of `movers.MOVERS`.
    ra, dec, x, y
        Place in the middle of the visit: degrees, and zero-based pixels.
    vx, vy
        Motion, pixels per second.
    mag, flux
        As those of `Sources`.
    """

    rows: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    x: np.ndarray
    y: np.ndarray
    vx: np.ndarray
    vy: np.ndarray
    mag: np.ndarray
    flux: np.ndarray


@dataclass(frozen=True)
class VisitTruth:
    """What was simulated in one visit of one CCD.

    Attributes
    ----------
    expected
        (ny, nx) float32 electrons of all snaps, over the response to even light: sources,
        stray light and sky.
    sky
        Electrons per pixel of all snaps at the field's centre.
    rays
        Cosmic rays of each snap: y, x, charge.
    state
        (n_snaps, ny, nx) uint8: 1 full, 2 reached by a bleed, 4 crossed by a satellite.
    """

    visit: Visit
    wcs: CcdWcs
    psfs: tuple[Psf, ...]
    sources: Sources
    bodies: Bodies
    expected: np.ndarray
    sky: float
    rays: tuple[Rays, ...]
    state: np.ndarray


def bias_frame(survey: Survey, ccd: str, number: int) -> list[np.ndarray]:
    """The raw images of one bias frame."""
    charge = np.zeros(make_chip(survey, ccd).shape, dtype=np.float32)
    return read_out(survey, ccd, charge, "bias", number)


def dark_frame(survey: Survey, ccd: str, number: int) -> list[np.ndarray]:
    """The raw images of one dark."""
    mean = dark_rate(survey, ccd) * np.float32(survey.dark_time)
    return _calibration(survey, ccd, mean, survey.dark_time, "dark", number)


def flat_frame(survey: Survey, ccd: str, band: str, level: float, number: int) -> list[np.ndarray]:
    """The raw images of one flat; all CCDs see the same lamp."""
    lamp = 1.0 + survey.lamp_jitter * generator(survey.seed, "lamp", band, number).normal()
    mean = response(survey, ccd, band) * np.float32(level * lamp)
    mean += dark_rate(survey, ccd) * np.float32(FLAT_TIME)
    return _calibration(survey, ccd, mean, FLAT_TIME, "flat", band, number)


def _calibration(
    survey: Survey, ccd: str, mean: np.ndarray, seconds: float, *key: object
) -> list[np.ndarray]:
    chip = make_chip(survey, ccd)
    charge = _photons(mean, generator(survey.seed, "photons", ccd, *key))
    y, x, extra = cosmic_rays.hits(
        survey, chip.detector, chip.shape, chip.kind.pixel_size_um, seconds, *key
    )
    charge[y, x] += extra
    spill(charge, full_well_map(survey, chip))
    return read_out(survey, ccd, charge, *key)


def simulate_visit(
    survey: Survey, ccd: str, index: int
) -> tuple[list[list[np.ndarray]], VisitTruth]:
    """All snaps of one visit on one CCD.

    Returns
    -------
    raw
        The raw images of every snap.
    truth
        What went into them.
    """
    instrument = make_instrument(survey)
    chip = make_chip(survey, ccd)
    visit = plan_visit(survey, index, instrument.n_snaps)
    place = focal_plane(instrument.camera, chip.detector, instrument.detectors, survey)
    wcs = true_wcs(place, survey, visit)
    sources = find_sources(survey, visit, place, wcs, chip)
    bodies = find_bodies(survey, visit, place, wcs, chip, instrument)
    area = pixel_area(survey, chip) if survey.tree_rings > 0 else None
    sky = _sky_image(visit, place, chip.shape, survey.snap_time)
    raw, rays, psfs = [], [], []
    expected = np.zeros(chip.shape, dtype=np.float32)
    state = np.zeros((instrument.n_snaps, *chip.shape), dtype=np.uint8)
    light: np.ndarray | None = None
    for snap in range(instrument.n_snaps):
        psf = make_psf(survey, instrument.camera, chip.detector, place, visit, snap)
        psfs.append(psf)
        if light is None or visit.seeing[snap] != visit.seeing[snap - 1]:
            light = draw_sources(survey, psf, sources, chip.shape, visit.band)
            light = _per_area(light, area) + sky
            if survey.spikes > 0 or survey.ghosts > 0:
                light += draw_stray_light(survey, visit, psf, wcs, chip.shape)
        mean = light
        if len(bodies.x):
            moving = draw_bodies(survey, psf, bodies, chip.shape, snap, instrument.n_snaps)
            mean = light + _per_area(moving, area)
        expected += mean
        if visit.streak_snap == snap:
            mean = mean + _per_area(_streak(survey, psf, place, visit, state[snap]), area)
        hits = cosmic_rays.hits(
            survey,
            chip.detector,
            chip.shape,
            chip.kind.pixel_size_um,
            survey.snap_time,
            "science",
            visit.number,
            snap,
        )
        rays.append(hits)
        charge, full = _expose(survey, ccd, visit, snap, mean, hits)
        state[snap] |= full
        raw.append(read_out(survey, ccd, charge, "science", visit.number, snap))
    total_sky = visit.sky * survey.snap_time * instrument.n_snaps
    return raw, VisitTruth(
        visit, wcs, tuple(psfs), sources, bodies, expected, total_sky, tuple(rays), state
    )


def _per_area(image: np.ndarray, area: np.ndarray | None) -> np.ndarray:
    """Light of sources over the areas of pixels: it is only displaced where those differ."""
    if area is not None:
        image /= area
    return image


def _expose(
    survey: Survey, ccd: str, visit: Visit, snap: int, light: np.ndarray, hits: Rays
) -> tuple[np.ndarray, np.ndarray]:
    """Charge at the end of a snap, and which pixels are full or reached by a bleed."""
    chip = make_chip(survey, ccd)
    mean = light * response(survey, ccd, visit.band)
    mean += dark_rate(survey, ccd) * np.float32(survey.snap_time)
    rng = generator(survey.seed, "photons", ccd, "science", visit.number, snap)
    charge = _photons(mean, rng)
    if survey.brighter_fatter > 0:
        charge = brighter_fatter(charge, survey.brighter_fatter)
    y, x, extra = hits
    charge[y, x] += extra
    full = spill(charge, full_well_map(survey, chip))
    return charge, full


def _photons(mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Poisson numbers of some mean, float32; by blocks of rows, which bounds memory."""
    result = np.empty_like(mean)
    for start in range(0, mean.shape[0], 128):
        block = np.maximum(mean[start : start + 128], 0.0, dtype=np.float64)
        result[start : start + 128] = rng.poisson(block)
    return result


def find_sources(
    survey: Survey, visit: Visit, place: FocalPlane, wcs: CcdWcs, chip: Chip
) -> Sources:
    """The objects whose light can reach a CCD."""
    ny, nx = chip.shape
    ra0, dec0 = wcs.pixel_to_sky(np.array([(nx - 1) / 2.0]), np.array([(ny - 1) / 2.0]))
    scale = np.sqrt(abs(np.linalg.det(place.matrix)))
    radius = (0.5 * np.hypot(nx, ny) + _MARGIN) * scale / 60.0
    rows = objects_around(survey, float(ra0[0]), float(dec0[0]), radius)
    rows = np.concatenate([rows, planted(survey)])
    ra, dec = positions_at(survey, rows, visit.mjd)
    x, y = wcs.sky_to_pixel(ra, dec)
    near = (x > -_MARGIN) & (x < nx + _MARGIN) & (y > -_MARGIN) & (y < ny + _MARGIN)
    rows, ra, dec, x, y = rows[near], ra[near], dec[near], x[near], y[near]
    x, y = _refracted(survey, visit, wcs, rows, x, y)
    x, y = displaced(survey, chip, x, y)
    mag = magnitudes_at(survey, rows, visit.band, visit.mjd)
    flux = 10.0 ** (-0.4 * (mag - survey.of_band("zero_points", visit.band)))
    flux *= transmission(survey, visit, *place.to_unit(x, y))
    return Sources(rows, ra, dec, x, y, mag, flux)


def find_bodies(
    survey: Survey,
    visit: Visit,
    place: FocalPlane,
    wcs: CcdWcs,
    chip: Chip,
    instrument: Instrument,
) -> Bodies:
    """The bodies of the Solar System whose light can reach a CCD."""
    ny, nx = chip.shape
    rows = all_movers(survey)
    seconds = (instrument.n_snaps - 1) * SNAP_GAP + instrument.n_snaps * survey.snap_time
    middle = visit.mjd + 0.5 * seconds / 86400.0
    # Distortion is not for those at the other side of the sky.
    rows = rows[in_field(survey, places_at(rows, middle), 2.0 * field_radius(survey))]
    now, later = places_at(rows, middle), places_at(rows, middle + 60.0 / 86400.0)
    x, y = wcs.sky_to_pixel(now.ra, now.dec)
    x1, y1 = wcs.sky_to_pixel(later.ra, later.dec)
    near = (x > -_MARGIN) & (x < nx + _MARGIN) & (y > -_MARGIN) & (y < ny + _MARGIN)
    vx, vy = (x1 - x)[near] / 60.0, (y1 - y)[near] / 60.0
    x, y = displaced(survey, chip, x[near], y[near])
    mag = now.mag[near] + colour(visit.band)
    flux = 10.0 ** (-0.4 * (mag - survey.of_band("zero_points", visit.band)))
    flux = flux * transmission(survey, visit, *place.to_unit(x, y))
    return Bodies(rows[near], now.ra[near], now.dec[near], x, y, vx, vy, mag, flux)


def all_movers(survey: Survey) -> np.ndarray:
    """All bodies of the Solar System of a survey, planted ones included."""
    return np.concatenate([survey_movers(survey, field_radius(survey)), passing(survey)])


def field_radius(survey: Survey) -> float:
    """Radius about the survey's centre in which all pointings see, and a little more, degrees."""
    return field_reach(survey) / 3600.0 + 0.02


def field_reach(survey: Survey) -> float:
    """How far from the survey's centre its pointings see, arcsec."""
    instrument = make_instrument(survey)
    place = focal_plane(instrument.camera, instrument.detectors[0], instrument.detectors)
    return place.radius + 1.5 * survey.dither


def draw_bodies(
    survey: Survey, psf: Psf, bodies: Bodies, shape: tuple[int, int], snap: int, n_snaps: int
) -> np.ndarray:
    """Expected electrons of all bodies in one snap, (ny, nx) float32: stars along their trails."""
    image = np.zeros(shape, dtype=np.float32)
    length = np.hypot(bodies.vx, bodies.vy) * survey.snap_time
    steps = np.ceil(length / (_TRAIL_STEP * psf.fwhm)).astype(int) + 1
    of = np.repeat(np.arange(len(steps)), steps)
    within = np.arange(len(of)) - np.repeat(np.cumsum(steps) - steps, steps)
    # Seconds from the middle of the visit, each point in the middle of its stretch of the trail.
    begin = (snap - 0.5 * n_snaps) * survey.snap_time + (snap - 0.5 * (n_snaps - 1)) * SNAP_GAP
    seconds = begin + survey.snap_time * (within + 0.5) / steps[of]
    add_stars(
        image,
        psf,
        bodies.x[of] + bodies.vx[of] * seconds,
        bodies.y[of] + bodies.vy[of] * seconds,
        bodies.flux[of] * survey.snap_time / steps[of],
    )
    return image


def _refracted(
    survey: Survey, visit: Visit, wcs: CcdWcs, rows: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions moved by colour: blue sources towards the zenith."""
    size = survey.of_band("refraction", visit.band)
    if size == 0.0:
        return x, y
    colour = 1.0 - (rows["mag_g"] - rows["mag_i"]).astype(float)
    amount = size / 3600.0 * np.sqrt(visit.airmass**2 - 1.0) * colour
    angle = np.radians(visit.zenith_angle)
    inverse = np.linalg.inv(wcs.cd)
    step = inverse @ np.array([np.sin(angle), np.cos(angle)])
    return x + amount * step[0], y + amount * step[1]


def draw_sources(
    survey: Survey, psf: Psf, sources: Sources, shape: tuple[int, int], band: str
) -> np.ndarray:
    """Expected electrons of all sources in one snap, (ny, nx) float32."""
    image = np.zeros(shape, dtype=np.float32)
    rows, flux = sources.rows, sources.flux * survey.snap_time
    star = rows["kind"] != GALAXY
    add_stars(image, psf, sources.x[star], sources.y[star], flux[star])
    galaxy = ~star
    rows = rows[galaxy]
    scale = np.sqrt(abs(np.linalg.det(psf.place.matrix)))
    # Position angles run from north through east; the CCD may be turned.
    pixel_from_sky = _rotation_to_pixels(psf.place, sources)
    angle = np.radians(rows["angle"].astype(float))
    major = np.stack([np.sin(angle), np.cos(angle)], axis=1) @ pixel_from_sky.T
    minor = np.stack([-major[:, 1], major[:, 0]], axis=1)
    axes = np.stack([major, minor * rows["axis_ratio"][:, None]], axis=2)
    add_galaxies(
        image,
        psf,
        sources.x[galaxy],
        sources.y[galaxy],
        flux[galaxy],
        bulge=bulge_fraction(survey, rows, band),
        disk_radius=rows["disk_radius"] / scale,
        bulge_radius=rows["bulge_radius"] / scale,
        shape=axes,
    )
    return image


def _rotation_to_pixels(place: FocalPlane, sources: Sources) -> np.ndarray:
    """(2, 2) rotation (and reflection) from (east, north) to (x, y), fitted to the sources."""
    if len(sources.x) < 3:
        return np.linalg.inv(place.matrix / np.sqrt(np.linalg.det(place.matrix)))
    east = (sources.ra - sources.ra[0] + 180.0) % 360.0 - 180.0
    east = east * np.cos(np.radians(sources.dec))
    design = np.stack([east, sources.dec, np.ones_like(east)], axis=1)
    fit = np.linalg.lstsq(design, np.stack([sources.x, sources.y], axis=1), rcond=None)[0][:2].T
    left, _, right = np.linalg.svd(fit)
    return np.asarray(left @ right)


def _sky_image(visit: Visit, place: FocalPlane, shape: tuple[int, int], time: float) -> np.ndarray:
    """Expected electrons of the sky in one snap, (ny, nx) float32."""

    def level(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = place.to_unit(x, y)
        return visit.sky * time * (1.0 + visit.sky_gradient[0] * u + visit.sky_gradient[1] * v)

    # Linear in the pixels, so a row and a column make the image.
    row = level(np.arange(shape[1], dtype=float), np.zeros(shape[1]))
    column = level(np.zeros(shape[0]), np.arange(shape[0], dtype=float))
    return np.add.outer((column - column[0]).astype(np.float32), row.astype(np.float32))


def _streak(
    survey: Survey, psf: Psf, place: FocalPlane, visit: Visit, state: np.ndarray
) -> np.ndarray:
    """Light of a satellite that crosses the field near its centre; marks `state`."""
    rng = generator(survey.seed, "streak", visit.number)
    point = 0.2 * place.radius * rng.uniform(-1.0, 1.0, 2)
    angle = rng.uniform(0.0, np.pi)
    inverse = np.linalg.inv(place.matrix)
    centre = np.array(place.centre) + inverse @ (point - np.array([place.u0, place.v0]))
    direction = inverse @ np.array([np.cos(angle), np.sin(angle)])
    image = np.zeros(state.shape, dtype=np.float32)
    turn = float(np.arctan2(direction[1], direction[0]))
    add_streak(image, psf, float(centre[0]), float(centre[1]), turn, survey.streak_flux)
    state[image > _STREAK_SEEN] |= 4
    return image
