"""Stopping a run from outside: a file in the run folder, at which its master looks.

The request names the incarnation that it is for, so an old one never stops a run that was
resumed. While it looks, the master touches a heartbeat, by which `status` knows that it lives.

Ranks that seemed dead (behind a network split, or stopped for a while) and live after all find
that a later incarnation has begun, and end.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.store.checksums import read_json, write_json_atomically
from mpipipe.store.layout import RunLayout

DRAIN, NOW = 1, 2

_LOOK_EVERY_S = 1.0
_BEAT_EVERY_S = 5.0


class HaltWatch:
    """Tells whether the run was asked to stop; cheap enough to be called all the time.

    Parameters
    ----------
    incarnation
        The one that runs.
    is_master
        Whether this rank is the one that looks; asked every time, since that can change.
    """

    def __init__(
        self, layout: RunLayout, incarnation: int, is_master: Callable[[], bool] = lambda: True
    ) -> None:
        self._layout, self._incarnation, self._is_master = layout, incarnation, is_master
        self._next_look = self._next_beat = 0.0
        self._level = 0

    def __call__(self) -> int:
        """0: go on, 1: stop when the running tasks are done, 2: at once."""
        now = time.monotonic()
        if now >= self._next_look and self._is_master():
            self._next_look = now + _LOOK_EVERY_S
            if is_superseded(self._layout, self._incarnation):
                # No sign of life from here: it would pass for one of those who work on the run.
                self._level = NOW
                return self._level
            if self._layout.halt.exists():
                self._level = max(self._level, self._read())
            if now >= self._next_beat:
                self._next_beat = now + _BEAT_EVERY_S
                beat(self._layout)
        return self._level

    def _read(self) -> int:
        try:
            asked = read_json(self._layout.halt)
            return int(asked["level"]) if asked["incarnation"] == self._incarnation else 0
        except (BadDataError, KeyError, TypeError, ValueError):
            # Written by a person's own hand, perhaps: who makes a halt file wants a halt.
            return DRAIN


def is_superseded(layout: RunLayout, incarnation: int) -> bool:
    """Whether a later incarnation has begun, since this one seemed dead: it must end."""
    return layout.record_folder(incarnation + 1).exists()


def refuse_superseded(layout: RunLayout, incarnation: int) -> int:
    """End ranks that were taken for dead, and whose run others have gone on with.

    Raises
    ------
    ConfigError
        If that is so.
    """
    if is_superseded(layout, incarnation):
        raise ConfigError(
            f"was taken over from these ranks, by incarnation {max(layout.incarnations())}",
            file=layout.root,
            way_out=f"mpipipe status {layout.root} shows it",
        )
    return 0


def beat(layout: RunLayout) -> None:
    """Leave a sign of life."""
    with contextlib.suppress(OSError):
        with open(layout.heartbeat, "a"):
            pass
        os.utime(layout.heartbeat)


def end_beat(layout: RunLayout) -> None:
    """The run leaves in order: nobody need wait for a sign of life."""
    with contextlib.suppress(OSError):
        layout.heartbeat.unlink(missing_ok=True)


def ask_to_halt(layout: RunLayout, level: int) -> int:
    """Ask the newest incarnation of a run to stop; its number.

    Raises
    ------
    ConfigError
        If there is no run, or it has ended already.
    OutputError
        If the run folder can not be written.
    """
    incarnation = max(layout.incarnations(), default=0)
    if not incarnation:
        raise ConfigError("holds no run that was started", file=layout.root)
    if layout.completion.exists():
        raise ConfigError(
            "the run is complete: there is nothing to stop",
            file=layout.root,
            way_out=f"mpipipe status {layout.root} shows it",
        )
    write_json_atomically(layout.halt, {"incarnation": incarnation, "level": level})
    return incarnation
