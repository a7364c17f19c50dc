"""ic_wcsVerification: is the WCS what it claims to be? What fails is refused, never written.

Everything is matched anew by the solution itself. It must bring bright sources and bright
reference stars together all over the CCD, beyond chance, with residuals as small as their errors
say, without trends, as well for stars that were held out; and it must be a map that optics can
make: the expected scale everywhere, nothing folded, nothing that no star stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from mpipipe.data.errors import BadDataError
from mpipipe.data.exposure import Exposure
from mpipipe.data.refcat import ReferenceStars
from mpipipe.data.sdqa import Sdqa
from mpipipe.data.tan_sip import TanSip
from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.stages.ic.nearest import nearest_pairs
from mpipipe.stages.ic.pattern_match import log_agreement
from mpipipe.stages.ic.wcs_determination import (
    all_stars,
    brightest_first,
    clean_sources,
    fallback,
    off_pivot,
    placed_stars,
)
from mpipipe.stages.ic.wcs_fit import Stars
from mpipipe.stages.stage import StageConfig, stage

_BRIGHTEST = 200
"""Sources that are asked whether they are reference stars."""
_FEWEST = 30
"""Reference stars that are asked at least, if there are so many."""
_RADIUS = (1.5, 5.0)
"""Of a match: pixels, rms residuals; the larger counts."""
_GRID = 12
_BINS = 3
"""A side, of the trend with position."""
_MAGNITUDE_BINS = 5
_PER_BIN = 5
"""Least stars a bin."""
_MAX_LOG_CHANCE = -3.0
_MAX_LOG_HALF = -6.0
_HALF_SHARE = 0.3
"""A part of the CCD with less than this of the rest's matched fraction is unmatched."""


class WcsVerificationConfig(StageConfig):
    """Options of ic_wcsVerification."""

    min_matched: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="least matched fraction of the bright sources, or of the bright reference "
        "stars on the CCD, whichever is larger",
    )
    max_rms: float = Field(
        default=0.5, gt=0, description="largest rms residual an axis, pixels (3 expected ones pass)"
    )
    max_trend: float = Field(
        default=0.2, gt=0, description="largest significant trend of residuals, pixels rms"
    )
    max_error: float = Field(
        default=2.0, gt=0, description="largest standard error of a position on the CCD, pixels"
    )
    scale_error: float = Field(
        default=0.03, gt=0, description="largest relative error of the pixel scale, in the mean"
    )
    stretch: float = Field(
        default=0.1,
        gt=0,
        description="largest relative difference of any scale on the CCD from the mean",
    )


@dataclass(frozen=True)
class Verdict:
    """Numbers about a solution, and why it is refused (nothing if it is good)."""

    metrics: dict[str, tuple[float, str]]
    problems: tuple[str, ...]


@stage(
    "ic.wcsVerification",
    needs=("calexp", "icSrc", "reference", "pixel_scale", "wcs_solution", "icMatch", "sdqa",
           "warnings"),
    adds=("wcs_solution", "icMatch", "icSrc"),
    config=WcsVerificationConfig,
    fallback=fallback,
)  # fmt: skip
def wcs_verification(
    config: WcsVerificationConfig,
    *,
    calexp: Exposure,
    icSrc: np.ndarray,
    reference: ReferenceStars | None,
    pixel_scale: float,
    wcs_solution: WcsSolution | None,
    icMatch: np.ndarray,
    sdqa: Sdqa,
    warnings: list[str],
) -> Mapping[str, Any]:
    """Verify the WCS against sources and reference stars; refuse a bad one.

    Raises
    ------
    BadDataError
        With every reason and number, if the solution is bad.
    """
    unchanged = {"wcs_solution": wcs_solution, "icMatch": icMatch, "icSrc": icSrc}
    if wcs_solution is None or reference is None:
        return unchanged
    order = brightest_first(reference, calexp.info.band)
    refraction = wcs_solution.refraction
    colours = off_pivot(reference, refraction.colour if refraction is not None else None)
    stars = all_stars(icSrc, placed_stars(reference, calexp), order, colours)
    clean = clean_sources(icSrc)[stars.row]
    verdict = verify(config, wcs_solution, stars, clean, calexp.shape, pixel_scale)
    for name, (value, unit) in verdict.metrics.items():
        sdqa.add(f"ic.wcsVerification.{name}", value, unit)
    if verdict.problems:
        raise BadDataError(f"the WCS is refused: {'; '.join(verdict.problems)}")
    if wcs_solution.max_error > 500.0 * wcs_solution.sip.pixel_scale:
        warnings.append(
            f"few stars stand behind the WCS: its error reaches {wcs_solution.max_error:.0f} mas"
        )
    return unchanged


