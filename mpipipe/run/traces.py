"""The events of a run: gathered from the files of its ranks into one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpipipe.data.errors import ConfigError
from mpipipe.store.hdf5 import Alone, publish_catalogue, read_catalogue
from mpipipe.store.layout import RunLayout
from mpipipe.trace.eventfile import EVENTS, event_files, read_all

_MOST_BYTES = 256 << 20
"""Of files of events that are gathered: one process reads them at once. More stay as they are."""


def table_of(layout: RunLayout, incarnation: int) -> Path:
    """Where the table of an incarnation is."""
    return layout.trace_of(incarnation) / "events.h5"


def gather_events(layout: RunLayout, incarnation: int) -> bool:
    """Write the table of an incarnation, from what its ranks have written so far.

    Returns
    -------
    bool
        Whether there was anything, and not too much.

    Raises
    ------
    OutputError
        If it can not be written.
    """
    files = event_files(layout.trace_of(incarnation))
    if not files or sum(path.stat().st_size for path in files) > _MOST_BYTES:
        return False
    publish_catalogue(Alone(), table_of(layout, incarnation), EVENTS, {0: read_all(files)})
    return True


def read_run_events(layout: RunLayout, incarnation: int | None = None) -> tuple[int, np.ndarray]:
    """The events of an incarnation, rows of `EVENTS`; of the last that has any, if None is named.

    Returns
    -------
    (int, numpy.ndarray)
        Which incarnation, and its events.

    Raises
    ------
    ConfigError
        If there are none.
    BadDataError
        If the table can not be read.
    """
    wanted = layout.incarnations()[::-1] if incarnation is None else [incarnation]
    for number in wanted:
        if files := event_files(layout.trace_of(number)):
            return number, read_all(files)
        if table_of(layout, number).exists():
            return number, read_catalogue(table_of(layout, number))[0]
    which = "of any start" if incarnation is None else f"of start {incarnation}"
    raise ConfigError(
        f"has no events {which}",
        file=layout.root,
        way_out=f"ls {layout.trace} shows what is there",
    )
