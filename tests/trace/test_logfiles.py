"""Lines of one task over all ranks' logs, in the order of time."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpipipe.trace import log
from mpipipe.trace.logfiles import Wanted, read_log, select


def line(second: int, rank: int, visit: str, level: str, text: str) -> str:
    labels = f"run=my run/1 rank={rank} visit={visit} ccd=R22_S11 stage=isr.bias"
    return f"2030-01-01T00:00:{second:02d}.000Z {level:7} {labels} mpipipe.x: {text}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = [line(1, 0, "7", "INFO", "a"), line(4, 0, "8", "WARNING", "d"), "Traceback\n", "  x\n"]
    second = ["torn\n", line(2, 1, "8", "INFO", "b"), line(3, 1, "7", "ERROR", "c")]
    log.log_path(tmp_path, 0).write_text("".join(first))
    log.log_path(tmp_path, 1).write_text("".join(second))
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "letters"),
    [
        (Wanted(), "abcd"),
        (Wanted(visit="7"), "ac"),
        (Wanted(visit="8", ccd="R22_S11"), "bd"),
        (Wanted(ccd="R99"), ""),
        (Wanted(rank=1), "bc"),
        (Wanted(rank=5), ""),
        (Wanted(level="warning"), "cd"),
    ],
)
def test_selection(folder: Path, wanted: Wanted, letters: str) -> None:
    found = [entry.text.splitlines()[0][-1] for entry in select(folder, wanted)]
    assert "".join(found) == letters


def test_tracebacks_stay_with_their_line(folder: Path) -> None:
    assert select(folder, Wanted())[-1].text.endswith("d\nTraceback\n  x")


def test_what_is_logged_is_read(tmp_path: Path) -> None:
    path = log.log_path(tmp_path, 3)
    log.start(log.LogConfig(str(path), "my run/2", 3, terminal_level="CRITICAL"))
    try:
        with log.labels(12, "R22 S11"):
            log.get_logger("test").warning("two\nlines")
    finally:
        log.stop()
    (entry,) = read_log(path)
    assert (entry.rank, entry.level, entry.visit, entry.ccd) == (3, "WARNING", "12", "R22_S11")
    assert entry.text.endswith("two\nlines")
