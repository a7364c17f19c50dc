"""What is in a simulation, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpipipe.sim.describe import Simulation, depth
from mpipipe.sim.lightcurves import Variability
from mpipipe.sim.sky import GALAXY, STAR, magnitudes_at
from mpipipe.sim.survey import BANDS
from mpipipe.store.fits import write_bytes_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_N_CURVES = 5
_COLOURS = dict(
    zip(
        BANDS,
        ("tab:purple", "tab:green", "tab:red", "tab:orange", "tab:brown", "black"),
        strict=True,
    )
)


def draw(found: Simulation, path: Path) -> None:
    """A picture of sky, counts, colours, visits, light curves, motions, depth and clouds, as PNG.

    Raises
    ------
    OutputError
        If it can not be written.
    """
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 12), layout="constrained")
    axes = figure.subplots(3, 3).ravel()
    panels = (_sky, _counts, _colours, _nights, _depths, _extinction, _curves, _motions, _bodies)
    for panel, place in zip(panels, axes, strict=True):
        panel(found, place)
    survey = found.survey
    figure.suptitle(
        f"{survey.preset}, seed {survey.seed}: {len(found.visits)} visits, {survey.n_ccds} CCDs"
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    write_bytes_atomically(path, buffer.getvalue())


def _sky(found: Simulation, axes: Axes) -> None:
    objects = found.objects[found.objects["mag_r"] < 21]
    size = 0.4 * np.clip(23 - objects["mag_r"], 1, 10) ** 1.5
    for kind, name in ((STAR, "point sources"), (GALAXY, "galaxies")):
        chosen = objects["kind"] == kind
        where = objects["ra"][chosen], objects["dec"][chosen]
        axes.scatter(*where, size[chosen], lw=0, alpha=0.6, label=name)
    pointings = [v["ra"] for v in found.visits], [v["dec"] for v in found.visits]
    axes.plot(*pointings, "k+", ms=8, label="pointings")
    axes.invert_xaxis()
    axes.set_aspect(1.0 / np.cos(np.radians(found.survey.dec)))
    axes.ticklabel_format(useOffset=False)
    axes.set(xlabel="ra [deg]", ylabel="dec [deg]", title="the sky to r = 21")
    axes.legend(fontsize=8, loc="upper right")


def _counts(found: Simulation, axes: Axes) -> None:
    edges = np.arange(12.0, 28.5, 0.5)
    for kind, name in ((STAR, "point sources"), (GALAXY, "galaxies")):
        mag = found.objects["mag_r"][found.objects["kind"] == kind]
        axes.stairs(np.histogram(mag, edges)[0], edges, label=name)
    axes.set(yscale="log", xlabel="r [mag]", ylabel="objects in 0.5 mag", title="counts")
    axes.legend(fontsize=8)


def _colours(found: Simulation, axes: Axes) -> None:
    for kind, name, colour in ((GALAXY, "galaxies", "C1"), (STAR, "point sources", "C0")):
        rows = found.objects[found.objects["kind"] == kind][:4000]
        g_r, r_i = rows["mag_g"] - rows["mag_r"], rows["mag_r"] - rows["mag_i"]
        axes.plot(g_r, r_i, ".", ms=2, color=colour, label=name)
    axes.set(xlabel="g - r", ylabel="r - i", title="colours")
    axes.legend(fontsize=8)


def _nights(found: Simulation, axes: Axes) -> None:
    days = [visit["mjd"] - found.visits[0]["mjd"] for visit in found.visits]
    seeing = [np.mean(visit["seeing"]) for visit in found.visits]
    axes.plot(days, seeing, "o-", ms=4, label="seeing [arcsec]")
    lost = [visit["extinction"] for visit in found.visits]
    axes.plot(days, lost, "s-", ms=4, label="extinction [mag]")
    axes.set(xlabel="days", title="visits")
    axes.legend(fontsize=8)


def _depths(found: Simulation, axes: Axes) -> None:
    """How many sources of which SNR a CCD sees, band by band."""
    edges = np.logspace(-1.5, 4, 45)
    for band in BANDS:
        some = [part for part in found.ccd_visits if part.band == band]
        if some:
            counts = sum(np.histogram(part.snr, edges)[0] for part in some) / len(some)
            label = f"{band}: SNR 5 at {depth(some):.2f}"
            axes.stairs(counts, edges, color=_COLOURS[band], label=label)
    axes.axvline(5.0, color="grey", lw=0.8, ls="--")
    axes.set(xscale="log", yscale="log", xlabel="SNR of a point of its flux")
    axes.set(ylabel="sources a CCD", title="depth: detected right of the line")
    if found.ccd_visits:
        axes.legend(fontsize=8)


def _extinction(found: Simulation, axes: Axes) -> None:
    """The extinction over the CCD where it varies most."""
    axes.set_title("extinction")
    if not found.ccd_visits:
        return
    most = max(found.ccd_visits, key=lambda part: float(np.ptp(part.extinction)))
    image = axes.imshow(most.extinction, origin="lower", cmap="Blues_r")
    axes.figure.colorbar(image, ax=axes, label="mag")
    axes.set(xticks=[], yticks=[], xlabel="x", ylabel="y")
    axes.set_title(f"extinction, visit {most.visit}, {most.ccd}")


def _curves(found: Simulation, axes: Axes) -> None:
    """The brightest object of some kinds of variability: all the time, and at its visits."""
    begin, end = found.visits[0]["mjd"], found.visits[-1]["mjd"]
    times = np.linspace(begin, max(end, begin + 1.0), 500)
    kinds = np.unique(found.objects["variability"])
    for kind in kinds[kinds != Variability.NONE][:_N_CURVES]:
        rows = found.objects[found.objects["variability"] == kind]
        row = rows[np.argmin(rows["mag_r"])][None]
        curve = np.array([magnitudes_at(found.survey, row, "r", time)[0] for time in times])
        curve[curve > 30] = np.nan
        name = Variability(int(kind)).name.lower().replace("_", " ")
        (line,) = axes.plot(times - begin, curve, lw=0.6, label=name)
        seen = [(v["mjd"], k) for k, v in enumerate(found.visits) if v["band"] == "r"]
        mags = found.curves["mag"][found.curves["id"] == row["id"]].reshape(-1)
        at = [(time - begin, mags[k]) for time, k in seen if len(mags) and mags[k] < 30]
        axes.plot(*np.array(at).reshape(-1, 2).T, "o", ms=4, color=line.get_color())
    axes.invert_yaxis()
    axes.set(xlabel="days", ylabel="r [mag]", title="light curves; visits in r as points")
    if axes.lines:
        axes.legend(fontsize=8)


def _motions(found: Simulation, axes: Axes) -> None:
    stars = found.objects[found.objects["kind"] == STAR][:4000]
    axes.plot(stars["pm_ra"], stars["pm_dec"], ".", ms=2)
    axes.set_xscale("symlog", linthresh=20)
    axes.set_yscale("symlog", linthresh=20)
    axes.set(xlabel="pm ra [mas/yr]", ylabel="pm dec [mas/yr]", title="proper motions")


def _bodies(found: Simulation, axes: Axes) -> None:
    movers = found.movers
    for family in np.unique(movers["family"]) if len(movers) else ():
        some = movers[(movers["family"] == family) & (movers["a"] > 0)]
        if len(some):
            axes.plot(some["a"], some["e"], ".", ms=5, label=family.decode())
    axes.set(xlabel="semi-major axis [au]", ylabel="eccentricity", xscale="log", xlim=(0.9, 60))
    axes.set_xticks([1, 2, 3, 5, 10, 30], labels=["1", "2", "3", "5", "10", "30"])
    axes.minorticks_off()
    axes.set_title(f"Solar System: {len(movers)} bodies")
    if axes.lines:
        axes.legend(fontsize=8)
