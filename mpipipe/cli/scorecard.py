"""`mpipipe scorecard`: whether the data of a run are good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpipipe.cli.options import RunArgument

if TYPE_CHECKING:
    from mpipipe.quality.scorecard.scoring import Scorecard


def scorecard(
    run: RunArgument,
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", metavar="DIR", help="Truth of a simulated survey: SIM, or SIM/truth."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it as JSON.")
    ] = None,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one page with plots; opens from disk."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="End with code 5 if a requirement is missed."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no table.")] = False,
) -> None:
    """Measure a run against the requirements on its data, from its own products.

    Each number comes with an interval of 95 %, what is required, the verdict (stretch, design or
    minimum of the LSST Science Requirements Document, met, or missed), and its sample; what the run
    does not allow to measure says why.

    \b
    Examples:
      mpipipe scorecard RUN
      mpipipe scorecard RUN --html scorecard.html --json scorecard.json
      mpipipe scorecard RUN --truth SIM
    """
    from mpipipe.cli.exits import Exit
    from mpipipe.quality.scorecard.measured import MISSED
    from mpipipe.quality.scorecard.run_data import RunData
    from mpipipe.quality.scorecard.scoring import score, write_scorecard, write_text
    from mpipipe.store.layout import RunLayout

    truth_of = None
    if truth is not None:
        from mpipipe.cli.truth import truth_in

        truth_of = truth_in(truth)
    with RunData(RunLayout.at(run), truth_of) as data:
        card = score(data)
        if not quiet:
            _print(card)
        if json_file is not None:
            write_scorecard(card, json_file)
        if html_file is not None:
            from mpipipe.quality.page.html import page

            write_text(html_file, page(card))
    for path in (json_file, html_file):
        if path is not None:
            typer.echo(str(path))
    if strict and card.counts[MISSED]:
        raise typer.Exit(Exit.DIFFERS)


_STYLES = {
    "missed": "bold red", "minimum": "yellow", "reported": "dim", "not measurable": "dim",
}  # fmt: skip


def _print(card: Scorecard) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mpipipe.quality.page.svg import number
    from mpipipe.quality.scorecard.metric import GROUPS

    console = Console(soft_wrap=False)
    # Where nobody looks (a file, a pipe) lines are as long as they need to be.
    width = None if console.is_terminal else 160
    console = Console(width=width, highlight=False)
    for group in GROUPS:
        several = [one for metric, found in card.numbers if metric.group == group for one in found]
        if not several:
            continue
        table = Table(
            title=group, title_justify="left", title_style="bold", box=None, pad_edge=False
        )
        table.add_column("name", no_wrap=True)
        for name in ("value", "95 %"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("unit", "required", "verdict", "sample"):
            table.add_column(name)
        unknown = []
        for one in several:
            verdict = one.verdict
            if verdict == "not measurable":
                unknown.append(one)
                continue
            known = one.low == one.low and one.low != one.high
            table.add_row(
                Text(one.name), number(one.value),
                f"{number(one.low)} … {number(one.high)}" if known else "",
                Text(one.unit), Text(str(one.requirement or "")),
                Text(verdict + ("" if one.is_certain else " ?"), _STYLES.get(verdict, "green")),
                Text(f"{one.n:,} {one.of}"),
            )  # fmt: skip
        console.print(table if table.row_count else Text(group, "bold"))
        reasons: dict[str, list[str]] = {}
        for one in unknown:
            reasons.setdefault(one.why or "no value", []).append(one.name)
        for why, names in reasons.items():
            console.print(Text(f"not measurable: {', '.join(names)}: {why}", "dim"))
        console.print()
    for problem in list(dict.fromkeys(card.data.problems))[:20]:
        console.print(Text(f"problem: {problem}", "yellow"))
    console.print(", ".join(f"{n} {kind}" for kind, n in card.counts.items() if n))
