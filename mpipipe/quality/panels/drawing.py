"""What the panels have in common: colours, text in place of a plot, axes of a CCD, binned means."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USED = "#0072b2"
HELD_OUT = "#e69f00"
UNUSED = "#8c8c8c"
BAD = "#d55e00"
LINE = "#222222"
"""Colours that also those tell apart who see red and green alike (Okabe & Ito 2008)."""

_FEWEST_PER_BIN = 4
_LINE_HEIGHT = 15.0
"""Of facts, points."""
_VALUE_AT = 0.33
"""Where values of facts begin, in widths of a column."""
_WARNING_WIDTH = 54
"""Of warnings, letters a column."""
_MOST_LINES = 5


def say(axes: Axes, text: str, why: str = "") -> None:
    """Write in place of a plot why there is none."""
    lines = textwrap.wrap(text, 44) + (["", *textwrap.wrap(why, 60)] if why else [])
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, "\n".join(lines), transform=axes.transAxes, ha="center", va="center",
        color=BAD, fontsize=9,
    )  # fmt: skip


def say_only(figure: Figure, title: str, text: str, why: str = "") -> None:
    """Make a figure that only tells why there is nothing to draw; a small one."""
    figure.clear()
    figure.set_size_inches(8.0, 3.0)
    figure.suptitle(title)
    say(figure.subplots(), text, why)


def write_facts(
    axes: Axes, facts: Sequence[tuple[str, str]], *, columns: int = 1, warning: str = ""
) -> None:
    """Write names and values in columns, and below them what the reader should beware of."""
    axes.set_axis_off()
    n_rows = -(-len(facts) // columns)
    for k, (name, value) in enumerate(facts):
        x, row = (k // n_rows) / columns, k % n_rows
        _write(axes, x, row, name, "#555555")
        _write(axes, x + _VALUE_AT / columns, row, value, LINE)
    lines = textwrap.wrap(warning, _WARNING_WIDTH * columns)
    _write(axes, 0.0, n_rows + 0.5, "\n".join(lines[:_MOST_LINES]), BAD)


def _write(axes: Axes, x: float, row: float, text: str, colour: str) -> None:
    """Write from a place `row` lines below the axes' upper edge."""
    axes.annotate(
        text, (x, 1.0), xycoords="axes fraction", xytext=(0.0, -_LINE_HEIGHT * row),
        textcoords="offset points", color=colour, fontsize=9, va="top", in_layout=False,
    )  # fmt: skip


def frame_ccd(axes: Axes, shape: tuple[int, int]) -> None:
    """Make the axes those of a CCD of `shape` (ny, nx)."""
    ny, nx = shape
    axes.set_xlim(-0.5, nx - 0.5)
    axes.set_ylim(-0.5, ny - 0.5)
    axes.set_aspect("equal")
    axes.set_xlabel("x, pixels")
    axes.set_ylabel("y, pixels")


def round_number(value: float) -> float:
    """The largest of 1, 2, 5, 10, ... not above `value` (> 0)."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(k for k in (1, 2, 5) if k * power <= value * (1 + 1e-9)) * power


def symmetric_limit(values: np.ndarray, least: float) -> float:
    """Limit of an axis about zero that holds `values`, no smaller than `least`."""
    finite = np.abs(values[np.isfinite(values)])
    return max(least, 1.15 * float(finite.max())) if len(finite) else least


def draw_binned(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, n_bins: int = 8) -> None:
    """Draw medians of `y` with their errors in bins of `x` that hold about equally many."""
    good = np.isfinite(x) & np.isfinite(y)
    order = np.flatnonzero(good)[np.argsort(x[good], kind="stable")]
    n = min(n_bins, len(order) // _FEWEST_PER_BIN)
    if n < 2:
        return
    bins = np.array_split(order, n)
    middle = [float(np.median(x[some])) for some in bins]
    median = [float(np.median(y[some])) for some in bins]
    # Of a median of normal values, by their robust width.
    error = [
        1.2533 * 1.4826 * float(np.median(np.abs(y[some] - m))) / math.sqrt(len(some))
        for some, m in zip(bins, median, strict=True)
    ]
    axes.errorbar(
        middle, median, error, fmt="o", ms=4.5, color=colour, mec="white", mew=0.6, capsize=2,
        zorder=5,
    )  # fmt: skip
