"""Columns of the tables that source association gives, PT1.2's names for them.

A row of `source` is what travels between ranks and what objects are made of: of a measurement in
`src` the part that says something about the object, on the sky instead of on the CCD. `src` has
the rest under the same id.
"""

from __future__ import annotations

from mpipipe.data.schema import Column, Schema

NO_OBJECT = -1
"""`objectId` of a source that is part of no object."""

FLUX_KINDS: tuple[str, ...] = ("psf", "ap", "kron", "petro", "cModel")
"""Fluxes that are carried on to objects: PSF, circle of 3 FWHM, Kron, Petrosian, galaxy model."""

_FLUX_NAMES = {
    "psf": "the PSF fit",
    "ap": "the circle of 3 FWHM",
    "kron": "the Kron ellipse",
    "petro": "two Petrosian radii",
    "cModel": "the galaxy model",
}

IDENTITY: tuple[Column, ...] = (
    Column("id", "i8", "", "source id, as in src", "meta.id;meta.main"),
    Column("objectId", "i8", "", "object it is part of; -1 for none", "meta.id.parent"),
    Column("visit", "i8", "", "visit", "meta.id;obs"),
    Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
    Column("band", "S16", "", "band", "meta.id;instr.bandpass"),
    Column("mjd", "f8", "d", "middle of the visit, MJD TAI", "time.epoch"),
)

PLACE: tuple[Column, ...] = (
    Column("ra", "f8", "deg", "right ascension (ICRS); NaN without a WCS", "pos.eq.ra;meta.main"),
    Column("dec", "f8", "deg", "declination (ICRS); NaN without a WCS", "pos.eq.dec;meta.main"),
    Column("raErr", "f4", "mas", "standard error of ra times cos(dec)", "stat.error;pos.eq.ra"),
    Column("decErr", "f4", "mas", "standard error of dec", "stat.error;pos.eq.dec"),
    Column("ra_dec_Cov", "f4", "mas2", "covariance of the two", "stat.covariance"),
    Column("fwhm", "f4", "arcsec", "FWHM of the visit's PSF", "instr.obsty.seeing"),
)


def _flux_columns() -> tuple[Column, ...]:
    return tuple(
        column
        for kind in FLUX_KINDS
        for column in (
            Column(f"{kind}Flux", "f4", "nJy", f"flux in {_FLUX_NAMES[kind]}", "phot.flux.density"),
            Column(
                f"{kind}FluxErr",
                "f4",
                "nJy",
                f"standard error of {kind}Flux",
                "stat.error;phot.flux.density",
            ),
        )
    )


SHAPE: tuple[Column, ...] = (
    Column("snr", "f4", "", "peak of the matched-filter map over its noise", "stat.snr"),
    Column("ixx", "f4", "arcsec2", "adaptive second moment along east", "phys.angSize"),
    Column("iyy", "f4", "arcsec2", "adaptive second moment along north", "phys.angSize"),
    Column("ixy", "f4", "arcsec2", "adaptive mixed moment, east and north", "phys.angSize"),
    Column("psfIxx", "f4", "arcsec2", "the same of the PSF there, along east", "phys.angSize"),
    Column("psfIyy", "f4", "arcsec2", "the same of the PSF there, along north", "phys.angSize"),
    Column("psfIxy", "f4", "arcsec2", "the same of the PSF there, mixed", "phys.angSize"),
    Column("petroRadius", "f4", "arcsec", "Petrosian radius", "phys.angSize"),
    Column("petroR50", "f4", "arcsec", "radius of half the Petrosian flux", "phys.angSize"),
    Column("petroR90", "f4", "arcsec", "radius of 90 % of the Petrosian flux", "phys.angSize"),
    Column("extendedness", "f4", "", "probability that it is extended", "src.class.starGalaxy"),
    Column("blendedness", "f4", "", "share of its light that is others'", "phot.flux"),
)

FLAGS: tuple[Column, ...] = (
    Column("flag_blended", "?", "", "its footprint holds other peaks", "meta.code"),
    Column("flag_monster", "?", "", "a blend of so many that fluxes are doubtful", "meta.code"),
    Column("flag_streak", "?", "", "on a satellite or aircraft trail", "meta.code"),
    Column("flag_edge", "?", "", "closer to an edge than the centroid window", "meta.code"),
    Column("flag_saturated", "?", "", "a pixel within 1 FWHM is saturated", "meta.code"),
    Column("flag_near_saturated", "?", "", "a pixel within 2 FWHM is saturated", "meta.code"),
    Column("flag_bad", "?", "", "a pixel within 1 FWHM can not be used", "meta.code"),
    Column("flag_cr", "?", "", "a pixel within 1 FWHM was hit by a cosmic ray", "meta.code"),
    Column("flag_suspect", "?", "", "a pixel within 1 FWHM is doubtful", "meta.code"),
    Column("flag_centroid", "?", "", "no fit gave the position", "meta.code"),
    Column("flag_psfFlux", "?", "", "the PSF fit failed", "meta.code"),
)

SOURCE = Schema(
    "source",
    "Every measurement of an object: sources that passed the quality cuts, by sky position",
    (*IDENTITY, *PLACE, *_flux_columns(), *SHAPE, *FLAGS),
)