def verify(
    config: WcsVerificationConfig,
    solution: WcsSolution,
    stars: Stars,
    clean: np.ndarray,
    shape: tuple[int, int],
    pixel_scale: float,
) -> Verdict:
    """Judge a solution.

    Parameters
    ----------
    solution
        With a TAN-SIP map.
    stars
        All sources and reference stars, brightest first.
    clean
        Which sources are unspoilt.
    shape
        (ny, nx) of the CCD.
    pixel_scale
        Expected, arcsec.
    """
    sip = solution.sip
    assert sip is not None
    metrics: dict[str, tuple[float, str]] = {}
    problems = list(_map_problems(config, solution, sip, shape, pixel_scale, metrics))
    spread = np.sqrt(0.5 * (solution.rms_x**2 + solution.rms_y**2))
    radius = max(_RADIUS[0], _RADIUS[1] * float(spread))
    refraction = solution.refraction
    with np.errstate(all="ignore"):
        placed = stars.placed(sip, None if refraction is None else refraction.step)
    positions = np.stack([stars.x, stars.y], axis=1)
    source, star = nearest_pairs(positions, placed, radius)
    bright = np.flatnonzero(clean)[:_BRIGHTEST]
    inside = np.flatnonzero(((placed > -0.5) & (placed < np.array(shape[::-1]) - 0.5)).all(axis=1))
    asked = inside[: max(len(bright), _FEWEST)]
    problems += _match_problems(
        config, solution, positions, placed, bright, asked, (source, star), radius, shape, metrics
    )
    problems += _residual_problems(
        config, solution, stars, placed, source, star, sip, shape, metrics
    )
    return Verdict(metrics, tuple(problems))


def _map_problems(
    config: WcsVerificationConfig,
    solution: WcsSolution,
    sip: TanSip,
    shape: tuple[int, int],
    pixel_scale: float,
    metrics: dict[str, tuple[float, str]],
) -> Iterator[str]:
    """What no optics would make: by the derivatives on a grid with the corners."""
    y, x = (
        c.ravel()
        for c in np.meshgrid(*(np.linspace(-0.5, n - 0.5, _GRID) for n in shape), indexing="ij")
    )
    slopes = sip.jacobian(x, y)
    determinant = np.linalg.det(slopes)
    scale = float(np.sqrt(np.abs(determinant)).mean())
    off = abs(scale / pixel_scale - 1.0)
    stretch = float(np.abs(np.linalg.svd(slopes, compute_uv=False) / scale - 1.0).max())
    metrics["scale_error"] = off, ""
    metrics["stretch"] = stretch, ""
    metrics["max_error"] = solution.max_error, "mas"
    if not (np.sign(determinant) == sip_sign(sip)).all():
        yield "the distortion folds the image"
    if not off <= config.scale_error:
        yield f"the pixel scale is off by {100 * off:.1f} % (limit {100 * config.scale_error:.1f})"
    if not stretch <= config.stretch:
        limit = 100 * config.stretch
        yield f"the distortion stretches by {100 * stretch:.1f} % (limit {limit:.1f})"
    if not solution.max_error <= 1e3 * config.max_error * pixel_scale:
        yield (
            f"its error reaches {solution.max_error:.0f} mas where there are no stars "
            f"(limit {1e3 * config.max_error * pixel_scale:.0f})"
        )


def sip_sign(sip: TanSip) -> float:
    """Sign of the determinant at the tangent point."""
    return float(np.sign(np.linalg.det(sip.cd)))


def _match_problems(
    config: WcsVerificationConfig,
    solution: WcsSolution,
    positions: np.ndarray,
    placed: np.ndarray,
    bright: np.ndarray,
    asked: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    radius: float,
    shape: tuple[int, int],
    metrics: dict[str, tuple[float, str]],
) -> Iterator[str]:
    """Too few matches: on the whole, for chance, or in a part of the CCD."""
    is_source, is_star = np.isin(bright, pairs[0]), np.isin(asked, pairs[1])
    of_sources = float(is_source.mean()) if len(bright) else 0.0
    of_stars = float(is_star.mean()) if len(asked) else 0.0
    metrics["matched_fraction"] = of_sources, ""
    metrics["reference_fraction"] = of_stars, ""
    share = max(of_sources, of_stars)
    if share < config.min_matched:
        yield (
            f"only {100 * of_sources:.0f} % of the bright sources and {100 * of_stars:.0f} % of "
            f"the bright reference stars match (limit {100 * config.min_matched:.0f})"
        )
    hits = np.flatnonzero(is_source)
    chance = (
        log_agreement(
            positions[bright], placed[asked], hits, radius, (float(shape[1]), float(shape[0]))
        )
        if len(bright)
        else 0.0
    )
    metrics["log_chance"] = chance, ""
    if chance > _MAX_LOG_CHANCE:
        yield f"unrelated stars would match as well with a probability of {10**chance:.1g}"
    worst = 0.0
    for part, sources_in, stars_in in _parts(positions[bright], placed[asked], shape):
        log_source = _log_lack(is_source, sources_in)
        log_star = _log_lack(is_star, stars_in)
        lack = max(log_source, log_star)
        worst = min(worst, lack)
        if lack < _MAX_LOG_HALF:
            yield f"the {part} of the CCD is unmatched"
    metrics["log_unmatched_part"] = worst, ""


