"""What is in a simulation, in words and in one picture, from its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.sim.lightcurves import Variability
from mpipipe.sim.sky import GALAXY, STAR, magnitudes_at
from mpipipe.sim.survey import BANDS, Survey
from mpipipe.sim.tasks import SimFolder, is_done, make_tasks, read_survey
from mpipipe.store.checksums import read_json
from mpipipe.store.fits import open_fits, write_bytes_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_N_CURVES = 4


@dataclass(frozen=True)
class Simulation:
    """A simulation that is there.

    Attributes
    ----------
    objects
        Rows of `sky.OBJECTS`.
    visits
        As in ``visits.json``.
    n_done, n_tasks
        Tasks that are done, and all.
    n_bytes
        Of the raw frames.
    """

    survey: Survey
    objects: np.ndarray
    visits: list[dict[str, Any]]
    n_done: int
    n_tasks: int
    n_bytes: int


def read_simulation(root: Path, truth: Path | None = None) -> Simulation:
    """Read what a folder holds.

    Raises
    ------
    BadDataError
        If it is no simulation, or its truth is elsewhere and was not named.
    """
    survey = read_survey(root)
    folder = SimFolder.at(root, truth)
    path = folder.truth / "objects.fits"
    if not path.exists():
        raise BadDataError(
            "is not there", file=path, way_out="name the folder of the truth with --truth"
        )
    with open_fits(path) as hdus:
        objects = np.array(hdus[1].data).astype(hdus[1].data.dtype.newbyteorder("="))
    visits = read_json(folder.truth / "visits.json")
    tasks = make_tasks(survey)
    n_done = sum(is_done(task, folder) for task in tasks)
    n_bytes = sum(file.stat().st_size for file in folder.raw.rglob("*") if file.is_file())
    return Simulation(survey, objects, visits, n_done, len(tasks), n_bytes)


def lines_of(found: Simulation) -> Iterator[str]:
    """What is in it."""
    survey, visits, objects = found.survey, found.visits, found.objects
    state = "" if found.n_done == found.n_tasks else f", {found.n_tasks - found.n_done} tasks left"
    yield (
        f"preset {survey.preset}, seed {survey.seed}: {survey.n_ccds} CCDs, {len(visits)} visits, "
        f"{found.n_bytes / 1e9:.2f} GB of raw frames{state}"
    )
    span = visits[-1]["mjd"] - visits[0]["mjd"]
    yield f"visits over {span:.1f} days around ra {survey.ra:.3f}, dec {survey.dec:+.3f}"
    yield f"  {'band':4} {'visits':>6} {'seeing':>11} {'extinction':>13} {'sky':>9}"
    for band in BANDS:
        some = [visit for visit in visits if visit["band"] == band]
        if some:
            seeing = [value for visit in some for value in visit["seeing"]]
            loss = [visit["extinction"] for visit in some]
            sky = float(np.median([visit["sky"] for visit in some]))
            yield (
                f'  {band:4} {len(some):6} {min(seeing):5.2f}-{max(seeing):4.2f}" '
                f"{min(loss):6.3f}-{max(loss):5.3f} {sky:6.1f} e/s"
            )
    stars, galaxies = objects["kind"] == STAR, objects["kind"] == GALAXY
    yield f"objects: {stars.sum():,} point sources, {galaxies.sum():,} galaxies"
    edges = np.arange(14, 29, 2)
    for what, chosen in (("points", stars), ("galaxies", galaxies)):
        counts = np.histogram(objects["mag_r"][chosen], edges)[0]
        parts = [f"{a}-{a + 2}: {n:,}" for a, n in zip(edges, counts, strict=False) if n]
        yield f"  {what} by r: {', '.join(parts)}"
    varying = np.unique(objects["variability"], return_counts=True)
    named = [
        f"{n} {Variability(kind).name.lower().replace('_', ' ')}"
        for kind, n in zip(*map(np.ndarray.tolist, varying), strict=True)
        if kind != Variability.NONE
    ]
    yield f"  varying: {', '.join(named) or 'none'}"
    if survey.parallax > 0:
        fast = np.hypot(objects["pm_ra"], objects["pm_dec"]) > 50
        largest = objects["parallax"].max()
        yield f"  largest parallax {largest:.1f} mas; {fast.sum()} faster than 50 mas/yr"


def draw(found: Simulation, path: Path) -> None:
    """A picture of sky, counts, colours, visits and some light curves, as PNG.

    Raises
    ------
    OutputError
        If it can not be written.
    """
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    panels = (_sky, _counts, _colours, _nights, _curves, _motions)
    for panel, place in zip(panels, axes, strict=True):
        panel(found, place)
    figure.suptitle(f"{found.survey.preset}, seed {found.survey.seed}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    write_bytes_atomically(path, buffer.getvalue())


def _sky(found: Simulation, axes: Axes) -> None:
    objects = found.objects[found.objects["mag_r"] < 22]
    size = np.clip(24 - objects["mag_r"], 1, 10)
    for kind, colour in ((STAR, "tab:blue"), (GALAXY, "tab:red")):
        chosen = objects["kind"] == kind
        axes.scatter(
            objects["ra"][chosen], objects["dec"][chosen], size[chosen], c=colour, lw=0, alpha=0.6
        )
    axes.plot([v["ra"] for v in found.visits], [v["dec"] for v in found.visits], "k+", ms=8)
    axes.invert_xaxis()
    axes.set(xlabel="ra [deg]", ylabel="dec [deg]", title="sky to r = 22; + pointings")


def _counts(found: Simulation, axes: Axes) -> None:
    edges = np.arange(13, 28.5, 0.5)
    for kind, name in ((STAR, "point sources"), (GALAXY, "galaxies")):
        values = found.objects["mag_r"][found.objects["kind"] == kind]
        axes.stairs(np.histogram(values, edges)[0], edges, label=name)
    axes.set(yscale="log", xlabel="r [mag]", ylabel="objects in 0.5 mag", title="counts")
    axes.legend(fontsize=8)


def _colours(found: Simulation, axes: Axes) -> None:
    for kind, name in ((GALAXY, "galaxies"), (STAR, "point sources")):
        rows = found.objects[found.objects["kind"] == kind][:4000]
        axes.plot(
            rows["mag_g"] - rows["mag_r"], rows["mag_r"] - rows["mag_i"], ".", ms=2, label=name
        )
    axes.set(xlabel="g - r", ylabel="r - i", title="colours")
    axes.legend(fontsize=8)


def _nights(found: Simulation, axes: Axes) -> None:
    days = [visit["mjd"] - found.visits[0]["mjd"] for visit in found.visits]
    seeing = [np.mean(visit["seeing"]) for visit in found.visits]
    axes.plot(days, seeing, "o-", label="seeing [arcsec]")
    axes.plot(days, [visit["extinction"] for visit in found.visits], "s-", label="extinction [mag]")
    axes.set(xlabel="days", title="visits")
    axes.legend(fontsize=8)


def _curves(found: Simulation, axes: Axes) -> None:
    """The brightest object of some kinds of variability."""
    begin, end = found.visits[0]["mjd"], found.visits[-1]["mjd"]
    times = np.linspace(begin, max(end, begin + 1.0), 400)
    kinds = np.unique(found.objects["variability"])
    for kind in kinds[kinds != Variability.NONE][:_N_CURVES]:
        rows = found.objects[found.objects["variability"] == kind]
        row = rows[np.argmin(rows["mag_r"])][None]
        curve = np.array([magnitudes_at(found.survey, row, "r", time)[0] for time in times])
        curve[curve > 30] = np.nan
        name = Variability(int(kind)).name.lower().replace("_", " ")
        axes.plot(times - begin, curve, lw=0.8, label=name)
    axes.invert_yaxis()
    axes.set(xlabel="days", ylabel="r [mag]", title="light curves")
    if axes.lines:
        axes.legend(fontsize=8)


def _motions(found: Simulation, axes: Axes) -> None:
    stars = found.objects[found.objects["kind"] == STAR][:4000]
    axes.plot(stars["pm_ra"], stars["pm_dec"], ".", ms=2)
    axes.set(xlabel="pm ra [mas/yr]", ylabel="pm dec [mas/yr]", title="proper motions")
