"""Schema of `src`: what every source has, and the columns of all measurements.

A measurement that an option leaves out keeps its columns, NaN with its flags set, so that tables
of all runs fit together.
"""

from __future__ import annotations

from mpipipe.data.schema import Column, Schema
from mpipipe.data.src import FAMILY, IDENTITY, PIXEL_FLAGS, POSITION
from mpipipe.stages.sfm.measurement import Flux, registry

PSF_FLUX = Flux("psf", "flux of the PSF fit, touching sources fitted together", is_of_psf=True)

PSF_FIT: tuple[Column, ...] = (
    *PSF_FLUX.columns,
    Column("psfChi2", "f4", "", "chi2 per pixel of the PSF fit", "stat.fit.chi2"),
    Column("flag_psfFlux", "?", "", "the PSF flux failed, or there is no PSF", "meta.code"),
    Column("apCorr", "f4", "", "factor of calibrated fluxes that a PSF gave", "phot.calib"),
    Column("apCorrErr", "f4", "", "its standard error, common to all of a CCD", "stat.error"),
)

FLUXES: tuple[Flux, ...] = (PSF_FLUX, *(flux for one in registry().values() for flux in one.fluxes))
"""All fluxes of a source."""

MEASURED = tuple(column for one in registry().values() for column in one.all_columns)
"""What the measurements give."""

SRC = Schema(
    "src",
    "Sources on the calibrated exposure of one CCD and visit",
    IDENTITY + FAMILY + POSITION + PIXEL_FLAGS + PSF_FIT + MEASURED,
)
