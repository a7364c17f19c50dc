"""What the headers of an image tell, also when the image was removed to save space.

Before that its beginning is kept beside it, up to the pixels, in a file named NAME.head.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from mpipipe.data.errors import BadDataError
from mpipipe.store.cards import Header
from mpipipe.store.checksums import write_bytes_atomically
from mpipipe.store.fitsfile import FitsFile


class Head(NamedTuple):
    """The primary header of an image, and its shape (ny, nx)."""

    header: Header
    shape: tuple[int, ...]


def read_head(path: Path) -> Head:
    """Of an image that is there, or was.

    Raises
    ------
    BadDataError
        If neither it nor its beginning can be read.
    """
    kept = _kept(path)
    if path.exists() or not kept.exists():
        with FitsFile(path, headers_only=True) as file:
            return _head(file)
    with FitsFile(kept, headers_only=True, incomplete=True) as file:
        return _head(file)


def keep_head(path: Path) -> None:
    """Keep the beginning of an image that is about to be removed.

    Raises
    ------
    BadDataError
        If the image can not be read.
    OutputError
        If the beginning can not be written.
    """
    with FitsFile(path, headers_only=True) as file:
        end = file.hdus[-1].start
    try:
        with open(path, "rb") as stream:
            beginning = stream.read(end)
    except OSError as error:
        raise BadDataError(f"can not be read: {error.strerror}", file=path) from error
    write_bytes_atomically(_kept(path), beginning)


def forget_head(path: Path) -> None:
    """Remove what was kept of an image that is there again."""
    with contextlib.suppress(OSError):
        _kept(path).unlink(missing_ok=True)


def _kept(path: Path) -> Path:
    return path.with_suffix(".head")


def _head(file: FitsFile) -> Head:
    image = file.hdus[1] if len(file.hdus) > 1 else file.hdus[0]
    return Head(file.hdus[0].header, image.shape)