def _parts(
    sources: np.ndarray, stars: np.ndarray, shape: tuple[int, int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Halves and quarters by name: which sources and which stars lie in them."""
    middle = (np.array(shape[::-1]) - 1) / 2.0
    (left, below), (star_left, star_below) = (sources < middle).T, (stars < middle).T
    yield "left half", left, star_left
    yield "right half", ~left, ~star_left
    yield "lower half", below, star_below
    yield "upper half", ~below, ~star_below
    yield "lower left quarter", left & below, star_left & star_below
    yield "lower right quarter", ~left & below, ~star_left & star_below
    yield "upper left quarter", left & ~below, star_left & ~star_below
    yield "upper right quarter", ~left & ~below, ~star_left & ~star_below


def _log_lack(matched: np.ndarray, inside: np.ndarray) -> float:
    """log10 probability of so few matches inside, were all as likely as outside (Chernoff)."""
    n_in, n_out = int(inside.sum()), int((~inside).sum())
    if not n_in or not n_out:
        return 0.0
    share = float(matched[inside].mean())
    rest = (float(matched[~inside].sum()) + 0.5) / (n_out + 1.0)
    if share >= _HALF_SHARE * rest:
        return 0.0
    information = (1.0 - share) * np.log((1.0 - share) / (1.0 - rest))
    if share > 0.0:
        information += share * np.log(share / rest)
    return float(-n_in * information / np.log(10.0))


def _residual_problems(
    config: WcsVerificationConfig,
    solution: WcsSolution,
    stars: Stars,
    placed: np.ndarray,
    source: np.ndarray,
    star: np.ndarray,
    sip: TanSip,
    shape: tuple[int, int],
    metrics: dict[str, tuple[float, str]],
) -> Iterator[str]:
    """Residuals that are too large, trends of them, and stars held out that do not follow."""
    scale = sip.pixel_scale * 1e3
    rms = float(np.sqrt(0.5 * (solution.rms_ra**2 + solution.rms_dec**2)))
    limit = max(config.max_rms * scale, 3.0 * solution.expected_rms)
    metrics["rms"] = rms, "mas"
    metrics["excess"] = rms / solution.expected_rms, ""
    metrics["cv_rms"] = solution.cv_rms, "mas"
    if not rms <= limit:
        yield f"residuals of {rms:.0f} mas an axis (limit {limit:.0f})"
    if solution.cv_rms > max(limit, 3.0 * rms):
        yield f"stars held out are off by {solution.cv_rms:.0f} mas an axis (limit {limit:.0f})"
    off = np.stack([stars.x, stars.y], axis=1)[source] - placed[star]
    variance = (
        stars.error[source] ** 2
        + (stars.sky_error[star] ** 2 + solution.scatter**2 + 4.0) / scale**2
    )
    near = (off**2).sum(axis=1) <= 20.0 * variance
    off, variance, source = off[near], variance[near], source[near]
    cells = np.floor((np.stack([stars.y, stars.x], axis=1)[source] + 0.5) / shape * _BINS).clip(
        0, _BINS - 1
    )
    # Sources are sorted by brightness: their rank is as good as their magnitude.
    ranks = np.arange(len(source)) * _MAGNITUDE_BINS // max(len(source), 1)
    for name, bins in (
        ("position", cells[:, 0] * _BINS + cells[:, 1]),
        ("magnitude", ranks),
    ):
        chi2, amplitude = _trend(off, variance, bins.astype(int))
        metrics[f"trend_{name}_chi2"] = chi2, ""
        metrics[f"trend_{name}"] = amplitude, "pixel"
        if chi2 > 3.0 and amplitude > config.max_trend:
            yield (
                f"residuals depend on {name}: {amplitude:.2f} pixel rms, chi2 {chi2:.1f} "
                f"(limit {config.max_trend:g} pixel)"
            )


def _trend(off: np.ndarray, variance: np.ndarray, bins: np.ndarray) -> tuple[float, float]:
    """Of the weighted mean residuals in bins: chi2 per value, and their rms beyond noise, pixels.

    Both NaN with fewer than two bins of 5 stars.
    """
    n = np.bincount(bins)
    weight = np.bincount(bins, 1.0 / variance)
    full = n >= _PER_BIN
    if full.sum() < 2:
        return float("nan"), float("nan")
    means = np.stack([np.bincount(bins, axis / variance)[full] for axis in off.T]) / weight[full]
    square = means**2
    chi2 = float((square * weight[full]).mean())
    beyond = float((square - 1.0 / weight[full]).mean())
    return chi2, float(np.sqrt(max(beyond, 0.0)))
