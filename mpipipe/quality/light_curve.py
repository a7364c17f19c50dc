"""A picture of the measurements of one object: flux against time, a panel a band."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpipipe.quality.panels.drawing import LINE, UNUSED, USED

_DPI = 100


def draw_light_curve(path: Path, rows: np.ndarray, title: str) -> None:
    """Draw the PSF fluxes of rows of `source` as PNG; those with a flag, but for blends, are
    hollow."""
    from matplotlib.figure import Figure

    bands = np.unique(rows["band"])
    # A figure of its own, beside pyplot, needs no display and leaves no state behind.
    figure = Figure(figsize=(9.0, 1.2 + 2.2 * max(len(bands), 1)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(max(len(bands), 1), 1, sharex=True, squeeze=False)[:, 0]
    is_flagged = np.zeros(len(rows), dtype=bool)
    for name in rows.dtype.names or ():
        if name.startswith("flag_") and name != "flag_blended":
            is_flagged |= rows[name]
    for axes, band in zip(panels, bands, strict=False):
        of_band = rows["band"] == band
        for chosen, colour, face, label in (
            (of_band & ~is_flagged, USED, USED, "sound"),
            (of_band & is_flagged, UNUSED, "none", "flagged"),
        ):
            some = rows[chosen]
            if len(some):
                axes.errorbar(
                    some["mjd"], some["psfFlux"], some["psfFluxErr"], fmt="o", ms=4, color=colour,
                    markerfacecolor=face, elinewidth=0.8, label=f"{len(some)} {label}",
                )  # fmt: skip
        sound = rows["psfFlux"][of_band & ~is_flagged]
        if np.any(np.isfinite(sound)):
            axes.axhline(np.nanmedian(sound), color=LINE, lw=0.8, ls="--")
        axes.set_ylabel(f"{band.decode('utf-8', 'replace')}: PSF flux (nJy)")
        axes.legend(loc="best", fontsize="small")
    panels[-1].set_xlabel("middle of the visit (MJD TAI)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=_DPI)
