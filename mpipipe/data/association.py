"""Columns of the tables that source association gives, PT1.2's names for them.

A row of `source` is what travels between ranks and what objects are made of: of a measurement in
`src` the part that says something about the object, on the sky instead of on the CCD. `src` has
the rest under the same id.
"""

from __future__ import annotations

import re

from mpipipe.data.refraction import NAME_LENGTH
from mpipipe.data.schema import Column, Schema
from mpipipe.data.src import FAMILY, PIXEL_FLAGS, POSITION

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

_OF_SRC = {column.name: column for column in (*FAMILY, *POSITION, *PIXEL_FLAGS)}


def _as_in_src(*names: str) -> tuple[Column, ...]:
    """Columns that mean here what they mean in `src`."""
    return tuple(_OF_SRC[name] for name in names)


IDENTITY: tuple[Column, ...] = (
    Column("id", "i8", "", "source id, as in src", "meta.id;meta.main"),
    Column("objectId", "i8", "", "object it is part of; -1 for none", "meta.id.parent"),
    Column("visit", "i8", "", "visit", "meta.id;obs"),
    Column("ccdNumber", "i2", "", "number of the CCD within the camera", "meta.id;instr"),
    Column("band", "S16", "", "band", "meta.id;instr.bandpass"),
    Column("mjd", "f8", "d", "middle of the visit, MJD TAI", "time.epoch"),
)

PLACE: tuple[Column, ...] = (
    *_as_in_src("ra", "dec", "raErr", "decErr", "ra_dec_Cov"),
    Column("fwhm", "f4", "arcsec", "FWHM of the visit's PSF", "instr.obsty.seeing"),
)

REFRACTION: tuple[Column, ...] = (
    Column(
        "raRefraction",
        "f4",
        "mas",
        "displacement along ra (cos(dec) included) by refraction and the object's colour: to be "
        "subtracted; 0 where the colour is unknown",
        "pos.eq.ra;arith.diff",
    ),
    Column("decRefraction", "f4", "mas", "the same along dec", "pos.eq.dec;arith.diff"),
    Column(
        "raRefractionSlope",
        "f4",
        "mas mag-1",
        "raRefraction per magnitude of refractionColor; 0 where the visit shows none",
        "arith.rate;pos.eq.ra",
    ),
    Column(
        "decRefractionSlope",
        "f4",
        "mas mag-1",
        "decRefraction per magnitude of refractionColor",
        "arith.rate;pos.eq.dec",
    ),
    Column(
        "refractionSlopeErr",
        "f4",
        "mas mag-1",
        "standard error of each",
        "stat.error;pos.eq",
    ),
    Column(
        "refractionColor",
        f"S{NAME_LENGTH}",
        "",
        "the colour that refraction goes by, e.g. g-i; empty: none",
        "meta.id;phot.color",
    ),
)
"""How the atmosphere displaces a source by its colour: see `mpipipe.data.refraction`."""


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

FLAGS_OF_SRC: tuple[Column, ...] = (
    *_as_in_src(
        "flag_blended",
        "flag_monster",
        "flag_streak",
        "flag_edge",
        "flag_saturated",
        "flag_near_saturated",
        "flag_bad",
        "flag_cr",
        "flag_suspect",
        "flag_centroid",
    ),
    Column("flag_psfFlux", "?", "", "the PSF fit failed", "meta.code"),
)

FLAGS: tuple[Column, ...] = (
    *FLAGS_OF_SRC,
    Column(
        "flag_merged",
        "?",
        "",
        "the light of several objects, which other visits show apart",
        "meta.code",
    ),
    Column(
        "flag_refraction",
        "?",
        "",
        "refraction is left in its position, as the object's colour is unknown",
        "meta.code",
    ),
)

SOURCE = Schema(
    "source",
    "Every measurement of an object: sources that passed the quality cuts, by sky position",
    (*IDENTITY, *PLACE, *REFRACTION, *_flux_columns(), *SHAPE, *FLAGS),
)


BAD_REASONS: tuple[str, ...] = (
    "no position",
    "faint",
    "edge",
    "streak",
    "bad pixel",
    "no centroid",
)
"""Why a source is kept out of objects: the first of these that holds."""

BAD_SOURCE = Schema(
    "badSource",
    "Measurements that failed the quality cuts and are part of no object",
    (
        *SOURCE.columns,
        Column("reason", "S32", "", "first quality cut that it failed", "meta.code.error"),
    ),
)

SOURCE_HIST = Schema(
    "sourceHist",
    "Which object every source went to, in which processing",
    (
        Column("sourceId", "i8", "", "source id", "meta.id;meta.main"),
        Column("objectId", "i8", "", "object it became part of", "meta.id.parent"),
        Column("visit", "i8", "", "visit", "meta.id;obs"),
        Column("mjd", "f8", "d", "middle of the visit, MJD TAI", "time.epoch"),
        Column("processing", "i4", "", "number of the processing", "meta.id"),
    ),
)

