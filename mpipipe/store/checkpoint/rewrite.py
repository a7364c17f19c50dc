"""A fresh checkpoint file out of records of others: aside, synced, renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from mpipipe.data.errors import OutputError
from mpipipe.store.checkpoint.create import create_checkpoint, possible_name, sync_folder
from mpipipe.store.checkpoint.geometry import USER_BLOCK, Geometry
from mpipipe.store.checkpoint.writer import OpenFile, Region
from mpipipe.store.records import Record


def write_checkpoint(
    path: Path, incarnation: int, n_records: int, n_bytes: int, records: Iterable[Record]
) -> Path:
    """Write records into a new file with one region; durable when this returns.

    Parameters
    ----------
    path
        The file, ending in ``.h5``; it must not exist.
    n_records, n_bytes
        How many there are at most, and what they take with their headers.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        If it can not be written; nothing stays of it.
    """
    size = max(-(-n_bytes // USER_BLOCK), 1) * USER_BLOCK
    geometry = Geometry(1, size, max(n_records, 1), incarnation)
    path = possible_name(path)
    aside = create_checkpoint(path.with_name(path.name + ".new"), geometry)
    file = OpenFile(aside)
    try:
        region = Region(file, 0, reserve=False)  # a full disk costs this file alone
        for record in records:
            region.append(record)
        os.fsync(file.fd)
        os.replace(aside, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"can not be written: {error.strerror}", file=path, way_out="free disk space"
        ) from error
    finally:
        os.close(file.fd)
    return path
