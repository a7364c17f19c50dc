"""Panel ``wcs``: by how much stars miss their reference positions, and whether it depends on
where they stand and how bright they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.data.wcs_solution import WcsSolution
from mpipipe.quality.panels.characterization import Characterization
from mpipipe.quality.panels.drawing import (
    BAD,
    LINE,
    UNUSED,
    USED,
    draw_binned,
    frame_ccd,
    round_number,
    say_only,
    symmetric_limit,
    write_facts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_X, _Y = USED, BAD
"""Colours of residuals along columns and rows."""
_LEAST_LIMIT = 0.02
_WIDEST = 3.5
"""Limit of the axes of residuals, in typical ones."""
_ARROW = 0.035
"""Length of an arrow of typical residual, in sides of the CCD."""
_LONGEST = 6.0
"""Residuals of more than so many typical ones are marked by a cross instead of an arrow."""


def draw_wcs(figure: Figure, found: Characterization) -> None:
    """Draw the residuals of matched stars over the CCD, against x, y and magnitude."""
    title = f"{found.title}: WCS, star minus reference"
    solution = found.calexp.astrometry
    stars, matches = found.matched_sources()
    if solution is None or not len(matches):
        say_only(figure, title, *_why_not(found))
        return
    axes = figure.subplot_mosaic(
        [["field", "field", "x", "y"], ["field", "field", "magnitude", "cloud"], ["facts"] * 4],
        height_ratios=(1.0, 1.0, 0.3),
    )
    figure.suptitle(title)
    used = matches["astrometry_used"]
    dx, dy = matches["dx"].astype(float), matches["dy"].astype(float)
    scale = 1000.0 * solution.sip.pixel_scale
    typical = max(float(np.hypot(solution.rms_x, solution.rms_y)), 1e-6)
    _field(
        axes["field"], found.calexp.shape, (stars["x"], stars["y"], dx, dy), used, typical, scale
    )
    magnitude, label = matches["refMag"].astype(float), "reference magnitude"
    if not np.isfinite(magnitude).any():
        magnitude, label = found.magnitudes(stars)
    widest = symmetric_limit(np.concatenate([dx[used], dy[used]]), _LEAST_LIMIT)
    limit = min(widest, max(_LEAST_LIMIT, _WIDEST * typical))
    against = {"x": ("x, pixels", stars["x"]), "y": ("y, pixels", stars["y"])}
    for name, (text, values) in {**against, "magnitude": (label, magnitude)}.items():
        _against(axes[name], text, values, (dx, dy), used, limit)
    _cloud(axes["cloud"], dx, dy, used, limit)
    _facts(axes["facts"], solution, scale, found.failures or "")


def _why_not(found: Characterization) -> tuple[str, str]:
    if found.calexp.astrometry is None:
        header = "the header's stands" if found.calexp.wcs is not None else "there is none at all"
        return f"no WCS was found on reference stars: {header}", found.why_no_solution
    if found.matches is None:
        return found.no_catalogue, ""
    return "a WCS, but no matched star in icMatch", found.failures or ""


def _field(
    axes: Axes,
    shape: tuple[int, int],
    stars: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    used: np.ndarray,
    typical: float,
    scale: float,
) -> None:
    """Arrows over the CCD, with one as key."""
    x, y, dx, dy = stars
    far = np.hypot(dx, dy) > _LONGEST * typical
    per_pixel = typical / (_ARROW * max(shape))
    how: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": per_pixel, "width": 0.0025}
    for rows, colour in ((~used & ~far, UNUSED), (used, USED)):
        if rows.any():
            arrows = axes.quiver(x[rows], y[rows], dx[rows], dy[rows], color=colour, **how)
    axes.plot(x[far & ~used], y[far & ~used], "x", color=UNUSED, ms=4)
    axes.set_title(
        f"{used.sum():,} stars of the fit, {(~used).sum():,} others (grey; × if far off)",
        fontsize=10, loc="left",
    )  # fmt: skip
    frame_ccd(axes, shape)
    if used.any():
        key = round_number(1.5 * typical)
        text = f"{key:g} pixel = {key * scale:.3g} mas"
        axes.quiverkey(arrows, 0.72, 1.025, key, text, labelpos="E", color=LINE, coordinates="axes")


def _against(
    axes: Axes,
    label: str,
    values: np.ndarray,
    residuals: tuple[np.ndarray, np.ndarray],
    used: np.ndarray,
    limit: float,
) -> None:
    """Both residuals against something, with medians in bins."""
    for residual, colour, name in zip(residuals, (_X, _Y), ("dx", "dy"), strict=True):
        axes.plot(values[~used], residual[~used], ".", color=UNUSED, ms=2.5, alpha=0.6)
        axes.plot(values[used], residual[used], ".", color=colour, ms=3, alpha=0.35)
        draw_binned(axes, values[used], residual[used], colour)
        axes.plot([], [], "o", color=colour, label=name)
    axes.axhline(0, color=LINE, lw=0.7)
    axes.set_ylim(-limit, limit)
    axes.set_xlabel(label)
    axes.set_ylabel("residual, pixels")
    axes.legend(fontsize=8, loc="upper right", ncols=2, handletextpad=0.1)


def _cloud(axes: Axes, dx: np.ndarray, dy: np.ndarray, used: np.ndarray, limit: float) -> None:
    """dx against dy with the ellipses of one and two standard deviations."""
    from matplotlib.patches import Ellipse

    axes.plot(dx[~used], dy[~used], ".", color=UNUSED, ms=2.5, alpha=0.6)
    axes.plot(dx[used], dy[used], ".", color=USED, ms=3, alpha=0.5)
    if used.sum() > 2:
        centre = float(dx[used].mean()), float(dy[used].mean())
        widths, turns = np.linalg.eigh(np.cov(dx[used], dy[used]))
        angle = float(np.degrees(np.arctan2(turns[1, 1], turns[0, 1])))
        minor, major = np.sqrt(np.maximum(widths, 0.0))
        for k in (1, 2):
            ellipse = Ellipse(centre, 2 * k * major, 2 * k * minor, angle=angle, fill=False)
            axes.add_patch(ellipse)
    outside = int(((np.abs(dx) > limit) | (np.abs(dy) > limit)).sum())
    axes.set_title(f"ellipses: 1 and 2 σ; {outside} outside", fontsize=9)
    axes.axhline(0, color=LINE, lw=0.5)
    axes.axvline(0, color=LINE, lw=0.5)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.set_xlabel("dx, pixels")
    axes.set_ylabel("dy, pixels")


def _facts(axes: Axes, solution: WcsSolution, scale: float, failures: str) -> None:
    kinds = {
        "sip": f"TAN-SIP of order {solution.order}",
        "affine": "linear, without distortion",
        "shift": "the header's, shifted (too few stars for more)",
    }
    cv = f"{solution.cv_rms:.3g} mas" if np.isfinite(solution.cv_rms) else "unknown: too few stars"
    facts = [
        ("solution", kinds[solution.kind]),
        ("stars", f"{solution.n_matched:,} matched, {solution.n_used:,} in the fit"),
        ("rms of x, y", f"{solution.rms_x:.4f}, {solution.rms_y:.4f} pixel"),
        ("rms of ra, dec", f"{solution.rms_ra:.3g}, {solution.rms_dec:.3g} mas"),
        ("expected of errors", f"{solution.expected_rms:.3g} mas"),
        ("rms of stars held out", cv),
        ("error of a position", f"{solution.error:.3g} mas, {solution.max_error:.3g} at most"),
        ("header was off by", f"{solution.header_offset:.3g} arcsec"),
        ("pixel scale", f"{scale / 1000:.6g} arcsec"),
        ("reference", solution.reference),
    ]
    relative = "positions are relative to the run's own frames" if solution.is_relative else ""
    write_facts(
        axes, facts, columns=3, warning="; ".join(text for text in (relative, failures) if text)
    )
