"""ic_wcsDetermination: match the sources with reference stars and fit the WCS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, field_validator

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.icsrc import ICMATCH
from mpipipe.data.refcat import PlacedStars, ReferenceStars
from mpipipe.data.refraction import NAME_LENGTH, Colour, Refraction, colour_among
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.tan_sip import TanSip, approximate, gnomonic, middle
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.stages.ic.pattern_match import Search
from mpipipe.stages.ic.wcs_fit import FitOptions, Stars, WcsFit, match_radius
from mpipipe.stages.ic.wcs_search import Found, expectations, find_wcs
from mpipipe.stages.stage import StageConfig, stage

if TYPE_CHECKING:
    from astropy.wcs import WCS

_SECONDS_PER_DAY = 86400.0
_UNKNOWN_TIME = 5.0
"""Years by which stars may have moved when the time of the exposure is unknown."""
_MAS_PER_YEAR = 8.0
_HEADER_ORDER = 4
"""Degree in which a header's WCS is taken over when it is only moved."""
_UNUSABLE = ("bad", "centroid", "edge", "streak")
"""Flags of sources that are not even matched."""
_UNFIT = ("saturated", "cr", "interpolated", "suspect", "crowded", "shape")
"""Flags of sources that are matched, but not fitted while there are others."""
_UNKNOWN_ERROR = 0.5
"""Of a coordinate without an error, pixels."""
_FAINTER = (1.0, 0.5, 0.25)
"""Factors on the least SNR, tried until the fit has enough stars."""
_LEAST_KNOWN = 0.5
"""Share of the reference stars that must have a band for refraction to go by it."""
_COLOUR_ERROR = 0.15
"""Largest error of a star's colour that refraction is fitted to, mag; unknown ones pass."""
_SIZE_RANGE = (0.8, 1.25)
"""Of a star's second moments over those of the PSF."""


