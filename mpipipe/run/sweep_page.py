"""A sweep and its model as one picture, or as one page of HTML that needs nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpipipe.quality.page.style import STYLE
from mpipipe.quality.page.svg import number
from mpipipe.run.sweep import Measured, read_sweep
from mpipipe.run.sweep_model import load_model
from mpipipe.store.checksums import write_bytes_atomically, write_text_atomically
from mpipipe.trace.model.model import Model
from mpipipe.trace.model.observation import TERMS
from mpipipe.trace.model.prediction import Asked, Predicted, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEYOND, _A_DECADE = 10, 6
_SHOWN = 0.003
"""Share of the wall time from which on a term is drawn."""
_COLOURS = (
    "#8c96a3", "#5b4a8a", "#2f7f4f", "#9ccf8a", "#d0602a", "#2f6fb0", "#e0a000", "#b3273f",
    "#7ac0c9", "#d9d9d9", "#000000", "#c23bb0",
)  # fmt: skip
"""Of `TERMS`."""
_FREE = "#2f7f4f"


@dataclass(frozen=True)
class Drawn:
    """What is drawn.

    Attributes
    ----------
    predicted
        At the ranks that are drawn, ascending, on `cores`.
    as_measured
        Up to the ranks that were measured, on the cores of that machine.
    measured
        All runs; those of `n_tasks` are drawn beside the model.
    cores
        That were asked for; None: one a rank.
    """

    name: str
    model: Model
    predicted: list[Predicted]
    as_measured: list[Predicted]
    measured: list[Measured]
    n_tasks: int
    cores: int | None = None


def gather(
    folder: Path, ranks: Sequence[int] = (), n_tasks: int | None = None, cores: int | None = None
) -> Drawn:
    """Read a sweep and its model, and predict what is drawn.

    Parameters
    ----------
    ranks
        Where; empty: from one to ten times those that were measured.
    n_tasks
        None: the size of which there are most runs.
    cores
        Of all ranks; None: one each.

    Raises
    ------
    ConfigError
        If there is no run or no model.
    """
    runs, model = read_sweep(folder), load_model(folder)
    sizes = [one.seen.n_tasks for one in runs]
    n_tasks = n_tasks or max(sorted(set(sizes)), key=sizes.count)
    if not ranks:
        most = np.log10(_BEYOND * max(model.ranks))
        steps = np.logspace(0, most, int(most * _A_DECADE) + 1)
        ranks = sorted({*map(round, steps), *model.ranks})
    found = [predict(model, n, n_tasks, Asked(cores=cores)) for n in ranks]
    there = [n for n in ranks if n <= max(model.ranks)]
    same = [predict(model, n, n_tasks, Asked(cores=model.cores)) for n in there]
    return Drawn(folder.absolute().name, model, found, same, runs, n_tasks, cores)


def write_picture(drawn: Drawn, path: Path) -> None:
    """Write it as PNG."""
    picture = io.BytesIO()
    _figure(drawn).savefig(picture, format="png", dpi=110, metadata={"Software": None})
    write_bytes_atomically(path, picture.getvalue())


def write_page(drawn: Drawn, path: Path) -> None:
    """Write it as HTML, the picture within."""
    title = f"Scaling of {escape(drawn.name)}"
    parts = [
        f"<header><h1>{title}</h1><p>{_summary(drawn)}</p></header>",
        f"<figure>{_svg(drawn)}<figcaption>{_CAPTION}</figcaption></figure>",
        "<h2>What limits where</h2>",
        _table(("ranks", "wall time, s", "95 %", "efficiency", "limited by"), _limits(drawn)),
        "<h2>Laws</h2>",
        _table(("term", "factor", "95 %", "of"), _laws(drawn.model)),
        "<h2>Runs left out</h2><p>Each predicted from the runs on other numbers of ranks.</p>",
        _table(("ranks", "tasks", "measured, s", "predicted, s", "off"), _left(drawn.model)),
        "<h2>Runs</h2>",
        _table(("run", "wall time, s", "used by others", "tries"), _runs(drawn)),
    ]
    write_text_atomically(
        path,
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n",
    )


_CAPTION = (
    "Dots are measured; blue is the model of the machine they were measured on, with its 95 %; "
    "green is the model for ranks that have a core each, or those that were asked for. Grey: "
    "beyond the ranks that were measured."
)


def _summary(drawn: Drawn) -> str:
    model = drawn.model
    disturbed = sum(one.is_disturbed for one in drawn.measured)
    told = (
        f"{len(drawn.measured)} runs on {min(model.ranks)} to {max(model.ranks)} ranks and "
        f"{model.cores} cores; drawn for {drawn.n_tasks:,} tasks"
    )
    return told + (f"; {disturbed} runs were disturbed by others" if disturbed else "")


def _figure(drawn: Drawn) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8.2), layout="constrained")
    axes = figure.subplots(2, 2)
    ranks = np.array([one.n_ranks for one in drawn.predicted], float)
    seen = max(drawn.model.ranks)
    _draw_speed_up(axes[0, 0], drawn, ranks)
    _draw_efficiency(axes[0, 1], drawn, ranks)
    _draw_terms(axes[1, 0], drawn, ranks)
    _draw_left(axes[1, 1], drawn.model)
    for axis in axes.flat[:3]:
        axis.set_xscale("log")
        axis.set_xlim(ranks.min(), max(ranks.max(), 2 * ranks.min()))
        axis.set_xlabel("ranks")
        if ranks.max() > seen:
            axis.axvspan(seen, ranks.max(), color="#888", alpha=0.10, lw=0)
    return figure


def _work(drawn: Drawn) -> float:
    return drawn.predicted[0].work_s


def _of_size(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    same = [one.seen for one in drawn.measured if one.seen.n_tasks == drawn.n_tasks]
    return np.array([o.n_ranks for o in same], float), np.array([o.wall_s for o in same])


def _draw_speed_up(axis: Any, drawn: Drawn, ranks: np.ndarray) -> None:
    work = _work(drawn)
    axis.plot(ranks, ranks, color="#999", ls="--", lw=1, label="as many times as ranks")
    free = "a core each" if drawn.cores is None else f"model, {drawn.cores} cores"
    axis.plot(ranks, [one.speed_up for one in drawn.predicted], color=_FREE, label=free)
    _draw_band(axis, drawn.as_measured, work, lambda n: 1.0)
    p, walls = _of_size(drawn)
    axis.plot(p, work / walls, "o", ms=4, color="#d0602a", label="measured")
    axis.set(yscale="log", ylabel="speed-up", title=f"Speed-up, {drawn.n_tasks:,} tasks")
    axis.legend(frameon=False)


def _draw_efficiency(axis: Any, drawn: Drawn, ranks: np.ndarray) -> None:
    work = _work(drawn)
    axis.plot(ranks, [100 * one.efficiency for one in drawn.predicted], color=_FREE)
    _draw_band(axis, drawn.as_measured, 100 * work, lambda n: n)
    p, walls = _of_size(drawn)
    axis.plot(p, 100 * work / walls / p, "o", ms=4, color="#d0602a")
    axis.set(ylim=(0, 105), ylabel="efficiency, %", title="Efficiency, whole run")


def _draw_band(
    axis: Any, found: Sequence[Predicted], work: float, share: Callable[[float], float]
) -> None:
    """Work over wall time, of so many, with its interval."""
    ranks = [one.n_ranks for one in found]
    values = [work / one.wall_s / share(one.n_ranks) for one in found]
    axis.plot(ranks, values, color="#2f6fb0", label="model, cores as measured")
    low = [work / one.high_s / share(one.n_ranks) for one in found]
    high = [work / max(one.low_s, 1e-9) / share(one.n_ranks) for one in found]
    axis.fill_between(ranks, low, high, color="#2f6fb0", alpha=0.2, lw=0)


def _draw_terms(axis: Any, drawn: Drawn, ranks: np.ndarray) -> None:
    table = np.array([[one.terms[term] for term in TERMS] for one in drawn.predicted]).T
    share = 100 * table / np.maximum(table.sum(axis=0), 1e-12)
    shown = [k for k in range(len(TERMS)) if share[k].max() > 100 * _SHOWN]
    axis.stackplot(
        ranks,
        share[shown],
        labels=[TERMS[k] for k in shown],
        colors=[_COLOURS[k] for k in shown],
        lw=0,
    )
    title = "What the wall time is, by the green model"
    axis.set(ylim=(0, 100), ylabel="share of the wall time, %", title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, reverse=True)


def _draw_left(axis: Any, model: Model) -> None:
    axis.set(title="Runs left out of the fit", xlabel="measured, s", ylabel="predicted, s")
    if not model.left:
        axis.text(0.5, 0.5, "fewer than four numbers of ranks", ha="center",
                  transform=axis.transAxes)  # fmt: skip
        return
    measured = np.array([one.measured_s for one in model.left])
    predicted = np.array([one.predicted_s for one in model.left])
    limits = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    limits *= (0.8, 1.25)
    axis.fill_between(limits, limits * 0.85, limits * 1.15, color="#999", alpha=0.2, lw=0)
    axis.plot(limits, limits, color="#999", lw=1)
    axis.plot(measured, predicted, "o", ms=4, color="#d0602a")
    for one in model.left:
        axis.annotate(str(one.n_ranks), (one.measured_s, one.predicted_s), xytext=(4, -9),
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits)


def _svg(drawn: Drawn) -> str:
    """The picture as an element of a page: no document type, no link."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": drawn.name}):
        text = io.StringIO()
        keys = ("Creator", "Date", "Format", "Type")
        _figure(drawn).savefig(text, format="svg", metadata=dict.fromkeys(keys))
    content = text.getvalue()
    return content[content.index("<svg") :]


