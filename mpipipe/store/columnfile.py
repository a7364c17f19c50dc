"""Columns in a file of their own that many processes map at once.

Layout: what `encode_columns` gives, then a trailer: magic and CRC of everything before it.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.store.columns import column_parts, decode_columns
from mpipipe.store.fits import write_bytes_atomically

_TRAILER = struct.Struct("<8sI")
_MAGIC = b"MPCEND\r\n"


def write_column_file(
    path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
    """Write named arrays and attributes aside, sync, rename.

    Raises
    ------
    OutputError
        If the file can not be written; nothing half-written stays.
    """
    parts = column_parts(arrays, attributes)
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    write_bytes_atomically(path, b"".join([*parts, _TRAILER.pack(_MAGIC, crc)]))


def map_column_file(
    path: Path, *, check: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays (read-only, mapped, read as they are used) and attributes of such a file.

    Parameters
    ----------
    check
        Compare with the checksum, which reads the whole file. Processes that follow one that has
        checked need not do it again.

    Raises
    ------
    BadDataError
        If it is missing, cut short or damaged.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size < _TRAILER.size:
                raise BadDataError("is cut short", file=path)
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise BadDataError(f"can not be read: {error.strerror}", file=path) from error
    magic, crc = _TRAILER.unpack_from(data, size - _TRAILER.size)
    if magic != _MAGIC:
        raise BadDataError("is cut short or damaged", file=path)
    if check:
        with memoryview(data) as view:
            if zlib.crc32(view[: -_TRAILER.size]) != crc:
                raise BadDataError("is damaged: its checksum does not fit", file=path)
    try:
        return decode_columns(data)
    except BadDataError as error:
        raise BadDataError(error.reason, file=path) from error
