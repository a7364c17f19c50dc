"""Panel ``psf``: the model over the field, and what it leaves of the stars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpipipe.data import mask as mask_planes
from mpipipe.data.exposure import Exposure
from mpipipe.data.moments import adaptive_moments
from mpipipe.data.psf import Psf
from mpipipe.quality.panels.characterization import Characterization
from mpipipe.quality.panels.drawing import (
    HELD_OUT,
    LINE,
    USED,
    draw_binned,
    frame_ccd,
    round_number,
    say,
    say_only,
    symmetric_limit,
)
from mpipipe.stages.ic.psf_stars import PsfStars, cut_stars
from mpipipe.stages.psf_photometry import Pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNUSABLE = mask_planes.bits("BAD", "NO_DATA", "SAT")
_FWHM_OF_SIGMA = 2.354820045
_CELLS = 5
"""Models along the longer side of the CCD."""
_MAP = 13
"""Places along it where size and shape are told."""
_DEPTH = 1e-4
"""Lowest value that is shown, of the peak's."""
_LEAST_RESIDUAL = 0.005


@dataclass(frozen=True)
class _Residuals:
    """Stars beside the model at their places.

    Attributes
    ----------
    stars
        Cut out of the exposure.
    models
        (n, size, size), on the stamps' pixels, sum 1 inside the calibration radius.
    size
        (n,) dT/T, T = ixx + iyy, star minus model; NaN where not measured.
    magnitude
        (n,) of the stars.
    """

    stars: PsfStars
    models: np.ndarray
    size: np.ndarray
    magnitude: np.ndarray

    @property
    def normalised(self) -> np.ndarray:
        """(n, size, size) star minus model in units of the star's flux; NaN where bad."""
        shares = self.stars.stamps / self.stars.flux[:, None, None]
        return np.where(self.stars.bad, np.nan, shares - self.models)


def draw_psf(figure: Figure, found: Characterization) -> None:
    """Draw the PSF over the field and its residuals at stars."""
    psf = found.psf
    if psf is None:
        say_only(figure, f"{found.title}: PSF", "this exposure has no PSF", found.failures or "")
        return
    axes = figure.subplot_mosaic(
        [["models", "shape", "profile"], ["used", "held out", "size"]], height_ratios=(1.1, 1.0)
    )
    stars = "a guess: no star stands behind it" if psf.is_guess else f"of {psf.n_stars:,} stars"
    figure.suptitle(
        f"{found.title}: PSF, kind {psf.kind}, {stars}; FWHM {psf.fwhm:.2f} pixels at the middle"
    )
    _models(axes["models"], psf)
    _shape(axes["shape"], psf)
    _stars(axes, found, psf)