def _limits(drawn: Drawn) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for one in drawn.predicted:
        terms = sorted(one.terms.items(), key=lambda pair: -pair[1])[:3]
        told = ", ".join(f"{term} {100 * s / one.wall_s:.0f} %" for term, s in terms)
        is_known = not np.isnan(one.low_s)
        interval = f"{number(one.low_s)} to {number(one.high_s)}" if is_known else "not known"
        efficiency = f"{100 * one.efficiency:.1f} %"
        found.append((f"{one.n_ranks:,}", number(one.wall_s), interval, efficiency, told))
    return found


def _laws(model: Model) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, law in model.laws.items():
        limits = law.interval()
        for k, (column, factor) in enumerate(zip(law.columns, law.factors, strict=True)):
            interval = f"{number(limits[k, 0])} to {number(limits[k, 1])}"
            found.append((name if k == 0 else "", number(factor), interval, str(column)))
    return found


def _left(model: Model) -> list[tuple[str, ...]]:
    return [
        (
            str(one.n_ranks),
            f"{one.n_tasks:,}",
            number(one.measured_s),
            number(one.predicted_s),
            f"{100 * one.error:+.1f} %",
        )
        for one in model.left
    ]


def _runs(drawn: Drawn) -> list[tuple[str, ...]]:
    return [
        (
            one.name,
            number(one.seen.wall_s),
            one.others + (" (too much)" if one.is_disturbed else ""),
            str(one.tries),
        )
        for one in drawn.measured
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
