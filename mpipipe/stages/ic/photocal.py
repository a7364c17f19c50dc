"""ic_photocal: the photometric zero point of an exposure, from its matched reference stars.

It belongs to PSF fluxes times the aperture correction. The correction's own error is therefore in
the zero point, with the other sign, and cancels in calibrated PSF fluxes. How it is fitted:
`mpipipe.stages.ic.zero_point`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.photo_calib import MAG_PER_RELATIVE, ColourTerm, PhotoCalib
from mpipipe.data.refcat import ReferenceStars
from mpipipe.data.sdqa import Sdqa
from mpipipe.stages.ic.zero_point import (
    COLOUR_STARS,
    ZeroPointFit,
    ZeroPointOptions,
    fit_zero_point,
)
from mpipipe.stages.stage import StageConfig, stage

REFERENCE_BANDS: Mapping[str, tuple[str, ...]] = {
    "u": ("u", "gaia_bp"),
    "g": ("g", "gaia_bp"),
    "r": ("r", "gaia_g"),
    "i": ("i", "gaia_rp"),
    "z": ("z", "gaia_rp"),
    "y": ("y", "z", "gaia_rp"),
    "B": ("B", "g", "gaia_bp"),
    "V": ("V", "g", "gaia_g"),
    "R": ("R", "r", "gaia_g"),
    "I": ("I", "i", "gaia_rp"),
}
"""Band of an exposure to bands of a catalogue that serve it, the best first."""

_ANY_BAND = ("gaia_g", "r")
"""What serves a band that no table knows, after its own name."""

COLOUR_TERMS: Mapping[str, tuple[float, str, str, float]] = {
    **dict.fromkeys("ugrizy", (0.0, "g", "i", 1.0)),
    **dict.fromkeys(("gaia_bp", "gaia_g", "gaia_rp"), (0.0, "gaia_bp", "gaia_rp", 0.5)),
}
"""Band of the catalogue to (coefficient, blue band, red band, pivot colour)."""

_UNKNOWN_COLOUR_TERM = 0.03
_UNKNOWN_OF_OTHER_BAND = 0.3
"""Error of a colour term of 0 that nobody has given, mag/mag: in the band itself, and in another
band that serves."""
_COLOUR_STARS_OF_OTHER_BAND = 20
"""Stars from which such a colour term is fitted: any is better than none."""

_EXCESS = 0.3
"""Light of undetected neighbours and of sky that is left, expected in a PSF flux, in units of the
flux's noise from the sky."""

_NEVER = ("saturated", "bad", "streak", "centroid", "psfFlux")
_DOUBTFUL = ("edge", "cr", "interpolated", "suspect", "crowded")
_LEAST_SNR = 30.0
_LOWEST_SNR = 10.0
"""Where few stars are brighter: clouds."""
_FEW_STARS = 8
"""With fewer sound and bright ones, doubtful and fainter ones are taken, too."""


class PhotocalConfig(StageConfig):
    """Options of ic_photocal."""

    reference_bands: dict[str, tuple[str, ...]] = Field(
        default={},
        description="band of an exposure to bands of the catalogue that serve it, the best first; "
        "bands not named: the usual ones",
    )
    colour_terms: dict[str, tuple[float, str, str, float]] = Field(
        default={},
        description="band of the catalogue to colour term, magnitudes per magnitude of colour: "
        '(coefficient, blue band, red band, pivot colour), e.g. [0.03, "g", "i", 1.0]',
    )
    colour_term_error: float = Field(
        default=0.01, ge=0.0, description="error of the colour terms given here, mag/mag"
    )
    fit_colour_term: bool = Field(
        default=True, description="fit the colour term where 100 stars show that it is another"
    )
    fit_gradient: bool = Field(
        default=True, description="fit a gradient over the CCD where it is significant"
    )
    significance: float = Field(
        default=1e-3, gt=0.0, lt=1.0, description="chance at which a term counts as significant"
    )
    floor: float = Field(
        default=0.003, gt=0.0, description="error of a star beyond those quoted, mag"
    )
    unknown_error: float = Field(
        default=0.03, gt=0.0, description="error of catalogue magnitudes that have none, mag"
    )
    clip: float = Field(default=3.5, gt=1.0, description="stars farther off are left out, sigma")
    max_scatter: float = Field(
        default=0.3, gt=0.0, description="scatter from which the match must be wrong, mag"
    )


def fallback(
    config: PhotocalConfig, *, icSrc: np.ndarray, icMatch: np.ndarray, **needs: object
) -> Mapping[str, Any]:
    """No zero point; calibrated fluxes stay NaN."""
    return {"photo_calib": None, "icSrc": icSrc, "icMatch": icMatch}


