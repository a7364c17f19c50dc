"""The stars of a run's catalogues that an exposure may show."""

from __future__ import annotations

import math
from pathlib import Path

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.refcat import ReferenceStars
from mpipipe.run.context import RunContext, TaskResultTables
from mpipipe.run.failures import Failures

_POINTING_ERROR = 5.0 / 60
"""How far the telescope may have missed its place, degrees."""


def reference_for(
    calexp: Exposure,
    pixel_scale: float,
    context: RunContext,
    result: TaskResultTables,
    failures: Failures,
) -> ReferenceStars | None:
    """The reference stars around an exposure; None if the run has no reference catalogue.

    An exposure of unknown pointing, or a catalogue that can not be read, is a failure.

    Parameters
    ----------
    pixel_scale
        Arcsec.
    """
    around = calexp, pixel_scale
    return _stars("reference", context.refcat, *around, context, result, failures)


def positions_for(
    calexp: Exposure,
    pixel_scale: float,
    context: RunContext,
    result: TaskResultTables,
    failures: Failures,
) -> ReferenceStars | None:
    """The positions to measure at around an exposure, as `reference_for` finds its stars."""
    around = calexp, pixel_scale
    return _stars("positions", context.forced, *around, context, result, failures)


def _stars(
    step: str,
    catalogue: Path | None,
    calexp: Exposure,
    pixel_scale: float,
    context: RunContext,
    result: TaskResultTables,
    failures: Failures,
) -> ReferenceStars | None:
    if catalogue is None:
        return None
    try:
        ra, dec = _middle(calexp)
        radius = 0.55 * math.hypot(*calexp.shape) * pixel_scale / 3600 + _POINTING_ERROR
        return context.stars_around(catalogue, ra, dec, radius, result)
    except BadDataError as error:
        failures.add(step, str(error))
        return None


def _middle(calexp: Exposure) -> tuple[float, float]:
    """Right ascension and declination of the middle of an exposure, degrees, roughly."""
    ny, nx = calexp.shape
    if calexp.wcs is not None:
        ra, dec = calexp.wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
        if math.isfinite(ra) and math.isfinite(dec):
            return float(ra), float(dec)
    info = calexp.info
    if math.isfinite(info.ra) and math.isfinite(info.dec):
        return info.ra, info.dec
    raise BadDataError(
        "neither a WCS nor RA and DEC tell where it looks",
        key="RA, DEC",
        way_out="give the camera's description the keys of the pointing",
    )