BAD_SOURCE_HIST = Schema(
    "badSourceHist",
    "Which sources were kept out of objects and why, in which processing",
    (
        Column("sourceId", "i8", "", "source id", "meta.id;meta.main"),
        Column("visit", "i8", "", "visit", "meta.id;obs"),
        Column("mjd", "f8", "d", "middle of the visit, MJD TAI", "time.epoch"),
        Column("reason", "S32", "", "first quality cut that it failed", "meta.code.error"),
        Column("processing", "i4", "", "number of the processing", "meta.id"),
    ),
)

PERCENTILES: tuple[int, ...] = (5, 25, 50, 75, 95)
"""Percentiles of an object's PSF fluxes in a band."""

_ASTROMETRY: tuple[Column, ...] = (
    Column("objectId", "i8", "", "lowest id of its sources", "meta.id;meta.main"),
    Column(
        "ra",
        "f8",
        "deg",
        "right ascension (ICRS) at epoch, free of refraction by colour",
        "pos.eq.ra;meta.main",
    ),
    Column(
        "dec",
        "f8",
        "deg",
        "declination (ICRS) at epoch, free of refraction by colour",
        "pos.eq.dec;meta.main",
    ),
    Column("raErr", "f4", "mas", "standard error of ra times cos(dec)", "stat.error;pos.eq.ra"),
    Column("decErr", "f4", "mas", "standard error of dec", "stat.error;pos.eq.dec"),
    Column("ra_dec_Cov", "f4", "mas2", "covariance of the two", "stat.covariance"),
    Column("epoch", "f8", "d", "epoch of ra and dec: weighted mean, MJD TAI", "time.epoch"),
    Column("pmRa", "f4", "mas yr-1", "proper motion in ra times cos(dec)", "pos.pm;pos.eq.ra"),
    Column("pmDec", "f4", "mas yr-1", "proper motion in dec", "pos.pm;pos.eq.dec"),
    Column("pmRaErr", "f4", "mas yr-1", "standard error of pmRa", "stat.error;pos.pm"),
    Column("pmDecErr", "f4", "mas yr-1", "standard error of pmDec", "stat.error;pos.pm"),
    Column("pmRa_pmDec_Cov", "f4", "mas2 yr-2", "covariance of pmRa and pmDec", "stat.covariance"),
    Column("parallax", "f4", "mas", "parallax; NaN unless constrained", "pos.parallax.trig"),
    Column("parallaxErr", "f4", "mas", "standard error of it", "stat.error;pos.parallax.trig"),
    Column("pmRa_parallax_Cov", "f4", "mas2 yr-1", "their covariance", "stat.covariance"),
    Column("pmDec_parallax_Cov", "f4", "mas2 yr-1", "their covariance", "stat.covariance"),
    Column(
        "nParameters",
        "i2",
        "",
        "2: mean position; 4: with proper motion; 5: with parallax",
        "meta.number;stat.fit.param",
    ),
    Column("posChi2", "f4", "", "chi2 of the positions about that fit", "stat.fit.chi2"),
    Column("posDof", "i4", "", "its degrees of freedom", "stat.fit.dof"),
    Column("posRms", "f4", "mas", "rms of the residuals, per axis", "stat.stdev;pos.eq"),
)

_HISTORY: tuple[Column, ...] = (
    Column("nSources", "i4", "", "sources, one a visit", "meta.number;obs"),
    Column("mjdFirst", "f8", "d", "first visit, MJD TAI", "time.start;obs"),
    Column("mjdLast", "f8", "d", "last visit, MJD TAI", "time.end;obs"),
)

_OBJECT_SHAPE: tuple[Column, ...] = (
    Column("nShape", "i4", "", "sources that the shape is the mean of", "meta.number"),
    Column("ixx", "f4", "arcsec2", "moment along east less the PSF's, mean", "phys.angSize"),
    Column("iyy", "f4", "arcsec2", "moment along north less the PSF's, mean", "phys.angSize"),
    Column("ixy", "f4", "arcsec2", "mixed moment less the PSF's, mean", "phys.angSize"),
    Column("e1", "f4", "", "(ixx - iyy) / (ixx + iyy); NaN if that is < 0", "src.ellipticity"),
    Column("e2", "f4", "", "2 ixy / (ixx + iyy); NaN if that is < 0", "src.ellipticity"),
    Column("size", "f4", "arcsec", "root of (ixx + iyy) / 2; NaN if negative", "phys.angSize"),
    Column("petroRadius", "f4", "arcsec", "Petrosian radius, mean", "phys.angSize"),
    Column("petroR50", "f4", "arcsec", "radius of half the flux, mean", "phys.angSize"),
    Column("petroR90", "f4", "arcsec", "radius of 90 % of the flux, mean", "phys.angSize"),
    Column(
        "extendedness", "f4", "", "probability, of all sources together", "src.class.starGalaxy"
    ),
    Column("blendedness", "f4", "", "share of its light that is others', mean", "phot.flux"),
)

