"""Pictures on the focal plane: maps of numbers, residual vectors, PSF whiskers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mpipipe.quality.page.svg import INK, heat, number, svg
from mpipipe.quality.scorecard.measured import NotMeasurable
from mpipipe.quality.scorecard.run_data import RunData

SIDE = 380.0
_MARGIN = 8.0
_UNKNOWN = "#eee"
_LEAST_RANGE = 0.1
"""Of the colours, as a share of the numbers."""
CELLS_ALONE, CELLS_SMALL = 8, 4
"""Cells a side of a CCD in which vectors are averaged: of a single CCD, of one of several."""


@dataclass(frozen=True, eq=False)
class Plane:
    """The CCDs that a run has, on the page.

    Attributes
    ----------
    names, numbers
        Of the CCDs.
    centres
        (n, 2) on the focal plane, mm.
    sizes
        (n, 2) mm.
    angles
        Rotations, radians.
    pixel
        (n,) mm.
    shapes
        (n, 2) nx, ny.
    """

    names: list[str]
    numbers: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    angles: np.ndarray
    pixel: np.ndarray
    shapes: np.ndarray

    def place(self, which: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n, 2) focal-plane mm of pixels of CCDs (by their place in the list)."""
        nx, ny = self.shapes[which].T
        u, v = (x - (nx - 1) / 2) * self.pixel[which], (y - (ny - 1) / 2) * self.pixel[which]
        cos, sin = np.cos(self.angles[which]), np.sin(self.angles[which])
        return np.asarray(
            self.centres[which] + np.stack([cos * u - sin * v, sin * u + cos * v], axis=1)
        )

    @property
    def limits(self) -> tuple[np.ndarray, float]:
        """Middle of what is drawn, and pixels of the page a mm."""
        half = self.sizes.max(axis=1, keepdims=True) / 2
        low, high = (self.centres - half).min(axis=0), (self.centres + half).max(axis=0)
        scale = (SIDE - 2 * _MARGIN) / max(float((high - low).max()), 1e-9)
        return (low + high) / 2, scale

    def on_page(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) mm to the picture; y points up on the focal plane and down on the page."""
        middle, scale = self.limits
        return np.asarray(SIDE / 2 + (points - middle) * scale * np.array([1.0, -1.0]))


def plane_of(data: RunData) -> Plane:
    """The CCDs of a run.

    Raises
    ------
    NotMeasurable
        If places of CCDs are not known, or nothing has an image.
    """
    camera, e = data.camera, data.exposures
    if camera is None:
        raise NotMeasurable("the camera's description is missing: places of CCDs are not known")
    seen = e[e["has_image"] & (e["number"] >= 0)]
    names, first = np.unique(seen["ccd"], return_index=True)
    if not len(names):
        raise NotMeasurable("no CCD has an image")
    detectors = [camera.detector(name) for name in names.tolist()]
    shapes = np.stack([seen["nx"][first], seen["ny"][first]], axis=1).astype(float)
    pixel = np.array([camera.type_of(d).pixel_size_um / 1000.0 for d in detectors])
    centres = np.array([(d.x_mm, d.y_mm) for d in detectors], float)
    return Plane(
        names.tolist(), seen["number"][first], centres, shapes * pixel[:, None],
        np.radians([d.rotation_deg for d in detectors]), pixel, shapes,
    )  # fmt: skip


def _outline(plane: Plane, k: int, fill: str, title: str = "") -> str:
    x, y = plane.on_page(plane.centres[k][None])[0]
    width, height = plane.sizes[k] * plane.limits[1]
    turn = -math.degrees(plane.angles[k])
    told = f"<title>{title}</title>" if title else ""
    return (
        f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" transform="rotate({turn:g} {x:.1f} {y:.1f})" fill="{fill}" '
        f'stroke="{INK}" stroke-width=".7">{told}</rect>'
    )


def map_of(plane: Plane, values: dict[str, float], title: str) -> str:
    """CCDs in colours of their numbers, with the numbers where there is room."""
    from html import escape

    known = np.array([v for v in values.values() if math.isfinite(v)])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    # CCDs that hardly differ look alike.
    extra = max(0.0, _LEAST_RANGE * abs(low + high) / 2 - (high - low)) / 2
    low, high = low - extra, high + extra
    parts = []
    for k, name in enumerate(plane.names):
        value = values.get(name, math.nan)
        share = 0.35 if high == low else 0.75 * (value - low) / (high - low)
        fill = heat(share) if math.isfinite(value) else _UNKNOWN
        parts.append(_outline(plane, k, fill, escape(f"{name}: {number(value)}")))
        width = plane.sizes[k][0] * plane.limits[1]
        if width > 34:
            x, y = plane.on_page(plane.centres[k][None])[0]
            size = min(15.0, width / 5)
            ink = "#fff" if share > 0.5 else INK
            parts.append(
                f'<text x="{x:.1f}" y="{y + size / 3:.1f}" text-anchor="middle" fill="{ink}" '
                f'style="font-size:{size:.1f}px">{number(value, 3)}</text>'
            )
    return svg(SIDE, SIDE, title, parts)


def cells(
    plane: Plane, number_of_ccd: np.ndarray, x: np.ndarray, y: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of rows of numbers in cells of the CCDs.

    Returns
    -------
    places
        (n, 2) mm, of the middles of cells that have rows.
    means
        (n, columns).
    counts
        Rows of each.
    """
    order = np.argsort(plane.numbers)
    at = np.clip(np.searchsorted(plane.numbers[order], number_of_ccd), 0, len(order) - 1)
    which = order[at]
    known = (plane.numbers[which] == number_of_ccd) & np.isfinite(values).all(axis=1)
    which, x, y, values = which[known], x[known], y[known], values[known]
    n = CELLS_ALONE if len(plane.names) == 1 else CELLS_SMALL
    nx, ny = plane.shapes[which].T
    i, j = (np.clip((part / size * n).astype(int), 0, n - 1) for part, size in ((x, nx), (y, ny)))
    cell, inverse = np.unique((which * n + j) * n + i, return_inverse=True)
    counts = np.bincount(inverse, minlength=len(cell))
    means = np.stack([np.bincount(inverse, column, len(cell)) / counts for column in values.T], 1)
    ccd = cell // (n * n)
    middle_x = (cell % n + 0.5) / n * plane.shapes[ccd, 0] - 0.5
    middle_y = (cell // n % n + 0.5) / n * plane.shapes[ccd, 1] - 0.5
    return plane.place(ccd, middle_x, middle_y), means, counts


def arrows(
    plane: Plane, places: np.ndarray, vectors: np.ndarray, unit: str, title: str,
    *, headless: bool = False,
) -> str:  # fmt: skip
    """Vectors (or, headless, sticks about their places) with a scale."""
    parts = [_outline(plane, k, "#fff") for k in range(len(plane.names))]
    if len(vectors):
        longest = float(np.percentile(np.hypot(*vectors.T), 95)) or 1.0
        shown = float(f"{longest:.1g}")
        scale = 0.9 * _spacing(plane) / longest
        steps = vectors * scale * np.array([1.0, -1.0])
        for (x, y), (dx, dy) in zip(plane.on_page(places), steps, strict=True):
            if headless:
                parts.append(
                    f'<path d="M{x - dx / 2:.1f} {y - dy / 2:.1f}l{dx:.1f} {dy:.1f}" '
                    'stroke="#1f5f9e" stroke-width="1.5"/>'
                )
                continue
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.6" fill="#1f5f9e"/>'
                f'<path d="M{x:.1f} {y:.1f}l{dx:.1f} {dy:.1f}" stroke="#1f5f9e" '
                'stroke-width="1.4"/>'
            )
        length = shown * scale
        parts.append(
            f'<path d="M{_MARGIN + 6} {SIDE + 14}h{length:.1f}" stroke="#b3273f" stroke-width="2"/>'
            f'<text x="{_MARGIN + 14 + length:.1f}" y="{SIDE + 18}">{number(shown)} {unit}</text>'
        )
    return svg(SIDE, SIDE + 24, title, parts)


def _spacing(plane: Plane) -> float:
    """Distance of cells on the page."""
    n = CELLS_ALONE if len(plane.names) == 1 else CELLS_SMALL
    return float(plane.sizes.min() * plane.limits[1] / n)
