"""The reference catalogue: stars with errors of their own, as a survey like Gaia gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpipipe.data.schema import Column, Schema
from mpipipe.sim.seeds import generator
from mpipipe.sim.sky import STAR
from mpipipe.sim.survey import BANDS, Survey
from mpipipe.sim.truth import survey_objects
from mpipipe.store.fits import write_fits_atomically
from mpipipe.store.fits_tables import table_hdu

FILE_NAME = "reference.fits"

REFERENCE = Schema(
    "reference",
    "Reference stars at the epoch of the first visit",
    (
        Column("id", "i8", "", "identifier", "meta.id;meta.main"),
        Column("ra", "f8", "deg", "right ascension, ICRS", "pos.eq.ra"),
        Column("dec", "f8", "deg", "declination, ICRS", "pos.eq.dec"),
        Column("ra_error", "f4", "mas", "error of ra, cos(dec) included", "stat.error"),
        Column("dec_error", "f4", "mas", "error of dec", "stat.error"),
        Column("pm_ra", "f4", "mas/yr", "proper motion in ra, cos(dec) included", "pos.pm"),
        Column("pm_dec", "f4", "mas/yr", "proper motion in dec", "pos.pm"),
        Column("epoch", "f8", "d", "epoch of the position, MJD TAI", "time.epoch"),
        *(Column(f"mag_{b}", "f4", "mag", f"AB magnitude in {b}", "phot.mag") for b in BANDS),
        *(Column(f"mag_{b}_error", "f4", "mag", f"its error in {b}", "stat.error") for b in BANDS),
    ),
)

_PM_ERROR = 0.3
"""Error of proper motions, mas/yr."""


def reference_stars(survey: Survey) -> np.ndarray:
    """Rows of `REFERENCE`; numbers tell nothing about the truth's identifiers."""
    truth = survey_objects(survey)
    rng = generator(survey.seed, "reference")
    known = (
        (truth["kind"] == STAR)
        & (truth["mag_r"] > survey.reference_mag_min)
        & (truth["mag_r"] < survey.reference_mag_max)
        & (rng.uniform(size=len(truth)) < survey.reference_completeness)
    )
    stars = truth[known]
    stars = stars[np.argsort(stars["dec"], kind="stable")]
    n = len(stars)
    columns: dict[str, np.ndarray] = {"id": np.arange(1, n + 1)}
    # Errors double over the two faintest magnitudes.
    faint = np.clip((stars["mag_r"] - survey.reference_mag_max + 2.0) / 2.0, 0.0, 1.0)
    position = survey.reference_position_error * (1.0 + faint)
    error = survey.reference_mag_error * (1.0 + faint)
    mas = 1.0 / 3.6e6
    cosine = np.cos(np.radians(stars["dec"]))
    columns["ra"] = stars["ra"] + position * rng.normal(size=n) * mas / cosine
    columns["dec"] = stars["dec"] + position * rng.normal(size=n) * mas
    columns["ra_error"] = columns["dec_error"] = position
    columns["pm_ra"] = stars["pm_ra"] + _PM_ERROR * rng.normal(size=n)
    columns["pm_dec"] = stars["pm_dec"] + _PM_ERROR * rng.normal(size=n)
    columns["epoch"] = np.full(n, survey.mjd)
    for band in BANDS:
        columns[f"mag_{band}"] = stars[f"mag_{band}"] + error * rng.normal(size=n)
        columns[f"mag_{band}_error"] = error
    return REFERENCE.table(columns)


def write_reference(survey: Survey, folder: Path) -> list[Path]:
    """Write the reference catalogue as a FITS table; return its path."""
    from astropy.io import fits

    table = table_hdu(REFERENCE, reference_stars(survey))
    path = folder / FILE_NAME
    write_fits_atomically(path, fits.HDUList([fits.PrimaryHDU(), table]))
    return [path]
