"""The plan of a survey's visits: when, where, through which filter and which sky."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mpipipe.sim.red_noise import damped_walk
from mpipipe.sim.seeds import generator
from mpipipe.sim.survey import Survey

FIRST_VISIT = {"science": 100_001, "bias": 200_001, "dark": 300_001, "flat": 400_001}
"""Number of the first exposure of each kind."""

SNAP_GAP = 2.0
"""From the end of a snap to the start of the next, seconds."""


@dataclass(frozen=True)
class Visit:
    """One visit as it truly happened.

    Attributes
    ----------
    index, number
        Place in the plan from 0, and the visit number in headers and file names.
    band
        Name of the filter.
    mjd
        Start of the first snap, MJD (TAI).
    ra, dec, angle
        True pointing and position angle, degrees.
    header_ra, header_dec, header_angle
        What the header says of them.
    airmass, zenith_angle
        Airmass, and the position angle of the direction to the zenith, degrees.
    seeing
        FWHM of the core for every snap, arcsec.
    sky
        Sky, electrons per second and pixel of 0.2 arcsec.
    extinction
        Loss by the atmosphere at the field's centre, clouds included but for their structure
        (`clouds.extinction_at`), magnitudes.
    cloud
        The clouds' part of it.
    cloud_gradient
        Change of the extinction along (u, v) of the focal plane, magnitudes per field radius.
    sky_gradient
        Relative change of the sky along (u, v) per field radius.
    ellipticity
        (e1, e2) of the whole visit.
    streak_snap
        Snap that a satellite crosses; -1 for none.
    """

    index: int
    number: int
    band: str
    mjd: float
    ra: float
    dec: float
    angle: float
    header_ra: float
    header_dec: float
    header_angle: float
    airmass: float
    zenith_angle: float
    seeing: tuple[float, ...]
    sky: float
    extinction: float
    cloud: float
    cloud_gradient: tuple[float, float]
    sky_gradient: tuple[float, float]
    ellipticity: tuple[float, float]
    streak_snap: int


def plan_visits(survey: Survey, n_snaps: int) -> tuple[Visit, ...]:
    """All visits of a survey, in order; each depends on the seed and its own number only."""
    return tuple(plan_visit(survey, index, n_snaps) for index in range(survey.n_visits))


def plan_visit(survey: Survey, index: int, n_snaps: int) -> Visit:
    """One visit of the plan."""
    rng = generator(survey.seed, "visit", index)
    band = survey.bands[index % len(survey.bands)]
    dx, dy = rng.uniform(-survey.dither, survey.dither, 2) / 3600.0
    dec = survey.dec + dy
    ra = survey.ra + dx / np.cos(np.radians(dec))
    angle = survey.angle + survey.angle_scatter * rng.normal()
    # Clipped, so that a matcher that searches to an arcminute can find every visit.
    wrong = np.clip(rng.normal(size=2), -3, 3) * survey.pointing_error / 3600.0
    airmass = rng.uniform(survey.airmass_min, survey.airmass_max)
    zenith_angle = rng.uniform(0.0, 360.0)
    seeing = rng.uniform(survey.seeing_min, survey.seeing_max)
    mjd = survey.mjd + index * survey.visit_interval
    if survey.seeing_time > 0:
        seeing = _steady_seeing(survey, mjd)
    per_snap = seeing * (1.0 + survey.snap_seeing_scatter * rng.normal(size=n_snaps))
    sky = survey.of_band("sky_rates", band) * survey.sky
    sky *= max(0.2, 1.0 + survey.sky_scatter * rng.normal())
    sky *= 1.0 + survey.moon * moonlight(mjd)
    cloud = survey.clouds * rng.uniform()
    slope, direction = survey.cloud_gradient * cloud, rng.uniform(0.0, 2.0 * np.pi)
    uphill = rng.uniform(0.0, 2.0 * np.pi)
    e1, e2 = survey.ellipticity_visit * rng.normal(size=2)
    header_angle = angle + survey.header_angle_error * rng.normal()
    streak_snap = int(rng.integers(n_snaps)) if index in survey.streaks else -1
    night = generator(survey.seed, "night", int(mjd)).normal()
    return Visit(
        index=index,
        number=FIRST_VISIT["science"] + index,
        band=band,
        mjd=mjd,
        ra=float(ra % 360.0),
        dec=float(dec),
        angle=float(angle),
        header_ra=float((ra + wrong[0] / np.cos(np.radians(dec))) % 360.0),
        header_dec=float(dec + wrong[1]),
        header_angle=float(header_angle),
        airmass=float(airmass),
        zenith_angle=float(zenith_angle),
        seeing=tuple(float(value) for value in per_snap),
        sky=float(sky),
        extinction=float(
            cloud
            + survey.of_band("extinction", band) * (airmass - 1.0)
            + survey.night_scatter * night
        ),
        cloud=float(cloud),
        cloud_gradient=(float(slope * np.cos(direction)), float(slope * np.sin(direction))),
        sky_gradient=(
            float(survey.sky_gradient * np.cos(uphill)),
            float(survey.sky_gradient * np.sin(uphill)),
        ),
        ellipticity=(float(e1), float(e2)),
        streak_snap=streak_snap,
    )


def _steady_seeing(survey: Survey, mjd: float) -> float:
    """Seeing that changes over `seeing_time`, spread evenly between its limits, arcsec."""
    walk = float(
        damped_walk(generator(survey.seed, "seeing"), mjd - survey.mjd, survey.seeing_time)
    )
    share = 0.5 * (1.0 + math.erf(walk / math.sqrt(2.0)))
    return survey.seeing_min + (survey.seeing_max - survey.seeing_min) * share


def moonlight(mjd: float) -> float:
    """Illuminated fraction of the Moon, from 0 (new) to 1 (full), by its mean period."""
    # New moon of 2000 January 6.
    return 0.5 * (1.0 - math.cos(2.0 * math.pi * (mjd - 51549.76) / 29.530589))
