"""Making a checkpoint file: HDF5 lays the areas, then nobody opens it with HDF5 to write."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np

from mpipipe.data.errors import OutputError
from mpipipe.store.checkpoint.geometry import COPIES, ENTRY_BYTES, USER_BLOCK, VERSION, Geometry
from mpipipe.store.checkpoint.index import ENTRY, ENTRY_HELP
from mpipipe.store.hdf5 import Area, create_areas, has_h5py
from mpipipe.store.layout import CHECKPOINT_SUFFIXES


def create_checkpoint(path: Path, geometry: Geometry) -> Path:
    """Make an empty checkpoint: aside, closed, synced, renamed. Can be done again.

    Parameters
    ----------
    path
        The file, ending in ``.h5``; one that exists is replaced.
    geometry
        Its sizes; file number and offsets are filled in.

    Returns
    -------
    Path
        The file that was made: ending in ``.ckpt``, and no HDF5, if h5py can not be imported.

    Raises
    ------
    OutputError
        If it can not be made.
    """
    with_hdf5 = has_h5py()
    path = possible_name(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        _fill_header(part, _lay_areas(part, geometry) if with_hdf5 else _plain(part, geometry))
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"can not be made: {error.strerror or error}",
            file=path,
            way_out="look at permissions and free space",
        ) from error
    return path


def possible_name(path: Path) -> Path:
    """The name of a checkpoint: it ends in ``.ckpt`` where it can not be HDF5."""
    if has_h5py() or path.suffix != CHECKPOINT_SUFFIXES[0]:
        return path
    return path.with_suffix(CHECKPOINT_SUFFIXES[1])


def _lay_areas(part: Path, geometry: Geometry) -> Geometry:
    """Make the HDF5 file; the geometry with the places of its datasets."""
    n_regions = geometry.n_regions
    index = Area(
        "index",
        ENTRY,
        (n_regions, geometry.n_entries),
        {
            "description": "one entry a record, a row a region; entries follow each other, those "
            "behind the last are zero; an entry counts only if its crc is right",
            **ENTRY_HELP,
        },
    )
    data = Area(
        "data",
        np.dtype("u1"),
        (n_regions, geometry.region_bytes),
        {
            "description": "records, back to back from the beginning of each region: a header "
            "(64 bytes), name of the phase, meta (JSON), payload; zero where nothing was written"
        },
    )
    attributes = {
        "format": "mpipipe checkpoint",
        "format_version": VERSION,
        "incarnation": geometry.incarnation,
        "description": "records of tasks; docs/checkpoint-format.md of mpipipe tells all; the user "
        "block has a header that says where index and data begin",
    }
    places = create_areas(part, USER_BLOCK, (index, data), attributes)
    return geometry.numbered(*places)


def _plain(part: Path, geometry: Geometry) -> Geometry:
    """The same areas without HDF5 around them."""
    data_offset = USER_BLOCK + _aligned(geometry.n_regions * geometry.n_entries * ENTRY_BYTES)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    return geometry.numbered(USER_BLOCK, data_offset)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // USER_BLOCK) * USER_BLOCK


def _fill_header(part: Path, geometry: Geometry) -> None:
    """Write the header, give the file its full length, make it durable."""
    fd = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < geometry.end:
            os.ftruncate(fd, geometry.end)
        header = geometry.encode()
        for place in COPIES:
            os.pwrite(fd, header, place)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
