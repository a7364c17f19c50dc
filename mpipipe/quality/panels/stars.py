"""Panel ``stars``: the exposure, and which of its stars made PSF, WCS and zero point."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from mpipipe.quality.panels.characterization import Characterization
from mpipipe.quality.panels.drawing import BAD, HELD_OUT, frame_ccd
from mpipipe.quality.preview import draw_stretched

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLAGGED = ("edge", "bad", "cr", "interpolated", "suspect", "streak", "crowded", "centroid")
_MANY = 400
"""Stars from which markers shrink."""


def draw_stars(figure: Figure, found: Characterization) -> None:
    """Draw the exposure with its stars marked by what they were used for."""
    axes = figure.subplots()
    draw_stretched(axes, found.calexp.image, f"{found.title}: stars of the calibration")
    frame_ccd(axes, found.calexp.shape)
    if found.sources is None:
        _add_to_title(axes, found.no_catalogue)
    elif not len(found.sources):
        _add_to_title(axes, f"no source was found. {found.failures or ''}")
    else:
        _mark(axes, found.sources, found.matched_sources()[0])
        figure.legend(
            loc="outside right center", title=f"{len(found.sources):,} bright sources,\nof them:",
            alignment="left", fontsize=9, labelspacing=1.2, frameon=False,
        )  # fmt: skip


def _add_to_title(axes: Axes, text: str) -> None:
    title = "\n".join([axes.get_title(), *textwrap.wrap(text, 110)[:3]])
    axes.set_title(title, fontsize=10, color=BAD)


def _mark(axes: Axes, sources: np.ndarray, matched: np.ndarray) -> None:
    """Mark the stars, each use by a sign that can be seen around or inside the others."""
    scale = min(1.0, np.sqrt(_MANY / len(sources)))
    wcs, zero_point = matched["calib_astrometry_used"], matched["calib_photometry_used"]
    flagged = np.any([sources[f"flag_{name}"] for name in _FLAGGED], axis=0)
    saturated = sources["flag_saturated"]
    signs = (
        ("flagged", sources[flagged & ~saturated], "x", 16.0, "#f0a0a0"),
        ("saturated", sources[saturated], "x", 80.0, BAD),
        ("matched, in neither fit", matched[~wcs & ~zero_point], "o", 130.0, "#c8c8c8"),
        ("made the WCS", matched[wcs], "o", 130.0, "#56c8ff"),
        ("made the zero point", matched[zero_point], "s", 260.0, "#5fe0a8"),
        ("made the PSF", sources[sources["calib_psf_used"]], "D", 30.0, "#ffe14d"),
        ("held out of the PSF", sources[sources["calib_psf_reserved"]], "d", 50.0, HELD_OUT),
    )
    for label, rows, marker, size, colour in signs:
        filled = marker in "xd"
        axes.scatter(
            rows["x"], rows["y"], s=size * scale, marker=marker,
            facecolors=colour if filled else "none", edgecolors=None if filled else colour,
            linewidths=1.0, label=f"{len(rows):,} {label}",
        )  # fmt: skip
