"""Logs: one file a rank, every line labelled with run, rank, visit, CCD and stage.

On the terminal rank 0 says what goes on (info), and every rank its errors. The rank's MPI process
and its task process share the file: every line is one write to a file opened for appending.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ROOT = "mpipipe"
_FORMAT = (
    "%(asctime)s.%(msecs)03dZ %(levelname)-7s run=%(run)s rank=%(rank)d visit=%(visit)s "
    "ccd=%(ccd)s stage=%(stage)s %(name)s: %(message)s"
)
_DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"  # UTC: ranks may be anywhere


@dataclass(frozen=True)
class LogConfig:
    """Where and how much is logged.

    Attributes
    ----------
    path
        The rank's log file; empty for none.
    run
        Label of the run.
    rank
        This rank.
    level, terminal_level
        Lowest level for the file, and for rank 0's terminal.
    """

    path: str = ""
    run: str = "-"
    rank: int = 0
    level: str = "INFO"
    terminal_level: str = "INFO"


@dataclass(frozen=True)
class _Labels:
    visit: str = "-"
    ccd: str = "-"


_NO_LABELS = _Labels()
_labels: ContextVar[_Labels] = ContextVar("mpipipe_log_labels", default=_NO_LABELS)
_stage: ContextVar[str] = ContextVar("mpipipe_log_stage", default="-")
_config: LogConfig | None = None


def get_logger(name: str) -> logging.Logger:
    """The logger of a module (pass ``__name__``)."""
    return logging.getLogger(name if name.startswith(_ROOT) else f"{_ROOT}.{name}")


@contextlib.contextmanager
def labels(visit: int | str = "-", ccd: str = "-") -> Iterator[None]:
    """Label the lines of the block with visit and CCD."""
    token = _labels.set(_Labels(str(visit) or "-", ccd.replace(" ", "_") or "-"))
    stage_token = _stage.set("-")
    try:
        yield
    finally:
        _stage.reset(stage_token)
        _labels.reset(token)


def set_stage(name: str) -> None:
    """Label the lines from now on with this stage."""
    _stage.set(name or "-")


class _Labeller(logging.Filter):
    """Adds the labels to every line."""

    def __init__(self, config: LogConfig) -> None:
        super().__init__()
        self._config = config

    def filter(self, record: logging.LogRecord) -> bool:
        found = _labels.get()
        record.run, record.rank = self._config.run, self._config.rank
        record.visit, record.ccd, record.stage = found.visit, found.ccd, _stage.get()
        return True


class _AppendHandler(logging.Handler):
    """Writes a record by one call, so that lines of two processes do not mix."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._fd, (self.format(record) + "\n").encode(errors="replace"))
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


class _TerminalHandler(logging.Handler):
    """Writes to what stderr is at the moment: a live display puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self.handleError(record)


def log_path(folder: Path | str, rank: int) -> Path:
    """Name of a rank's log file."""
    return Path(folder) / f"rank-{rank:05d}.log"


def start(config: LogConfig) -> None:
    """Log as `config` says from now on; an earlier configuration ends."""
    global _config
    stop()
    _config = config
    root = logging.getLogger(_ROOT)
    root.setLevel(min(_level(config.level), _level(config.terminal_level)))
    root.propagate = False
    handlers: list[tuple[logging.Handler, int, str]] = []
    if config.path:
        Path(config.path).parent.mkdir(parents=True, exist_ok=True)
        handlers.append((_AppendHandler(config.path), _level(config.level), _FORMAT))
    terminal_level = _level(config.terminal_level) if config.rank == 0 else logging.ERROR
    short = "%(levelname)s: %(message)s" if config.rank == 0 else "rank %(rank)d: %(message)s"
    handlers.append((_TerminalHandler(), terminal_level, short))
    for handler, level, layout in handlers:
        handler.setLevel(level)
        handler.addFilter(_Labeller(config))
        formatter = logging.Formatter(layout, _DATE_FORMAT)
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        root.addHandler(handler)


def stop() -> None:
    """Close the log."""
    global _config
    root = logging.getLogger(_ROOT)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.propagate = True
    _config = None


def settings() -> dict[str, Any] | None:
    """What another process of this rank needs to log to the same place (`resume`)."""
    return None if _config is None else asdict(_config)


def resume(given: dict[str, Any] | None) -> None:
    """Log where another process of this rank does."""
    config = None if given is None else LogConfig(**given)
    if config == _config:
        return
    if config is None:
        stop()
    else:
        start(config)


def _level(name: str) -> int:
    level = logging.getLevelName(name.upper())
    if not isinstance(level, int):
        raise ValueError(f"no log level {name!r}")
    return level
