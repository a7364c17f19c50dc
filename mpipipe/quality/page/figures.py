"""The figures of the page. Each gives SVG and a caption, or says why it can not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mpipipe.quality.metrics.photometric_repeatability import MMAG, VISIBLE, residuals
from mpipipe.quality.metrics.zero_points import one_second
from mpipipe.quality.page.focal_plane import Plane, arrows, cells, map_of, plane_of
from mpipipe.quality.page.svg import INK, Chart, colour_of
from mpipipe.quality.scorecard.measured import Measured, NotMeasurable
from mpipipe.quality.scorecard.repeats import MAG_PER_RELATIVE
from mpipipe.quality.scorecard.run_data import RunData
from mpipipe.quality.scorecard.scoring import Scorecard
from mpipipe.quality.scorecard.statistics import width

MOST_DOTS = 2500
MAPPED = (
    "psf.fwhm", "psf.ellipticity", "wcs.residuals", "zero_point.repeatability", "PA1", "depth",
    "completeness.20-50", "ca.amp_offset", "cr.rate",
)  # fmt: skip
"""Numbers whose CCDs are drawn on the focal plane: medians over visits."""


class Figure(NamedTuple):
    """A picture of the page.

    Attributes
    ----------
    key
        Its anchor.
    title, caption
        In words.
    svg
        The picture; empty if it could not be made, then the caption says why.
    """

    key: str
    title: str
    caption: str
    svg: str


def figures(card: Scorecard) -> list[Figure]:
    """All figures."""
    data = card.data
    made = [
        _try("magnitude-error", "Scatter of magnitudes", lambda: magnitude_error(data)),
        _try("zero-points", "Zero points in time", lambda: zero_points(data)),
        _try("wcs-residuals", "Residuals of positions", lambda: wcs_residuals(data)),
        _try("whiskers", "Ellipticity of the PSF", lambda: whiskers(data)),
        _try("residual-whiskers", "What the PSF model leaves", lambda: residual_whiskers(data)),
    ]
    return [*made, *maps(card)]


def _try(key: str, title: str, make: Callable[[], tuple[str, str]]) -> Figure:
    try:
        picture, caption = make()
    except NotMeasurable as reason:
        return Figure(key, title, f"Can not be drawn: {reason}.", "")
    return Figure(key, title, caption, picture)


def magnitude_error(data: RunData) -> tuple[str, str]:
    """Residuals of stars against magnitude, their width in bins, and the quoted errors."""
    found = data.repeats
    parts = [(band, *residuals(data, band, VISIBLE)) for band in data.bands]
    parts = [part for part in parts if len(part[1])]
    if not parts:
        raise NotMeasurable("no star was measured well in two visits")
    rows = np.concatenate([part[1] for part in parts])
    residual = np.concatenate([part[2] for part in parts])
    magnitude = found.magnitude[rows]
    limit = 4.0 * max(float(width(np.sort(residual), np.ones(len(residual), int))), 1.0)
    low, high = np.percentile(magnitude, (0.2, 99.8))
    chart = Chart((low, high), (-limit, limit), "magnitude (AB)", "magnitude − mean, mmag")
    every = -(-len(rows) // MOST_DOTS)
    for band, its_rows, its_residual in parts:
        chosen = slice(None, None, every)
        chart.dots(
            found.magnitude[its_rows][chosen],
            its_residual[chosen],
            colour_of(band),
            band,
            1.3,
            0.45,
        )
    edges = np.linspace(low, high, 13)
    middle = (edges[1:] + edges[:-1]) / 2
    which = np.digitize(magnitude, edges) - 1
    s = found.sources
    error = MMAG * MAG_PER_RELATIVE * s["psfFluxErr"][rows] / s["psfFlux"][rows]
    seen, told = np.full(12, np.nan), np.full(12, np.nan)
    for k in range(12):
        if (which == k).sum() >= 10:
            values = np.sort(residual[which == k])
            seen[k] = width(values, np.ones(len(values), int))
            told[k] = np.median(error[which == k])
    for sign in (1.0, -1.0):
        chart.line(middle, sign * seen, INK, "width")
        chart.line(middle, sign * told, "#e0a000", "quoted errors", "5 3")
    caption = (
        f"Lone stars of SNR {VISIBLE:g} and more about the mean of each in its band: "
        f"{len(rows):,} measurements"
        + (f", every {every}th drawn" if every > 1 else "")
        + ". Where the black line is above the yellow one, something beyond the quoted errors "
        "scatters."
    )
    return chart.svg("Residual magnitude against magnitude"), caption


def zero_points(data: RunData) -> tuple[str, str]:
    """Transparency of visits against time."""
    e = data.exposures
    above = one_second(data)
    known = np.isfinite(above) & np.isfinite(e["mjd"])
    if known.sum() < 2:
        raise NotMeasurable("fewer than two CCD-visits have a zero point and a time")
    lost = np.full(len(e), np.nan)
    for band in data.bands:
        of_band = known & (e["band"] == band)
        if of_band.any():
            lost[of_band] = above[of_band] - np.max(above[of_band])
    first, last = float(e["mjd"][known].min()), float(e["mjd"][known].max())
    is_night = last - first < 1.0
    unit, times = ("hours", (e["mjd"] - first) * 24.0) if is_night else ("days", e["mjd"] - first)
    deepest = min(float(np.nanmin(lost)) * 1.1, -0.02)
    span = max(float(times[known].max()), 1e-6)
    chart = Chart(
        (-0.14 * span, 1.02 * span), (deepest, -0.05 * deepest), f"{unit} after MJD {first:.4f}",
        "zero point − best, mag",
    )  # fmt: skip
    for band in data.bands:
        of_band = known & (e["band"] == band)
        chart.dots(times[of_band], lost[of_band], colour_of(band), band, 2.5, 0.8)
    caption = (
        "Zero point of every CCD-visit, exposure time and a typical extinction by airmass taken "
        "off, below the best of its band. Clouds pull it down."
    )
    return chart.svg("Zero points in time"), caption


def wcs_residuals(data: RunData) -> tuple[str, str]:
    """Mean residuals of reference stars over the focal plane."""
    plane = plane_of(data)
    matches = data.table("icMatch", ("id", "visit", "ccdNumber", "dx", "dy", "astrometry_used"))
    sources = data.table("icSrc", ("id", "visit", "ccdNumber", "x", "y"))
    order = np.argsort(sources["id"])
    if not len(order) or not len(matches["id"]):
        raise NotMeasurable("no source is matched with a reference star")
    at = np.clip(np.searchsorted(sources["id"][order], matches["id"]), 0, len(order) - 1)
    same = (sources["id"][order][at] == matches["id"]) & matches["astrometry_used"]
    row = order[at][same]
    scale = 1000.0 * float(np.nanmedian(data.by_exposure("ic.wcsDetermination.pixel_scale")))
    vectors = scale * np.stack([matches["dx"], matches["dy"]], axis=1)[same].astype(float)
    if not np.isfinite(vectors).all(axis=1).any():
        raise NotMeasurable("no exposure has a WCS found on reference stars")
    ccd = matches["ccdNumber"][same]
    places, means, counts = cells(plane, ccd, sources["x"][row], sources["y"][row], vectors)
    means = _turned(plane, places, means)
    caption = (
        "Mean over all visits of source minus reference position, by the WCS, in pieces of the "
        f"CCDs: {int(counts.sum()):,} matches. A pattern is distortion that the WCS does not "
        "follow."
    )
    return arrows(plane, places, means, "mas", "Residuals of positions"), caption


def _turned(plane: Plane, places: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vectors of pixels in the directions of the focal plane, by the CCD that is nearest."""
    apart = np.linalg.norm(places[:, None] - plane.centres[None], axis=2)
    angle = plane.angles[apart.argmin(axis=1)]
    x, y = vectors.T
    return np.stack(
        [np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], 1
    )


