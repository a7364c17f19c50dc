"""A picture of photometry beside other programs: bias, scatter and completeness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _completeness import EDGES, together
from _photometry import MODEL, OURS, SEXTRACTOR, USUAL, Offsets, Photometry
from _truth import spread

from mpipipe.data.photo_calib import MAG_PER_RELATIVE

BINS = np.arange(16.5, 25.01, 0.5)
FEWEST = 12
"""Stars that a point is drawn from."""
_COLOURS = {
    OURS: "#d1495b", SEXTRACTOR: "#30638e", MODEL: "#7b4fa3", USUAL: "#7fb2d9", "sep": "#e0a030",
    "photutils": "#8d9b4e",
}  # fmt: skip


def draw(scores: Mapping[str, Photometry], path: Path) -> None:
    """Bias, scatter over photon noise, and completeness; stars, PSF magnitudes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (bias, scatter, found) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for name, score in scores.items():
        if "psfFlux" in score.stars:
            _draw_stars(bias, scatter, name, score.star("psfFlux").finite())
        if name != MODEL:
            _draw_completeness(found, name, score)
    bias.axhline(0, color="0.7", lw=0.8, zorder=0)
    bias.set(xlabel="true magnitude", ylabel="median of measured - true, mmag", ylim=(-25, 25))
    bias.set_title("bias of PSF magnitudes of lone stars")
    scatter.axhline(1, color="0.7", lw=0.8, zorder=0)
    scatter.set(xlabel="true magnitude", ylabel="scatter / photon noise", ylim=(0.8, 2.2))
    scatter.set_title("their scatter")
    found.set(xlabel="true SNR", ylabel="share found", ylim=(0, 1.02), xscale="log")
    found.set_xticks(EDGES[:-1], [f"{edge:g}" for edge in EDGES[:-1]])
    found.minorticks_off()
    found.set_title("completeness (purity in the legend)")
    for axes in (bias, scatter, found):
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_stars(bias: Any, scatter: Any, name: str, stars: Offsets) -> None:
    rows = []
    for low, high in zip(BINS, BINS[1:], strict=False):
        some = stars.between("mag", float(low), float(high))
        # Nearer the limit those are left that noise has made bright.
        if len(some.off) < FEWEST or np.median(some.snr) < 10:
            continue
        middle, width = float(np.median(some.off)), spread(some.off)
        photon = spread(some.off * some.snr / MAG_PER_RELATIVE)
        rows.append(((low + high) / 2, middle, 1.25 * width / np.sqrt(len(some.off)), photon))
    if rows:
        mag, middle, error, ratio = np.array(rows).T
        how = {"color": _COLOURS[name], "label": name, "marker": "o", "ms": 4}
        bias.errorbar(mag, 1e3 * middle, 1e3 * error, lw=1.2, **how)
        scatter.plot(mag, ratio, lw=1.2, **how)


def _draw_completeness(axes: Any, name: str, score: Photometry) -> None:
    found = together(score.detected)
    edges = np.array([*EDGES[:-1], 2 * EDGES[-2]])
    label = f"{name} ({found.purity:.3f})"
    middle = np.sqrt(edges[:-1] * edges[1:])
    axes.plot(middle, found.completeness, color=_COLOURS[name], marker="o", ms=4, label=label)
