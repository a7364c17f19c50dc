"""The panels by name, and drawing one of them to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpipipe.quality.panels.characterization import Characterization
from mpipipe.quality.panels.photometry import draw_photometry
from mpipipe.quality.panels.psf import draw_psf
from mpipipe.quality.panels.stars import draw_stars
from mpipipe.quality.panels.wcs import draw_wcs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100


@dataclass(frozen=True)
class Panel:
    """A picture that can be asked for.

    Attributes
    ----------
    size
        Width and height, inches.
    draw
        Fills the figure; never fails for what an exposure lacks.
    """

    size: tuple[float, float]
    draw: Callable[[Figure, Characterization], None]


PANELS: Mapping[str, Panel] = {
    "stars": Panel((11.5, 9.0), draw_stars),
    "psf": Panel((14.5, 9.0), draw_psf),
    "wcs": Panel((14.5, 8.5), draw_wcs),
    "photometry": Panel((14.5, 8.5), draw_photometry),
}
"""Panels by the names that a user gives."""


def draw_panel(path: Path, name: str, found: Characterization) -> None:
    """Draw one of the `PANELS` as PNG."""
    from matplotlib.figure import Figure

    panel = PANELS[name]
    # A figure of its own, beside pyplot, needs no display and leaves no state behind.
    figure = Figure(figsize=panel.size, layout="constrained")
    panel.draw(figure, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=_DPI)
