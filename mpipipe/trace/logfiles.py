"""Reading logs back: the lines of one task, over all ranks' files, in the order of time."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<level>[A-Z]+) +"
    r"run=(?P<run>.*?) rank=(?P<rank>-?\d+) visit=(?P<visit>\S*) ccd=(?P<ccd>\S*) "
    r"stage=(?P<stage>\S*) "
)


@dataclass(frozen=True)
class Wanted:
    """Which lines are wanted; None for any."""

    visit: str | None = None
    ccd: str | None = None
    rank: int | None = None
    level: str = "DEBUG"


@dataclass(frozen=True, slots=True)
class Entry:
    """A labelled line with the lines (a traceback) that follow it.

    Attributes
    ----------
    time
        UTC, ISO 8601: sorts as text.
    text
        As it stands in the file.
    """

    time: str
    rank: int
    level: str
    visit: str
    ccd: str
    text: str


def read_log(path: Path) -> Iterator[Entry]:
    """The entries of a log file in the order in which they stand there."""
    entry: Entry | None = None
    more: list[str] = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            found = _LINE.match(line)
            if found is None:
                more.append(line.rstrip("\n"))
                continue
            if entry is not None:
                yield _with(entry, more)
            more = []
            entry = Entry(
                found["time"],
                int(found["rank"]),
                found["level"],
                found["visit"],
                found["ccd"],
                line.rstrip("\n"),
            )
    if entry is not None:
        yield _with(entry, more)


def _with(entry: Entry, more: list[str]) -> Entry:
    return replace(entry, text="\n".join([entry.text, *more])) if more else entry


def select(folder: Path, wanted: Wanted) -> list[Entry]:
    """The wanted entries of all ranks' logs, by time; at the same time, by rank and place."""
    pattern = "rank-*.log" if wanted.rank is None else f"rank-{wanted.rank:05d}.log"
    lowest = logging.getLevelNamesMapping().get(wanted.level.upper(), 0)
    ccd = None if wanted.ccd is None else wanted.ccd.replace(" ", "_")
    found = [
        entry
        for path in sorted(folder.glob(pattern))
        for entry in read_log(path)
        if wanted.visit in (None, entry.visit)
        and ccd in (None, entry.ccd)
        and logging.getLevelNamesMapping().get(entry.level, 0) >= lowest
    ]
    return sorted(found, key=lambda entry: entry.time)