class WcsDeterminationConfig(StageConfig):
    """Options of ic_wcsDetermination."""

    pointing_error: float = Field(
        default=300.0, gt=0, description="largest error of the header's pointing, arcsec"
    )
    rotation_error: float = Field(
        default=2.0, gt=0, le=180, description="largest error of the header's rotation, degrees"
    )
    scale_error: float = Field(
        default=0.02, gt=0, le=0.2, description="largest relative error of the pixel scale"
    )
    max_order: int = Field(default=5, ge=1, le=5, description="highest degree of the distortion")
    min_snr: float = Field(default=30.0, ge=0, description="stars brighter than this are preferred")
    enough_stars: int = Field(
        default=100, ge=1, description="fainter stars are added until the fit has this many"
    )
    max_stars: int = Field(default=2000, ge=10, description="brightest stars that are fitted")
    clip: float = Field(default=4.0, gt=0, description="rejection of stars, standard deviations")
    floor_mas: float = Field(
        default=2.0, ge=0, description="least systematic error of a star's position, mas an axis"
    )
    floor_pixels: float = Field(default=0.01, ge=0, description="the same in pixels")
    fit_refraction: bool = Field(
        default=True,
        description="fit how refraction displaces sources by their colours, where reference stars "
        "show that",
    )
    refraction_colour: tuple[str, ...] = Field(
        default=(),
        description="blue and red band of that colour, which catalogue and objects must have, e.g. "
        '["g", "r"]; empty: g - i, or the first usual one that the catalogue has',
    )
    significance: float = Field(
        default=0.01, gt=0, lt=1, description="chance at which refraction counts as real"
    )

    @field_validator("refraction_colour")
    @classmethod
    def _two_bands(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if bands and (len(set(bands)) != 2 or len(bands) != 2):
            raise ValueError("a colour is of two bands")
        if len("-".join(bands).encode()) > NAME_LENGTH:
            raise ValueError(f"a colour's name, BLUE-RED, has {NAME_LENGTH} bytes at most")
        return bands

    @property
    def search(self) -> Search:
        """How wrong a header's WCS may be."""
        return Search(self.pointing_error, self.rotation_error, self.scale_error)

    @property
    def fit(self) -> FitOptions:
        """The options of the fit among them."""
        return FitOptions(
            self.max_order,
            self.clip,
            self.floor_mas,
            self.floor_pixels,
            significance=self.significance,
        )


def fallback(config: StageConfig, *, icSrc: np.ndarray, **others: object) -> Mapping[str, Any]:
    """No solution, and no source that was used for one."""
    icSrc["calib_astrometry_used"] = False
    return {"wcs_solution": None, "icMatch": ICMATCH.empty(), "icSrc": icSrc}


@stage(
    "ic.wcsDetermination",
    needs=("calexp", "icSrc", "reference", "pixel_scale", "sdqa", "warnings"),
    adds=("wcs_solution", "icMatch", "icSrc"),
    config=WcsDeterminationConfig,
    fallback=fallback,
)
def wcs_determination(
    config: WcsDeterminationConfig,
    *,
    calexp: Exposure,
    icSrc: np.ndarray,
    reference: ReferenceStars | None,
    pixel_scale: float,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Match sources with reference stars and fit a TAN-SIP solution.

    Without a catalogue, which nobody has to give, the header's WCS stays.

    Raises
    ------
    BadDataError
        If the catalogue has no stars here, or no map is beyond chance.
    """
    if reference is None:
        return fallback(config, icSrc=icSrc)
    if not len(reference):
        raise BadDataError(f"reference catalogue {reference.name!r} has no stars around here")
    placed = placed_stars(reference, calexp)
    colour = refraction_colour(reference, config, warnings) if config.fit_refraction else None
    order = brightest_first(reference, calexp.info.band)
    stars = all_stars(icSrc, placed, order, off_pivot(reference, colour))
    tiers = choose_stars(icSrc[stars.row], config)
    info = calexp.info
    tried = expectations(
        header_wcs(calexp), (info.ra, info.dec), pixel_scale, config.search, calexp.shape
    )
    found = find_wcs(stars, tiers, tried, calexp.shape, config.fit, config.enough_stars)
    if found is None:
        raise BadDataError(
            f"no map brings the {len(stars.row)} sources and the {len(placed)} reference stars "
            "around together beyond chance"
            if tried
            else "neither a WCS nor a pointing in the header: the place on the sky is unknown"
        )
    source, star = stars.near(found.fit.wcs, match_radius(found.fit), found.fit.refraction)
    solution = replace(
        _solution(found, stars, len(source), calexp.shape),
        refraction=_refraction(found.fit, colour),
        reference=reference.name,
        is_relative=not reference.is_absolute,
    )
    icSrc = icSrc.copy()
    icSrc["calib_astrometry_used"] = False
    icSrc["calib_astrometry_used"][stars.row[found.fit.source[found.fit.used]]] = True
    if solution.kind == "shift":
        warnings.append(f"{solution.n_used} reference stars only move the header's WCS")
    _record(sdqa, solution)
    matches = match_rows(
        icSrc, stars.row[source], reference, placed, stars.reference_row[star], solution, info.band
    )
    return {"wcs_solution": solution, "icMatch": matches, "icSrc": icSrc}


def header_wcs(calexp: Exposure) -> TanSip | None:
    """The exposure's WCS as TAN-SIP; None if it has none that makes sense."""
    return tan_sip_of(calexp.wcs, calexp.shape)


def tan_sip_of(wcs: WCS | None, shape: tuple[int, int]) -> TanSip | None:
    """A header's WCS as TAN-SIP over a CCD of (ny, nx); None if it makes no sense."""
    if wcs is None:
        return None

    def pixel_to_sky(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ra, dec = wcs.all_pix2world(x, y, 0)
        return ra, dec

    try:
        return approximate(pixel_to_sky, shape, _HEADER_ORDER)
    except (ValueError, np.linalg.LinAlgError):
        return None


def middle_of_visit(calexp: Exposure) -> float:
    """MJD (TAI); NaN if its time is unknown."""
    info = calexp.info
    return info.mjd_start + 0.5 * info.exposure_time / _SECONDS_PER_DAY


def placed_stars(reference: ReferenceStars, calexp: Exposure) -> PlacedStars:
    """The reference stars at the middle of the visit; at their own epoch if its time is unknown."""
    half_way = middle_of_visit(calexp)
    if np.isfinite(half_way):
        return reference.at_epoch(half_way)
    epochs = reference.rows["epoch"]
    known = epochs[np.isfinite(epochs)]
    placed = reference.at_epoch(float(np.median(known)) if len(known) else 0.0)
    more = _UNKNOWN_TIME * _MAS_PER_YEAR
    return replace(
        placed,
        ra_error=np.hypot(placed.ra_error, more),
        dec_error=np.hypot(placed.dec_error, more),
    )


def brightest_first(reference: ReferenceStars, band: str) -> np.ndarray:
    """Indices of the reference stars by magnitude in the visit's band.

    Stars without it are placed by their other magnitudes and the median colour; those without any
    come last.
    """
    magnitude = np.full(len(reference), np.nan)
    for other in sorted(reference.bands, key=lambda name: name != band):
        values = reference.rows[f"mag_{other}"].astype(float)
        both = np.isfinite(values) & np.isfinite(magnitude)
        colour = float(np.median((magnitude - values)[both])) if both.any() else 0.0
        magnitude = np.where(np.isfinite(magnitude), magnitude, values + colour)
    return np.argsort(magnitude, kind="stable")


def refraction_colour(
    reference: ReferenceStars, config: WcsDeterminationConfig, warnings: list[str]
) -> Colour | None:
    """The colour that refraction goes by: the one that is wished for, or the best of bands in which
    half of the stars here are known; None, with a warning if one was wished for, if there is none.
    """
    if wanted := config.refraction_colour:
        colour = colour_among(reference.bands, wanted)
        if colour is None:
            warnings.append(
                f"refraction by {'-'.join(wanted)} is left out: {reference.name} has the bands "
                f"{', '.join(reference.bands)}"
            )
        return colour
    known = [
        band
        for band in reference.bands
        if np.isfinite(reference.rows[f"mag_{band}"]).mean() >= _LEAST_KNOWN
    ]
    return colour_among(known)


def off_pivot(reference: ReferenceStars, colour: Colour | None) -> np.ndarray | None:
    """Colours of reference stars less the pivot, mag, NaN where unknown or too uncertain (a slope
    over colours with errors comes out too small); None without a colour."""
    if colour is None:
        return None
    rows, bands = reference.rows, (colour.blue, colour.red)
    blue, red = (rows[f"mag_{band}"].astype(float) for band in bands)
    error = np.hypot(*(rows[f"mag_{band}_error"].astype(float) for band in bands))
    return colour.off_pivot(np.where(error > _COLOUR_ERROR, np.nan, blue - red))


def all_stars(
    icSrc: np.ndarray, placed: PlacedStars, order: np.ndarray, off_pivot: np.ndarray | None = None
) -> Stars:
    """Sources with a position and the reference stars, both brightest first.

    Parameters
    ----------
    order
        Indices of the reference stars, brightest first.
    off_pivot
        Their colours less the pivot, in the order of the catalogue.
    """
    row = np.flatnonzero(placed_sources(icSrc))
    flux = icSrc["psfInstFlux"][row]
    flux = np.where(np.isfinite(flux), flux, icSrc["apInstFlux"][row])
    flux = np.where(np.isfinite(flux), flux, -np.inf)
    row = row[np.lexsort((-icSrc["snr"][row].astype(float), -flux))]
    sky_error = np.sqrt(0.5 * (placed.ra_error**2 + placed.dec_error**2))
    return Stars(
        icSrc["x"][row], icSrc["y"][row], position_errors(icSrc)[row],
        placed.ra[order], placed.dec[order], sky_error[order], row, order,
        None if off_pivot is None else off_pivot[order],
    )  # fmt: skip


def choose_stars(sources: np.ndarray, config: WcsDeterminationConfig) -> list[np.ndarray]:
    """Indices of sources to fit: bright, unspoilt and pointlike ones, then ever more.

    Parameters
    ----------
    sources
        Rows of icSrc, brightest first.
    """
    clean = clean_sources(sources)
    pointlike = clean & is_pointlike(sources)
    groups = [pointlike & (sources["snr"] >= factor * config.min_snr) for factor in _FAINTER]
    groups += [clean, np.ones(len(sources), bool)]
    tiers: list[np.ndarray] = []
    for group in groups:
        chosen = np.flatnonzero(group)[: config.max_stars]
        if not tiers or len(chosen) > len(tiers[-1]):
            tiers.append(chosen)
    return tiers


def placed_sources(sources: np.ndarray) -> np.ndarray:
    """Which sources have a position that means something."""
    placed = np.isfinite(sources["x"]) & np.isfinite(sources["y"])
    for name in _UNUSABLE:
        placed &= ~sources[f"flag_{name}"]
    return placed


def position_errors(sources: np.ndarray) -> np.ndarray:
    """Standard error of positions an axis, pixels; half a pixel if unknown."""
    error = np.sqrt(0.5 * (sources["xErr"].astype(float) ** 2 + sources["yErr"] ** 2))
    return np.where(np.isfinite(error), error, _UNKNOWN_ERROR)


def clean_sources(sources: np.ndarray) -> np.ndarray:
    """Which sources have no flag that spoils their centroid."""
    clean = np.ones(len(sources), bool)
    for name in _UNFIT:
        clean &= ~sources[f"flag_{name}"]
    return clean


def is_pointlike(sources: np.ndarray) -> np.ndarray:
    """Whether sources are as large as the PSF's stars, or as the bright ones when it has none."""
    size = (sources["ixx"] + sources["iyy"]).astype(float)
    known = np.isfinite(size) & ~sources["flag_shape"] & (size > 0.0)
    model = known & sources["calib_psf_used"]
    if model.sum() < 3:
        bright = known & ~sources["flag_saturated"]
        model = bright & (np.cumsum(bright) <= max(0.3 * bright.sum(), 10))
    if not model.any():
        return np.ones(len(sources), bool)
    ratio = size / np.median(size[model])
    return known & (ratio > _SIZE_RANGE[0]) & (ratio < _SIZE_RANGE[1])


def match_rows(
    icSrc: np.ndarray,
    row: np.ndarray,
    reference: ReferenceStars,
    placed: PlacedStars,
    star: np.ndarray,
    solution: WcsSolution,
    band: str,
) -> np.ndarray:
    """Rows of icMatch for rows of icSrc and of their reference stars, in the order of ids."""
    order = np.argsort(icSrc["id"][row], kind="stable")
    sources, star = icSrc[row[order]], star[order]
    rows = ICMATCH.empty(len(sources))
    for name in ("id", "visit", "ccdNumber"):
        rows[name] = sources[name]
    rows["refId"] = reference.rows["id"][star]
    rows["refRa"], rows["refDec"] = placed.ra[star], placed.dec[star]
    for column, name in (("refMag", f"mag_{band}"), ("refMagErr", f"mag_{band}_error")):
        rows[column] = reference.rows[name][star] if band in reference.bands else np.nan
    x, y = solution.sip.sky_to_pixel(rows["refRa"], rows["refDec"])
    if solution.refraction is not None:
        off = off_pivot(reference, solution.refraction.colour)
        colour = 0.0 if off is None else np.nan_to_num(off[star])
        x, y = x + solution.refraction.x * colour, y + solution.refraction.y * colour
    rows["dx"], rows["dy"] = sources["x"] - x, sources["y"] - y
    rows["refColor"] = rows["dMag"] = np.nan
    rows["astrometry_used"] = sources["calib_astrometry_used"]
    return rows


def _solution(found: Found, stars: Stars, n_matched: int, shape: tuple[int, int]) -> WcsSolution:
    fit, used = found.fit, found.fit.used
    dx, dy = fit.dx[used], fit.dy[used]
    to_sky = fit.wcs.jacobian(stars.x[fit.source], stars.y[fit.source])[used] * 1e3
    east, north = np.einsum("nij,jn->in", to_sky, np.stack([dx, dy]))
    centre, _ = middle(shape)
    at = fit.wcs.pixel_to_sky(*np.array(centre).reshape(2, 1))
    offset = np.hypot(*gnomonic(*at, *found.expectation.sky))[0] * 3600.0
    return WcsSolution(
        sip=fit.wcs,
        kind=found.kind,
        order=fit.order,
        n_matched=n_matched,
        n_used=int(used.sum()),
        rms_x=_rms(dx),
        rms_y=_rms(dy),
        rms_ra=_rms(east),
        rms_dec=_rms(north),
        expected_rms=_rms(fit.sigma[used]),
        scatter=fit.scatter,
        error=fit.error,
        max_error=fit.max_error,
        cv_rms=fit.cv_rms,
        header_offset=float(offset),
        log_chance=found.match.log_chance,
        is_relative=False,
        reference="",
    )


def _refraction(fit: WcsFit, colour: Colour | None) -> Refraction | None:
    if fit.refraction is None or colour is None:
        return None
    x, y = fit.refraction.tolist()
    return Refraction(x, y, fit.refraction_error, colour.blue, colour.red, colour.pivot)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _record(sdqa: Sdqa, solution: WcsSolution) -> None:
    """Metrics of a fitted solution."""
    sip, refraction = solution.sip, solution.refraction
    scale = 1e3 * sip.pixel_scale
    moved = scale * float(np.hypot(*refraction.step)) if refraction is not None else 0.0
    error = scale * refraction.error if refraction is not None else float("nan")
    for name, value, unit in (
        ("n_matched", solution.n_matched, ""),
        ("n_used", solution.n_used, ""),
        ("order", solution.order, ""),
        ("rms_x", solution.rms_ra, "mas"),
        ("rms_y", solution.rms_dec, "mas"),
        ("expected_rms", solution.expected_rms, "mas"),
        ("scatter", solution.scatter, "mas"),
        ("error", solution.error, "mas"),
        ("header_offset", solution.header_offset, "arcsec"),
        ("rotation", sip.rotation, "deg"),
        ("pixel_scale", sip.pixel_scale, "arcsec"),
        ("parity", sip.parity, ""),
        ("log_chance", solution.log_chance, ""),
        ("refraction", moved, "mas/mag"),
        ("refraction_error", error, "mas/mag"),
    ):
        sdqa.add(f"ic.wcsDetermination.{name}", value, unit)
