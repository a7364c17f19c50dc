"""Easter eggs: rare things planted into a survey, one of each, which only the truth gives away.

They are ordinary rows of the sky's tables with identifiers of their own, so that everything treats
them like all others. All lie in the middle of the central CCD, where every visit sees them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from mpipipe.sim.astrometry import inverse_gnomonic
from mpipipe.sim.lightcurves import Variability
from mpipipe.sim.movers import MOVERS, bodies_towards
from mpipipe.sim.seeds import generator
from mpipipe.sim.sky import OBJECTS, STAR
from mpipipe.sim.survey import BANDS, Survey

FIRST_EGG = 1 << 60
"""Identifiers of eggs begin here."""

_DELAY_DAYS = 18.0
_LENS_ARCSEC = 1.6


@lru_cache(maxsize=8)
def planted(survey: Survey) -> np.ndarray:
    """The eggs that stand still: rows of `sky.OBJECTS`; none unless asked for."""
    if not survey.eggs:
        return OBJECTS.empty()
    rng = generator(survey.seed, "eggs")
    span = max(survey.n_visits - 1, 1) * survey.visit_interval
    middle = survey.mjd + 0.5 * span
    # (kind, magnitude, amplitude, period, phase, epoch, timescale)
    plan = (
        (Variability.MICROLENSING, 20.0, 0.0, 0.0, 0.04, middle, 0.2 * span),
        (Variability.DWARF_NOVA, 22.5, 5.0, max(0.6 * span, 15.0), 0.9, survey.mjd, 3.0),
        (Variability.TIDAL_DISRUPTION, 19.0, 0.0, 0.0, 0.0, middle, 0.15 * span),
        (Variability.DISAPPEARING, 19.5, 0.0, 0.0, 0.0, middle, 0.0),
        (Variability.LENSED, 19.5, 0.35, 0.0, 0.0, survey.mjd, 60.0),
        (Variability.LENSED, 20.3, 0.35, 0.0, 0.0, survey.mjd + _DELAY_DAYS, 60.0),
    )
    rows = OBJECTS.empty(len(plan))
    rows["kind"], rows["host"] = STAR, -1
    rows["id"] = FIRST_EGG + np.arange(len(rows))
    xi, eta = rng.uniform(-1.0, 1.0, (2, len(rows))) * survey.eggs_within / 3600.0
    turn = rng.uniform(0.0, 2.0 * np.pi)
    xi[-1] = xi[-2] + _LENS_ARCSEC / 3600.0 * np.cos(turn)
    eta[-1] = eta[-2] + _LENS_ARCSEC / 3600.0 * np.sin(turn)
    rows["ra"], rows["dec"] = inverse_gnomonic(xi, eta, survey.ra, survey.dec)
    columns = ("variability", "mag_r", "amplitude", "period", "phase", "epoch", "timescale")
    for name, values in zip(columns, zip(*plan, strict=True), strict=True):
        rows[name] = values
    for band in BANDS:
        rows[f"mag_{band}"] = rows["mag_r"]
    # Both images show one quasar, the second one later.
    rows["host"][-2:] = rows["id"][-2]
    rows.flags.writeable = False
    return rows


def passing(survey: Survey) -> np.ndarray:
    """The eggs that move: a near body with a long trail, and one that comes from outside.

    Returns
    -------
    rows of `movers.MOVERS`; none unless asked for.
    """
    if not survey.eggs:
        return MOVERS.empty()
    rng = generator(survey.seed, "eggs", "movers")
    mjd = survey.mjd + (survey.n_visits // 2) * survey.visit_interval
    xi, eta = rng.uniform(-0.5, 0.5, (2, 2)) * survey.eggs_within / 3600.0
    ra, dec = inverse_gnomonic(xi, eta, survey.ra, survey.dec)
    # Distance from the Earth (au), speed over the circular one, magnitude.
    rows = bodies_towards(
        ra, dec, mjd, np.array([0.08, 1.2]), np.array([1.1, 1.9]), np.array([19.5, 20.5])
    )
    rows["family"] = [b"fast", b"interstellar"]
    rows["id"] = FIRST_EGG + 100 + np.arange(2)
    return rows


def list_eggs(survey: Survey) -> list[dict[str, Any]]:
    """What was planted, for the truth: name, identifiers, place, time."""
    found = []
    rows = planted(survey)
    for kind in dict.fromkeys(rows["variability"].tolist()):
        some = rows[rows["variability"] == kind]
        found.append(
            {
                "what": Variability(kind).name.lower().replace("_", " "),
                "ids": some["id"].tolist(),
                "ra": some["ra"].tolist(),
                "dec": some["dec"].tolist(),
                "mjd": some["epoch"].tolist(),
            }
        )
    for row in passing(survey):
        found.append(
            {
                "what": f"{row['family'].decode()} mover",
                "ids": [int(row["id"])],
                "mjd": [float(row["epoch"])],
                "a": float(row["a"]),
                "e": float(row["e"]),
            }
        )
    return found
