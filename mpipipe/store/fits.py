"""FITS files through astropy: opening them safely, writing them whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mpipipe.data.errors import BadDataError, MpipipeError, OutputError
from mpipipe.store.checksums import aside_of

if TYPE_CHECKING:
    from astropy.io import fits

RECOPY = "copy the file again from its source, or leave it out"
"""What to do about a damaged input file."""


@contextlib.contextmanager
def open_fits(
    path: str | Path | io.BytesIO, *, as_stored: bool = False, memmap: bool = False
) -> Iterator[fits.HDUList]:
    """A file, or its bytes, as astropy's HDUList, closed afterwards.

    Parameters
    ----------
    memmap
        Map the data of a plain file into memory instead of reading them.
    as_stored
        Give compressed images as the tables that they are in the file.

    Raises
    ------
    BadDataError
        If it can not be opened, is no FITS file, or its data can not be read inside the block.
    """
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            warnings.filterwarnings("error", message=".*[Tt]runcated.*")
            with fits.open(path, memmap=memmap, disable_image_compression=as_stored) as hdus:
                yield hdus
    except (MpipipeError, MemoryError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        file = None if isinstance(path, io.BytesIO) else path
        raise BadDataError(f"can not be read: {reason}", file=file, way_out=RECOPY) from error
    except Exception as error:
        # Corrupt files surface in astropy, in the decompressor and in who reads what is not there
        # as any exception, errors of their own code among them.
        raise _unsound(path, error) from error


def _unsound(path: str | Path | io.BytesIO, error: BaseException) -> BadDataError:
    reason = f"is no sound FITS file: {error or type(error).__name__}"
    file = None if isinstance(path, io.BytesIO) else path
    return BadDataError(reason, file=file, way_out=RECOPY)


def fits_bytes(hdus: fits.HDUList) -> memoryview:
    """A FITS file in memory."""
    buffer = io.BytesIO()
    hdus.writeto(buffer, output_verify="exception")
    return buffer.getbuffer()


def write_fits_atomically(path: str | Path, hdus: fits.HDUList) -> str:
    """Write a FITS file aside, sync it, read it back, rename it, sync the folder.

    Readers see the old file or the whole new one; nothing half-written stays on failure.

    Returns
    -------
    str
        SHA-256 of the file's bytes.

    Raises
    ------
    OutputError
        If there is no space or permission, or the file does not read back as it was written.
    """
    return write_bytes_atomically(Path(path), fits_bytes(hdus))


def write_bytes_atomically(path: Path, content: bytes | memoryview) -> str:
    """`write_fits_atomically` for bytes of any kind."""
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_synced(aside, content)
            _verify(aside, content, path)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"can not be written: {error.strerror or error}",
            file=path,
            way_out=_WAYS_OUT.get(error.errno or 0, "mend the folder, then resume"),
        ) from error
    return hashlib.sha256(content).hexdigest()


_WAYS_OUT = {
    errno.ENOSPC: "free some space on this disk, or choose another with -o, then resume",
    errno.EDQUOT: "the quota is used up: free some space, then resume",
    errno.EACCES: "give yourself permission to write there, or choose another folder with -o",
    errno.EPERM: "give yourself permission to write there, or choose another folder with -o",
    errno.EROFS: "the file system is read-only: choose another folder with -o",
    errno.EEXIST: "a part of the path is a file: choose another folder with -o",
    errno.ENOTDIR: "a part of the path is a file: choose another folder with -o",
}


def _write_synced(path: Path, content: bytes | memoryview) -> None:
    with open(path, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _verify(aside: Path, content: bytes | memoryview, path: Path) -> None:
    view = memoryview(content)
    with open(aside, "rb") as stream:
        position = 0
        while piece := stream.read(1 << 20):
            if piece != view[position : position + len(piece)]:
                break
            position += len(piece)
    if position != len(view):
        raise OutputError(
            "does not read back as it was written",
            file=path,
            way_out="check the disk, then resume",
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems can not sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