@stage(
    "ic.photocal",
    needs=(
        "calexp", "icSrc", "icMatch", "aperture_correction", "reference", "sdqa", "warnings",
    ),
    adds=("photo_calib", "icSrc", "icMatch"),
    config=PhotocalConfig,
    fallback=fallback,
)  # fmt: skip
def photocal(
    config: PhotocalConfig,
    *,
    calexp: Exposure,
    icSrc: np.ndarray,
    icMatch: np.ndarray,
    aperture_correction: ApertureCorrection,
    reference: ReferenceStars | None,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Fit the zero point on matched stars and calibrate the PSF fluxes.

    Without a catalogue, which nobody has to give, there is no zero point.
    """
    if reference is None:
        return {"photo_calib": None, "icSrc": icSrc, "icMatch": icMatch}
    band = reference_band(calexp.info.band, reference, config)
    is_other = band != calexp.info.band
    if is_other:
        warnings.append(
            f"reference catalogue {reference.name!r} has no band {calexp.info.band!r}: the zero "
            f"point is in the system of its band {band!r}"
        )
    rows, matches = icSrc.copy(), icMatch.copy()
    sources = rows_of_ids(rows["id"], matches["id"])
    stars = rows[sources]
    term = colour_term(band, reference, config, is_other=is_other)
    fill_magnitudes(matches, reference, band, term)
    fit = _fit(stars, matches, aperture_correction, term, calexp.shape, config)
    calibration = PhotoCalib(
        fit.zero_points,
        _systematic(fit, config.floor),
        band,
        fit.colour_term,
        fit.n_used,
        fit.scatter,
        not reference.is_absolute,
    )
    _calibrate(rows, aperture_correction, calibration)
    rows["calib_photometry_used"] = False
    rows["calib_photometry_used"][sources[fit.used]] = True
    matches["photometry_used"] = fit.used
    matches["dMag"] = _residuals(rows[sources], matches, aperture_correction, calibration)
    _record(sdqa, calibration)
    sdqa.add("ic.photocal.excess", _EXCESS * fit.excess)
    return {"photo_calib": calibration, "icSrc": rows, "icMatch": matches}


def reference_band(band: str, reference: ReferenceStars, config: PhotocalConfig) -> str:
    """The band of the catalogue that serves a band of the camera.

    Raises
    ------
    BadDataError
        If the catalogue has none that does.
    """
    usual = REFERENCE_BANDS.get(band, (band, *_ANY_BAND))
    wanted = config.reference_bands.get(band, usual)
    for name in wanted:
        if name in reference.bands:
            return name
    raise BadDataError(
        f"reference catalogue {reference.name!r} has no magnitudes for band {band!r}: it has "
        f"{', '.join(reference.bands) or 'none'}, and {', '.join(wanted)} would serve",
        way_out="name one in ic.photocal.reference_bands",
    )


def colour_term(
    band: str, reference: ReferenceStars, config: PhotocalConfig, *, is_other: bool = False
) -> ColourTerm | None:
    """What is known beforehand of the colour term; None where the catalogue lacks its bands.

    `is_other` says that the band is another than the exposure's.

    Raises
    ------
    BadDataError
        If one is configured whose bands the catalogue lacks.
    """
    configured = config.colour_terms.get(band)
    numbers = configured or COLOUR_TERMS.get(band)
    if numbers is None:
        return None
    coefficient, blue, red, pivot = numbers
    lacking = [name for name in (blue, red) if name not in reference.bands]
    if not lacking:
        unknown = _UNKNOWN_OF_OTHER_BAND if is_other else _UNKNOWN_COLOUR_TERM
        error = config.colour_term_error if configured else unknown
        return ColourTerm(coefficient, blue, red, pivot, error)
    if configured:
        raise BadDataError(
            f"the colour term of band {band!r} needs band {lacking[0]!r}, which reference "
            f"catalogue {reference.name!r} lacks",
            way_out="see ic.photocal.colour_terms",
        )
    return None


def rows_of_ids(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each `wanted` id in `ids`, which are unique.

    Raises
    ------
    BadDataError
        If one is not there.
    """
    order = np.argsort(ids, kind="stable")
    found = np.searchsorted(ids, wanted, sorter=order)
    if len(wanted) and not (len(ids) and np.isin(wanted, ids).all()):
        raise BadDataError("a match names a source or a reference star that does not exist")
    rows: np.ndarray = order[found]
    return rows


def fill_magnitudes(
    matches: np.ndarray, reference: ReferenceStars, band: str, term: ColourTerm | None
) -> None:
    """Fill refMag, refMagErr and refColor of `icMatch` from the catalogue, NaN where unknown."""
    catalogue = reference.rows[rows_of_ids(reference.rows["id"], matches["refId"])]
    matches["refMag"] = catalogue[f"mag_{band}"]
    matches["refMagErr"] = catalogue[f"mag_{band}_error"]
    matches["refColor"] = np.nan
    if term is not None:
        matches["refColor"] = catalogue[f"mag_{term.blue}"] - catalogue[f"mag_{term.red}"]


def sound_stars(rows: np.ndarray) -> np.ndarray:
    """Which rows of `icSrc` may make a zero point, (n,) bool.

    Sound ones of SNR above 30; where these are fewer than eight (clouds, crowding), down to SNR 10
    and with flags that are no more than a doubt.
    """
    flux, error = rows["psfInstFlux"], rows["psfInstFluxErr"]
    never = np.any([rows[f"flag_{name}"] for name in _NEVER], axis=0)
    measured = ~never & np.isfinite(flux) & (error > 0)
    doubtful = np.any([rows[f"flag_{name}"] for name in _DOUBTFUL], axis=0)
    strict = measured & ~doubtful & (flux > _LEAST_SNR * error)
    if strict.sum() >= _FEW_STARS:
        return np.asarray(strict)
    return np.asarray(measured & (flux > _LOWEST_SNR * error))


def _fit(
    stars: np.ndarray,
    matches: np.ndarray,
    correction: ApertureCorrection,
    term: ColourTerm | None,
    shape: tuple[int, int],
    config: PhotocalConfig,
) -> ZeroPointFit:
    sound = sound_stars(stars)
    flux = np.where(sound, stars["psfInstFlux"], np.nan)
    own = MAG_PER_RELATIVE * stars["psfInstFluxErr"] / flux
    error = matches["refMagErr"].astype(float)
    error = np.where(error > 0, error, config.unknown_error)
    factor, _ = correction.at(stars["x"], stars["y"])
    uncertain = term is not None and term.error >= _UNKNOWN_OF_OTHER_BAND
    sky = np.sqrt(np.maximum(stars["psfInstFluxErr"] ** 2 - flux, 0.0))
    options = ZeroPointOptions(
        config.fit_gradient,
        config.fit_colour_term,
        _COLOUR_STARS_OF_OTHER_BAND if uncertain else COLOUR_STARS,
        config.significance,
        config.clip,
        config.max_scatter,
    )
    return fit_zero_point(
        (stars["x"], stars["y"]),
        matches["refMag"] + 2.5 * np.log10(flux * factor),
        error**2 + own**2 + config.floor**2,
        shape,
        colour=matches["refColor"].astype(float),
        term=term,
        excess=MAG_PER_RELATIVE * _EXCESS * sky / flux,
        options=options,
    )


def _systematic(fit: ZeroPointFit, floor: float) -> float:
    """What more stars would not average out, mag: the floor, and a colour term that is held."""
    term = fit.colour_term
    if term is None or term.is_fitted or not np.isfinite(fit.mean_colour):
        return floor
    return float(np.hypot(floor, term.error * (fit.mean_colour - term.pivot)))


def _calibrate(rows: np.ndarray, correction: ApertureCorrection, calibration: PhotoCalib) -> None:
    """Fill psfFlux and psfFluxErr of `icSrc`."""
    x, y = rows["x"], rows["y"]
    factor, _ = correction.at(x, y)
    flux, error = rows["psfInstFlux"] * factor, rows["psfInstFluxErr"] * factor
    rows["psfFlux"], rows["psfFluxErr"] = calibration.to_nanojansky(flux, error, x, y)


def _residuals(
    stars: np.ndarray,
    matches: np.ndarray,
    correction: ApertureCorrection,
    calibration: PhotoCalib,
) -> np.ndarray:
    """Magnitude of every matched source minus that of the catalogue; NaN where one is unknown."""
    x, y = stars["x"], stars["y"]
    factor, _ = correction.at(x, y)
    flux, error = stars["psfInstFlux"] * factor, stars["psfInstFluxErr"] * factor
    magnitude, _ = calibration.magnitudes(flux, error, x, y, matches["refColor"])
    return magnitude - matches["refMag"]


def _record(sdqa: Sdqa, calibration: PhotoCalib) -> None:
    term = calibration.colour_term
    sdqa.add("ic.photocal.zero_point", calibration.zero_point, "mag")
    sdqa.add("ic.photocal.error", calibration.error, "mag")
    sdqa.add("ic.photocal.systematic", calibration.systematic, "mag")
    sdqa.add("ic.photocal.n_stars", calibration.n_stars)
    sdqa.add("ic.photocal.scatter", calibration.scatter, "mag")
    sdqa.add("ic.photocal.colour_term", term.coefficient if term else float("nan"), "mag/mag")
    sdqa.add("ic.photocal.gradient", float(np.hypot(*calibration.gradient)), "mag")
