"""Small charts as SVG text: no library draws them, so they cost nothing and scale on any screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 440.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 12.0, 12.0, 40.0
COLOURS = {
    "u": "#7a3fa0", "g": "#1f8a4c", "r": "#d0602a", "i": "#b3273f", "z": "#6b4a3a", "y": "#4a4a4a",
}  # fmt: skip
OTHER = "#2f6fb0"
INK, FAINT = "#333", "#c9ced6"


def colour_of(band: str) -> str:
    """The colour that a band is drawn in."""
    return COLOURS.get(band, OTHER)


def number(value: float, digits: int = 4) -> str:
    """A number as people read it."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from one to the other."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


class Chart:
    """Axes that marks are drawn on, with scales that were fixed before.

    Parameters
    ----------
    x, y
        From and to; y may run downwards.
    x_label, y_label
        What they are.
    x_offset
        Taken off the numbers at the ticks of x.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        x_offset: float = 0.0,
    ) -> None:
        self._x, self._y = _open(x), _open(y)
        self._marks: list[str] = []
        self._legend: list[tuple[str, str]] = []
        self._labels = x_label, y_label
        self._offset = x_offset

    def px(self, x: np.ndarray | float) -> np.ndarray:
        """Columns of values of x."""
        low, high = self._x
        return LEFT + (np.asarray(x, float) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def py(self, y: np.ndarray | float) -> np.ndarray:
        """Rows of values of y."""
        low, high = self._y
        return (
            HEIGHT - BOTTOM - (np.asarray(y, float) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        )

    def dots(
        self, x: np.ndarray, y: np.ndarray, colour: str, label: str = "", radius: float = 1.6,
        opacity: float = 0.5,
    ) -> None:  # fmt: skip
        """Points, as one path; those outside are drawn at the rim."""
        low, high = sorted(self._y)
        known = np.isfinite(x) & np.isfinite(y)
        px, py = self.px(x[known]), self.py(np.clip(y[known], low, high))
        path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(px, py, strict=True))
        self._marks.append(
            f'<path d="{path}" stroke="{colour}" stroke-width="{2 * radius}" '
            f'stroke-linecap="round" opacity="{opacity}" fill="none"/>'
        )
        self._name(label, colour)

    def line(
        self, x: np.ndarray, y: np.ndarray, colour: str, label: str = "", dashes: str = ""
    ) -> None:
        """A polyline through known points."""
        known = np.isfinite(x) & np.isfinite(y)
        points = " ".join(
            f"{a:.1f},{b:.1f}" for a, b in zip(self.px(x[known]), self.py(y[known]), strict=True)
        )
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._marks.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'
        )
        self._name(label, colour)

    def level(self, y: float, text: str) -> None:
        """A dashed line across, with words."""
        low, high = sorted(self._y)
        if low <= y <= high:
            at = float(self.py(y))
            self._marks.append(
                f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#999" stroke-dasharray="4 3"/>'
                f'<text x="{WIDTH - RIGHT - 4}" y="{at - 4:.1f}" text-anchor="end" '
                f'class="s">{escape(text)}</text>'
            )

    def _name(self, label: str, colour: str) -> None:
        if label and (label, colour) not in self._legend:
            self._legend.append((label, colour))

    def svg(self, title: str) -> str:
        """The chart."""
        return svg(WIDTH, HEIGHT, title, [*self._frame(), *self._marks, *self._key()])

    def _frame(self) -> list[str]:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="{INK}" fill="none"/>']
        for value in ticks(min(self._x), max(self._x)):
            at = float(self.px(value))
            parts.append(f'<path d="M{at:.1f} {bottom}v5" stroke="{INK}"/>')
            parts.append(_text(at, bottom + 18, number(value - self._offset), "middle"))
        for value in ticks(min(self._y), max(self._y)):
            at = float(self.py(value))
            parts.append(f'<path d="M{LEFT} {at:.1f}H{right}" stroke="{FAINT}" opacity=".6"/>')
            parts.append(_text(LEFT - 6, at + 4, number(value), "end"))
        x_label, y_label = self._labels
        parts.append(_text((LEFT + right) / 2, HEIGHT - 6, x_label, "middle"))
        middle = (TOP + bottom) / 2
        parts.append(
            f'<text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
        return parts

    def _key(self) -> list[str]:
        parts, at = [], TOP + 12
        for label, colour in self._legend:
            parts.append(
                f'<rect x="{LEFT + 10}" y="{at - 8}" width="9" height="9" fill="{colour}"/>'
            )
            parts.append(_text(LEFT + 24, at, label, "start"))
            at += 16
        return parts


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A picture with a title for who can not see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _open(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits that are not the same."""
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    return (low, high) if low != high else (low - 0.5, high + 0.5)


def heat(share: float) -> str:
    """A colour from pale (0) to dark (1), legible under black text up to about 0.7."""
    share = min(max(share, 0.0), 1.0)
    stops = np.array([[240, 246, 250], [150, 200, 222], [60, 130, 175], [20, 60, 110]], float)
    at = share * (len(stops) - 1)
    k = min(int(at), len(stops) - 2)
    red, green, blue = stops[k] + (at - k) * (stops[k + 1] - stops[k])
    return f"#{int(red):02x}{int(green):02x}{int(blue):02x}"
