"""Panel ``photometry``: the fit of the zero point, and what its residuals depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpipipe.data.photo_calib import MAG_PER_RELATIVE, PhotoCalib
from mpipipe.quality.panels.characterization import Characterization
from mpipipe.quality.panels.drawing import (
    LINE,
    UNUSED,
    USED,
    draw_binned,
    frame_ccd,
    say,
    say_only,
    symmetric_limit,
    write_facts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST_LIMIT = 0.02


def draw_photometry(figure: Figure, found: Characterization) -> None:
    """Draw residuals of the zero point against magnitude, colour and position."""
    title = f"{found.title}: zero point, star minus reference"
    calibration = found.calexp.photo_calib
    stars, matches = found.matched_sources()
    known = np.isfinite(matches["dMag"])
    stars, matches = stars[known], matches[known]
    if calibration is None or not len(matches):
        say_only(figure, title, *_why_not(found))
        return
    axes = figure.subplot_mosaic(
        [["magnitude", "magnitude", "facts"], ["colour", "position", "spread"]]
    )
    figure.suptitle(title)
    used, residual = matches["photometry_used"], matches["dMag"].astype(float)
    limit = symmetric_limit(residual[used], _LEAST_LIMIT)
    flux_error = MAG_PER_RELATIVE * stars["psfInstFluxErr"] / stars["psfInstFlux"]
    error = np.hypot(flux_error, np.nan_to_num(matches["refMagErr"]))
    _magnitudes(axes["magnitude"], matches["refMag"], residual, error, used, limit)
    _colours(axes["colour"], matches["refColor"], residual, used, calibration)
    _positions(axes["position"], found.calexp.shape, (stars["x"], stars["y"]), residual, used)
    _spread(axes["spread"], residual, error, used, limit)
    _facts(axes["facts"], calibration, len(matches), found.failures or "")


def _why_not(found: Characterization) -> tuple[str, str]:
    if found.calexp.photo_calib is None:
        return "no zero point: fluxes stay in electrons", found.why_no_solution
    if found.matches is None:
        return found.no_catalogue, ""
    return "a zero point, but no matched star with a magnitude in icMatch", found.failures or ""


def _magnitudes(
    axes: Axes,
    magnitude: np.ndarray,
    residual: np.ndarray,
    error: np.ndarray,
    used: np.ndarray,
    limit: float,
) -> None:
    """Residuals against magnitude, each with the errors quoted for it."""
    for rows, colour, label in (
        (~used, UNUSED, f"{(~used).sum():,} others"),
        (used, USED, f"{used.sum():,} stars of the fit"),
    ):
        axes.errorbar(
            magnitude[rows], residual[rows], error[rows], fmt=".", color=colour, ms=4, alpha=0.45,
            elinewidth=0.6, label=label,
        )  # fmt: skip
    draw_binned(axes, magnitude[used], residual[used], LINE, n_bins=12)
    axes.axhline(0, color=LINE, lw=0.7)
    axes.set_ylim(-limit, limit)
    outside = int((np.abs(residual) > limit).sum())
    axes.set_title(f"against magnitude; medians in black; {outside} outside", fontsize=10)
    axes.set_xlabel("reference magnitude")
    axes.set_ylabel("dMag")
    axes.legend(fontsize=8, loc="upper left")


def _colours(
    axes: Axes, colour: np.ndarray, residual: np.ndarray, used: np.ndarray, calibration: PhotoCalib
) -> None:
    """Residuals before the colour term, and the term as a line."""
    term = calibration.colour_term
    known = np.isfinite(colour)
    if term is None or not known.any():
        say(axes, "no colour term: no star has a colour")
        return
    before = residual - term.of(colour)
    axes.plot(colour[known & ~used], before[known & ~used], ".", color=UNUSED, ms=3, alpha=0.6)
    axes.plot(colour[known & used], before[known & used], ".", color=USED, ms=4, alpha=0.45)
    draw_binned(axes, colour[used], before[used].astype(float), LINE)
    ends = np.array([colour[known].min(), colour[known].max()], float)
    how = "fitted" if term.is_fitted else "given"
    axes.plot(ends, -term.of(ends), color=LINE, lw=1.0, label=f"the colour term ({how})")
    limit = symmetric_limit(before[used & known], _LEAST_LIMIT)
    axes.set_ylim(-limit, limit)
    axes.set_title("against colour, before the colour term", fontsize=10)
    axes.set_xlabel(f"{term.blue} − {term.red}")
    axes.set_ylabel("dMag")
    axes.legend(fontsize=8, loc="upper left")


def _positions(
    axes: Axes,
    shape: tuple[int, int],
    places: tuple[np.ndarray, np.ndarray],
    residual: np.ndarray,
    used: np.ndarray,
) -> None:
    """Residuals over the CCD."""
    x, y = places
    spread = np.abs(residual[used])
    limit = max(float(np.percentile(spread, 95)), 0.005) if used.any() else 0.05
    picture = axes.scatter(
        x[used], y[used], c=residual[used], s=26, cmap="RdBu_r", vmin=-limit, vmax=limit,
        edgecolors="#666666", linewidths=0.3,
    )  # fmt: skip
    axes.figure.colorbar(picture, ax=axes, label="dMag", shrink=0.9)
    axes.set_title("over the CCD, stars of the fit", fontsize=10)
    frame_ccd(axes, shape)


def _spread(
    axes: Axes, residual: np.ndarray, error: np.ndarray, used: np.ndarray, limit: float
) -> None:
    """How residuals are distributed, beside what their errors let expect."""
    edges = np.linspace(-limit, limit, 36)
    bins = edges.tolist()
    axes.hist(residual[~used], bins, color=UNUSED, alpha=0.5, label="others")
    axes.hist(residual[used], bins, color=USED, alpha=0.7, label="stars of the fit")
    sigma = error[used & (error > 0)]
    if len(sigma):
        at = np.linspace(-limit, limit, 300)
        normal = np.exp(-0.5 * (at[:, None] / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        counts = normal.sum(axis=1) * (edges[1] - edges[0])
        axes.plot(at, counts, color=LINE, lw=1.2, label="expected by their errors")
    axes.set_title("distribution", fontsize=10)
    axes.set_xlabel("dMag")
    axes.set_ylabel("stars")
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left")


def _facts(axes: Axes, calibration: PhotoCalib, n_matched: int, failures: str) -> None:
    term = calibration.colour_term
    facts = [
        ("zero point", f"{calibration.zero_point:.4f} ± {calibration.error:.4f} mag"),
        ("", "AB, of 1 electron in the visit"),
        ("systematic error", f"{calibration.systematic:.4f} mag"),
        ("reference band", calibration.band),
        ("stars", f"{calibration.n_stars:,} in the fit, {n_matched:,} with magnitudes"),
        ("scatter", f"{calibration.scatter:.4f} mag (robust)"),
        ("colour term", "none" if term is None else _in_words(term.coefficient, term.error)),
    ]
    if term is not None:
        facts.append(("", f"times ({term.blue} − {term.red} − {term.pivot:g})"))
    x, y = calibration.gradient
    steep = f"{x:+.4f} along x, {y:+.4f} along y, mag"
    facts.append(("gradient", steep if calibration.zero_points.order else "none seen"))
    relative = "relative to the run's own frames, not absolute" if calibration.is_relative else ""
    write_facts(axes, facts, warning="; ".join(text for text in (relative, failures) if text))


def _in_words(coefficient: float, error: float) -> str:
    return f"{coefficient:+.4f}" + (f" ± {error:.4f}" if np.isfinite(error) else "")