def _sticks(e1: np.ndarray, e2: np.ndarray) -> np.ndarray:
    """Ellipticities as vectors along the long axis, as long as the ellipticity is."""
    size, angle = np.hypot(e1, e2), 0.5 * np.arctan2(e2, e1)
    return np.stack([size * np.cos(angle), size * np.sin(angle)], axis=1)


_SHAPES = ("visit", "ccdNumber", "x", "y", "psfIxx", "psfIyy", "psfIxy")


def whiskers(data: RunData) -> tuple[str, str]:
    """Ellipticity of the PSF over the focal plane in a typical visit."""
    plane = plane_of(data)
    size = data.by_exposure("ic.psfDetermination.ellipticity")
    e = data.exposures
    known = np.flatnonzero(np.isfinite(size))
    if not len(known):
        raise NotMeasurable("no exposure has a PSF")
    typical = known[np.argsort(size[known], kind="stable")[len(known) // 2]]
    visit = int(e["visit"][typical])
    rows = data.read("src", _SHAPES, lambda chunk: chunk["visit"] == visit)
    xx, yy, xy = (rows[name].astype(float) for name in ("psfIxx", "psfIyy", "psfIxy"))
    with np.errstate(invalid="ignore", divide="ignore"):
        shape = np.stack([xx - yy, 2.0 * xy], axis=1) / (xx + yy)[:, None]
    places, means, _ = cells(plane, rows["ccdNumber"], rows["x"], rows["y"], shape)
    sticks = _turned(plane, places, _sticks(*means.T))
    mean = float(np.mean(np.hypot(*means.T))) if len(means) else float("nan")
    caption = (
        f"Of the PSF model in visit {visit} ({e['band'][typical]}), which has the median "
        f"ellipticity of the run: {mean:.3f} in the mean. Sticks lie along the long axis."
    )
    return arrows(plane, places, sticks, "ellipticity", "PSF whiskers", headless=True), caption


def residual_whiskers(data: RunData) -> tuple[str, str]:
    """Ellipticity of bright stars minus the model's over the focal plane, mean over all visits."""
    plane = plane_of(data)
    names = (*_SHAPES, "ixx", "iyy", "ixy", "snr", "extendedness", "flag_shape")

    def keep(chunk: dict[str, np.ndarray]) -> np.ndarray:
        fine = (chunk["snr"] > 100) & (chunk["extendedness"] < 0.5) & ~chunk["flag_shape"]
        return np.asarray(fine)

    rows = data.read("src", names, keep)
    shapes = []
    for prefix in ("ixx", "iyy", "ixy"), ("psfIxx", "psfIyy", "psfIxy"):
        xx, yy, xy = (rows[name].astype(float) for name in prefix)
        with np.errstate(invalid="ignore", divide="ignore"):
            shapes.append(np.stack([xx - yy, 2.0 * xy], axis=1) / (xx + yy)[:, None])
    shape = shapes[0] - shapes[1]
    shape[~(np.abs(shape) < 0.1).all(axis=1)] = np.nan
    if not np.isfinite(shape).all(axis=1).any():
        raise NotMeasurable("no bright star has a shape")
    places, means, counts = cells(plane, rows["ccdNumber"], rows["x"], rows["y"], shape)
    sticks = _turned(plane, places, _sticks(*means.T))
    caption = (
        f"Ellipticity of {int(counts.sum()):,} stars of SNR 100 and more minus the model's, mean "
        "over all visits in pieces of the CCDs. Sticks that agree with their neighbours are what "
        "the model does not follow."
    )
    return arrows(plane, places, sticks, "ellipticity", "Residual whiskers", headless=True), caption


def maps(card: Scorecard) -> list[Figure]:
    """Maps of numbers on the focal plane, of those that CCDs stand behind."""
    try:
        plane = plane_of(card.data)
    except NotMeasurable as reason:
        return [Figure("focal-plane", "Focal plane", f"Can not be drawn: {reason}.", "")]
    if len(plane.names) == 1:
        alone = "The run has one CCD: what would be a map of it stands in the tables."
        return [Figure("focal-plane", "Focal plane", alone, "")]
    found = []
    for name in MAPPED:
        several = [
            one for one in card.measured if one.name == name or one.name.startswith(f"{name}.")
        ]
        rows = [one for one in several if len(one.ccds)]
        if not rows:
            continue
        values = {ccd: _median_of(rows, ccd) for ccd in plane.names}
        unit = f", {rows[0].unit}" if rows[0].unit else ""
        title = rows[0].title if len(several) == 1 else rows[0].title.rpartition(",")[0]
        bands = ", ".join(one.name.rpartition(".")[2] for one in rows)
        caption = f"Median over visits{f' in {bands}' if len(several) > 1 else ''}."
        picture = map_of(plane, values, f"{title} on the focal plane")
        found.append(Figure(f"map-{name}", f"{title}{unit}", caption, picture))
    return found


def _median_of(rows: list[Measured], ccd: str) -> float:
    values = np.concatenate([one.ccds["value"][one.ccds["ccd"] == ccd] for one in rows])
    return float(np.median(values)) if len(values) else float("nan")