_VARIABILITY: tuple[Column, ...] = (
    Column("variabilityChi2", "f4", "", "chi2 of constant PSF fluxes, all bands", "stat.fit.chi2"),
    Column("variabilityDof", "i4", "", "its degrees of freedom", "stat.fit.dof"),
    Column("constancyProbability", "f4", "", "of so large a chi2 if constant", "stat.probability"),
    Column("stetsonJ", "f4", "", "Stetson's J, visits close in time paired", "src.var.index"),
)


def _flag_columns() -> tuple[Column, ...]:
    return tuple(
        column
        for flag in FLAGS
        for column in (
            Column(flag.name, "?", "", f"any of its sources: {flag.description}", "meta.code"),
            Column(
                f"{flag.name}_fraction",
                "f4",
                "",
                f"share of its sources with {flag.name}",
                "arith.ratio;meta.code",
            ),
        )
    )


def column_ending(band: str) -> str:
    """What the columns of a band end in: its name, without what a column can not be called."""
    return re.sub(r"[^A-Za-z0-9_+-]", "_", band)


def _psf_columns(band: str) -> tuple[Column, ...]:
    """Distribution of the PSF fluxes of a band, magnitude and variability."""
    return (
        Column(f"psfFluxRms_{band}", "f4", "nJy", "standard deviation of psfFlux", "stat.stdev"),
        Column(f"psfFluxChi2_{band}", "f4", "", "chi2 of constant psfFlux", "stat.fit.chi2"),
        Column(f"psfFluxMin_{band}", "f4", "nJy", "least psfFlux", "phot.flux.density;stat.min"),
        Column(f"psfFluxMax_{band}", "f4", "nJy", "largest psfFlux", "phot.flux.density;stat.max"),
        *(
            Column(
                f"psfFluxPercentile{percent:02d}_{band}",
                "f4",
                "nJy",
                f"percentile {percent} of psfFlux",
                "phot.flux.density;stat.value",
            )
            for percent in PERCENTILES
        ),
        Column(f"psfFluxStetsonJ_{band}", "f4", "", "Stetson's J of this band", "src.var.index"),
        Column(
            f"psfFluxVonNeumann_{band}",
            "f4",
            "",
            "mean square of successive differences over variance; 2 if only noise",
            "src.var.index",
        ),
        Column(f"psfMag_{band}", "f4", "mag", "AB magnitude of psfFluxMean", "phot.mag"),
        Column(f"psfMagErr_{band}", "f4", "mag", "standard error of it", "stat.error;phot.mag"),
    )


def _band_columns(band: str) -> tuple[Column, ...]:
    means = tuple(
        column
        for kind in FLUX_KINDS
        for column in (
            Column(
                f"{kind}FluxN_{band}",
                "i4",
                "",
                f"sources that {kind}FluxMean is the mean of",
                "meta.number;obs",
            ),
            Column(
                f"{kind}FluxMean_{band}",
                "f4",
                "nJy",
                f"weighted mean of the flux in {_FLUX_NAMES[kind]}",
                "phot.flux.density;stat.mean",
            ),
            Column(
                f"{kind}FluxMeanErr_{band}",
                "f4",
                "nJy",
                "standard error of it",
                "stat.error;phot.flux.density",
            ),
        )
    )
    return means + _psf_columns(band)


def _colour_columns(bands: tuple[str, ...]) -> tuple[Column, ...]:
    return tuple(
        column
        for blue, red in zip(bands, bands[1:], strict=False)
        for column in (
            Column(f"psfColor_{blue}_{red}", "f4", "mag", f"colour {blue} - {red}", "phot.color"),
            Column(
                f"psfColorErr_{blue}_{red}",
                "f4",
                "mag",
                "standard error of it",
                "stat.error;phot.color",
            ),
        )
    )


def object_schema(bands: tuple[str, ...]) -> Schema:
    """Columns of `object`; those of a band end in ``_band``, e.g. ``psfFluxMean_r``.

    Parameters
    ----------
    bands
        The survey's bands from blue to red: colours are those of neighbours.
    """
    return Schema(
        "object",
        "What sources of several visits have in common: stars, galaxies, and what is seen once",
        (
            *_ASTROMETRY,
            *_HISTORY,
            *_OBJECT_SHAPE,
            *_VARIABILITY,
            *(column for band in bands for column in _band_columns(column_ending(band))),
            *_colour_columns(tuple(map(column_ending, bands))),
            *_flag_columns(),
        ),
    )
