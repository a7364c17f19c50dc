"""PNG previews of exposures: before and after, on a scale that shows sky and stars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpipipe.data import mask as mask_planes
from mpipipe.data.exposure import Exposure
from mpipipe.data.raw import RawFrame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_SIDE = 1400


def raw_mosaic(frame: RawFrame) -> np.ndarray:
    """The raw channels of a CCD put in their places, in ADU, nothing corrected.

    Returns
    -------
    numpy.ndarray
        (ny, nx) float32; NaN where no channel lands.
    """
    mosaic = np.full(frame.shape, np.nan, dtype=np.float32)
    for channel in frame.channels:
        target = channel.detsec
        data = channel.datasec.cut(channel.pixels)
        mosaic[target.slices] = data[:: -1 if target.flip_y else 1, :: -1 if target.flip_x else 1]
    return mosaic[::-1] if frame.flip_y_after_assembly else mosaic


def draw_before_after(path: Path, before: np.ndarray, calexp: Exposure) -> None:
    """Draw a raw mosaic beside its calibrated exposure, with the planes of the mask beside.

    Parameters
    ----------
    path
        PNG file to write.
    before
        (ny, nx), see `raw_mosaic`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(16, 6), layout="constrained")
    info = calexp.info
    raw = f"raw, first snap: visit {info.visit}, {info.detector} {info.band}"
    draw_stretched(axes[0], before, raw)
    draw_stretched(axes[1], calexp.image, "calexp: corrected, cosmic rays and sky removed")
    _show_mask(axes[2], calexp.mask)
    for each in axes:
        each.set_xticks([])
        each.set_yticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _reduced(image: np.ndarray) -> np.ndarray:
    step = max(1, -(-max(image.shape) // _MAX_SIDE))
    return image[::step, ::step]


def draw_stretched(axes: Axes, image: np.ndarray, title: str) -> None:
    """Draw an image, its sky in the middle of the greys and bright stars white; asinh stretch.

    The axes count its pixels; where there are more than can be seen, some are left out.
    """
    sample = image[::4, ::4]
    if not np.isfinite(sample).any():
        sample = np.zeros((1, 1))
    low, middle = np.nanpercentile(sample, (0.5, 50))
    high = np.nanpercentile(sample, 99.5)
    stretched = np.arcsinh((_reduced(image) - middle) / max(middle - low, 1e-6))
    limits = np.arcsinh((np.array([low, high]) - middle) / max(middle - low, 1e-6))
    ny, nx = image.shape
    axes.imshow(
        stretched, origin="lower", cmap="gray", vmin=limits[0], vmax=limits[1],
        extent=(-0.5, nx - 0.5, -0.5, ny - 0.5),
    )  # fmt: skip
    axes.set_title(title, fontsize=10)


_COLOURS = {
    "DETECTED": (0.35, 0.55, 0.85),
    "BAD": (0.6, 0.6, 0.6),
    "VIGNETTED": (0.45, 0.45, 0.45),
    "CROSSTALK": (0.9, 0.8, 0.3),
    "STREAK": (0.7, 0.3, 0.8),
    "DETECTED_STREAK": (0.7, 0.3, 0.8),
    "SAT": (0.95, 0.55, 0.2),
    "CR": (0.9, 0.2, 0.2),
}


def _show_mask(axes: Axes, mask: np.ndarray) -> None:
    step = max(1, -(-max(mask.shape) // _MAX_SIDE))
    picture = np.ones((*mask[::step, ::step].shape, 3))
    for plane, colour in _COLOURS.items():
        hit = mask_planes.is_set(mask, plane)
        # A plane of single pixels would vanish between the rows and columns that are drawn.
        rows = np.add.reduceat(hit, np.arange(0, hit.shape[0], step), axis=0, dtype=np.int32)
        cells = np.add.reduceat(rows, np.arange(0, hit.shape[1], step), axis=1)
        picture[cells > 0] = colour
        axes.plot([], [], "s", color=colour, label=f"{plane} ({hit.sum():,} pixels)")
    axes.imshow(picture, origin="lower")
    axes.legend(fontsize=8, loc="upper right", framealpha=0.9)
    axes.set_title("mask", fontsize=10)