def _grid(shape: tuple[int, int], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Middles of about square cells over a CCD: x of the columns, y of the rows."""
    ny, nx = shape
    n_x, n_y = (max(2, round(longest * side / max(shape))) for side in (nx, ny))
    return (np.arange(n_x) + 0.5) * nx / n_x - 0.5, (np.arange(n_y) + 0.5) * ny / n_y - 0.5


def _models(axes: Axes, psf: Psf) -> None:
    """Images of the model, each in its part of the CCD."""
    from matplotlib.colors import LogNorm

    columns, rows = _grid(psf.shape, _CELLS)
    x, y = np.meshgrid(np.round(columns), np.round(rows))
    images = psf.images(x.ravel(), y.ravel())
    half = min(psf.size // 2, int(np.ceil(2.2 * psf.fwhm)))
    middle = slice(psf.size // 2 - half, psf.size // 2 + half + 1)
    images = images[:, middle, middle]
    images = images / images.max(axis=(1, 2), keepdims=True)
    side = 2 * half + 2  # a line of no value parts them
    tiles = np.full((len(images), side, side), np.nan)
    tiles[:, 1:, 1:] = np.maximum(images, _DEPTH)
    by_row = tiles.reshape(len(rows), len(columns), side, side).swapaxes(1, 2)
    montage = by_row.reshape(len(rows) * side, len(columns) * side)
    picture = axes.imshow(montage, origin="lower", cmap="inferno", norm=LogNorm(_DEPTH, 1.0))
    axes.figure.colorbar(picture, ax=axes, label="of the peak", shrink=0.9)
    middles = side * np.arange(max(len(rows), len(columns))) + 0.5 * side
    axes.set_xticks(middles[: len(columns)], [f"{v:.0f}" for v in columns])
    axes.set_yticks(middles[: len(rows)], [f"{v:.0f}" for v in rows])
    axes.set_xlabel("x, pixels")
    axes.set_ylabel("y, pixels")
    axes.set_title("the model over the CCD", fontsize=10)


def _shape(axes: Axes, psf: Psf) -> None:
    """FWHM as a map, with a whisker along the longer axis wherever it is told."""
    columns, rows = _grid(psf.shape, _MAP)
    x, y = np.meshgrid(columns, rows)
    ixx, iyy, ixy = psf.moments(x.ravel(), y.ravel()).T
    trace = ixx + iyy
    e1, e2 = (ixx - iyy) / trace, 2 * ixy / trace
    fwhm = _FWHM_OF_SIGMA * np.maximum(ixx * iyy - ixy**2, 0.0) ** 0.25
    if not np.isfinite(fwhm).any():
        say(axes, "the model has no moments")
        return
    low, high = float(np.nanmin(fwhm)), float(np.nanmax(fwhm))
    margin = max(0.0, 0.005 * high - 0.5 * (high - low))
    ny, nx = psf.shape
    picture = axes.imshow(
        fwhm.reshape(x.shape), origin="lower", extent=(-0.5, nx - 0.5, -0.5, ny - 0.5),
        cmap="YlGnBu", vmin=low - margin, vmax=high + margin, interpolation="nearest",
    )  # fmt: skip
    axes.figure.colorbar(picture, ax=axes, label="FWHM, pixels", shrink=0.9)
    size = np.hypot(e1, e2)
    angle = 0.5 * np.arctan2(e2, e1)
    longest = max(float(np.nanmax(size)), 1e-3)
    whiskers = axes.quiver(
        x.ravel(), y.ravel(), size * np.cos(angle), size * np.sin(angle), color="#c0143c",
        angles="xy", scale_units="xy", scale=longest * _MAP / (1.1 * max(psf.shape)), pivot="mid",
        headwidth=0, headlength=0, headaxislength=0, width=0.005,
    )  # fmt: skip
    key = round_number(longest)
    axes.quiverkey(whiskers, 0.83, 1.04, key, f"{key:g}", labelpos="E", coordinates="axes")
    axes.set_title("FWHM, and ellipticity as whiskers", fontsize=10, loc="left")
    frame_ccd(axes, psf.shape)


def _stars(axes: dict[str, Axes], found: Characterization, psf: Psf) -> None:
    """All that needs stars: residuals, sizes, the profile."""
    absent = found.no_catalogue if found.sources is None else ""
    parts = {}
    for name, column in (("used", "calib_psf_used"), ("held out", "calib_psf_reserved")):
        what = "stars of the model" if name == "used" else "stars held out of it"
        rows = None if found.sources is None else found.sources[found.sources[column]]
        parts[name] = None if rows is None else _residuals(found, psf, rows)
        _stacked(axes[name], parts[name], what, absent or f"no {what}")
    _sizes(axes["size"], parts, found, absent or "no star to compare the model's size with")
    profile = parts["used"] or parts["held out"]
    _profile(axes["profile"], profile, psf, absent or "no star to compare the model with")


def _residuals(found: Characterization, psf: Psf, rows: np.ndarray) -> _Residuals | None:
    """Stars beside the model; None if there are none with a flux and sound pixels in the middle."""
    rows = rows[rows["psfInstFlux"] > 0]
    x, y, flux = rows["x"], rows["y"], rows["psfInstFlux"]
    stars = cut_stars(_pixels(found.calexp), x, y, flux, psf.radius, psf.fwhm)
    sound = ~stars.bad[:, stars.half, stars.half]
    if not sound.any():
        return None
    rows, stars, flux = rows[sound], stars.take(sound), flux[sound]
    models = _on_stamps(psf.images(rows["x"], rows["y"]), stars.size)
    seen = adaptive_moments(np.where(stars.bad, flux[:, None, None] * models, stars.stamps))
    told = adaptive_moments(models)
    size = (seen[:, 0] + seen[:, 1]) / (told[:, 0] + told[:, 1]) - 1
    return _Residuals(stars, models, size, found.magnitudes(rows)[0])


def _pixels(calexp: Exposure) -> Pixels:
    unusable = ((calexp.mask & _UNUSABLE) != 0) | ~np.isfinite(calexp.image)
    return Pixels(calexp.image, calexp.variance, unusable)


def _on_stamps(images: np.ndarray, size: int) -> np.ndarray:
    """Images cut, or padded by zeros, about their middle to this side."""
    lacking = max(0, (size - images.shape[1]) // 2)
    images = np.pad(images, ((0, 0), (lacking, lacking), (lacking, lacking)))
    extra = (images.shape[1] - size) // 2
    return images[:, extra : extra + size, extra : extra + size]


def _stacked(axes: Axes, found: _Residuals | None, what: str, absent: str) -> None:
    """The median residual of stars, in units of the peak."""
    if found is None:
        say(axes, absent)
        return
    seen = found.normalised
    covered = np.isfinite(seen).any(axis=0)
    stack = np.full(seen.shape[1:], np.nan)
    stack[covered] = np.nanmedian(seen[:, covered], axis=0)
    stack /= found.models.mean(axis=0).max()
    limit = symmetric_limit(stack, _LEAST_RESIDUAL)
    half = found.stars.half + 0.5
    picture = axes.imshow(
        100 * stack, origin="lower", cmap="RdBu_r", vmin=-100 * limit, vmax=100 * limit,
        extent=(-half, half, -half, half),
    )  # fmt: skip
    axes.figure.colorbar(picture, ax=axes, label="% of the peak", shrink=0.9)
    inside = np.hypot(*np.mgrid[-half + 0.5 : half, -half + 0.5 : half]) < found.stars.fwhm
    rms = 100 * float(np.sqrt(np.nanmean(stack[inside] ** 2)))
    axes.set_title(
        f"median residual, {len(seen):,} {what}\nrms within 1 FWHM {rms:.2f} % of the peak",
        fontsize=10,
    )
    axes.set_xlabel("pixels")


def _sizes(
    axes: Axes, parts: dict[str, _Residuals | None], found: Characterization, absent: str
) -> None:
    """Sizes of stars relative to the model's against magnitude."""
    drawn = [part for part in parts.values() if part is not None]
    if not drawn or found.sources is None:
        say(axes, absent)
        return
    for (name, part), colour in zip(parts.items(), (USED, HELD_OUT), strict=True):
        if part is None:
            continue
        median = 100 * float(np.nanmedian(part.size)) if np.isfinite(part.size).any() else np.nan
        label = f"{name}: median {median:+.2f} %"
        axes.plot(part.magnitude, 100 * part.size, ".", color=colour, ms=4, alpha=0.6, label=label)
    together = [np.concatenate([getattr(p, name) for p in drawn]) for name in ("magnitude", "size")]
    draw_binned(axes, together[0], 100 * together[1], LINE)
    spread = together[1][np.isfinite(together[1])]
    limit = 100 * (float(np.percentile(np.abs(spread), 97)) if len(spread) else 0.01)
    axes.set_ylim(-1.3 * limit, 1.3 * limit)
    axes.axhline(0, color=LINE, lw=0.7)
    axes.set_title("size T of stars, relative to the model's", fontsize=10)
    axes.set_xlabel(found.magnitudes(found.sources[:0])[1])
    axes.set_ylabel("(T star − T model) / T model, %")
    axes.legend(fontsize=8, loc="upper left")


def _profile(axes: Axes, found: _Residuals | None, psf: Psf, absent: str) -> None:
    """The profile of the stars and of the model at the same places."""
    if found is None:
        say(axes, absent)
        return
    stars = found.stars
    offset = np.arange(-stars.half, stars.half + 1)
    dx = offset[None, None, :] - (stars.x - stars.middle_x)[:, None, None]
    dy = offset[None, :, None] - (stars.y - stars.middle_y)[:, None, None]
    good = ~stars.bad
    bins = np.round(2 * np.hypot(dx, dy)).astype(int)[good]
    shares = (stars.stamps / stars.flux[:, None, None])[good]
    order = np.argsort(bins, kind="stable")
    starts = np.flatnonzero(np.diff(bins[order], prepend=-1))
    radius = 0.5 * bins[order][starts]
    lists = np.split(shares[order], starts[1:])
    seen = np.array([np.median(values) for values in lists])
    told = np.array([values.mean() for values in np.split(found.models[good][order], starts[1:])])
    inside = radius <= psf.radius
    peak = told[0]
    axes.plot(radius[inside], told[inside] / peak, color=LINE, lw=1.2, label="model")
    axes.plot(radius[inside], seen[inside] / peak, "o", color=USED, ms=4, label="stars, median")
    axes.set_yscale("log")
    axes.set_ylim(max(0.3 * float(told[inside].min() / peak), _DEPTH), 2.0)
    axes.axvline(0.5 * psf.fwhm, color=LINE, lw=0.7, ls=":", label="FWHM / 2")
    axes.set_title("profile up to the calibration radius", fontsize=10)
    axes.set_xlabel("radius, pixels")
    axes.set_ylabel("of the peak")
    axes.legend(fontsize=8)
