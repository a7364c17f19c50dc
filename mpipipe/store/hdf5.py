"""Catalogues as HDF5 files: one contiguous dataset a column. The only module that imports h5py.

It also lays the areas of a checkpoint file (`create_areas`), which are written without HDF5.

Which calls are collective: `publish_catalogue` is, in the sense that every rank must call it. Of
HDF5's own calls none is: the file is created by rank 0 with the plain driver and closed before any
other rank opens it, and then every rank writes its slices through a handle of its own (the mpio
driver on COMM_SELF), so a rank that dies takes no other rank's file down with it. Creation fixes
all metadata: early allocation, no fill, no times, no filters. What remains is data at fixed places,
so the file has the same bits whoever writes them. Where h5py was built without MPI, a rank writes
to those places directly.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mpipipe.data.errors import BadDataError, MpipipeError, OutputError
from mpipipe.data.schema import Column, Schema
from mpipipe.store.sky_index import SKY_ORDER, SkyIndex, sky_cells

FORMAT_VERSION = 1
_ALIGN_FROM, _ALIGN = 1 << 16, 1 << 12
_META = 1 << 12
_INDEX = "_cells"
"""Group of a sky index; no column has such a name."""

_NO_COUNTS = np.zeros((0, 3), dtype="<i8")
_lock = threading.Lock()


class RankGroup(Protocol):
    """What publishing needs of the ranks; `parallel.world.World` is one."""

    @property
    def rank(self) -> int:
        """This rank."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def self_comm(self) -> Any:
        """MPI's COMM_SELF, or None without MPI."""

    def agree(self, ok: bool) -> bool:
        """Whether all ranks say `ok`. Collective."""

    def allgather(self, data: bytes) -> list[bytes]:
        """Everybody's bytes. Collective."""


class Alone:
    """The `RankGroup` of one process."""

    rank = 0
    size = 1
    self_comm = None

    def agree(self, ok: bool) -> bool:
        """What this rank says."""
        return ok

    def allgather(self, data: bytes) -> list[bytes]:
        """This rank's bytes."""
        return [data]


def publish_catalogue(
    ranks: RankGroup,
    path: Path | str,
    schema: Schema,
    tables: Mapping[int, np.ndarray],
    attributes: Mapping[str, Any] | None = None,
    *,
    by_sky: bool = False,
) -> int:
    """Write a catalogue whose rows are spread over the ranks. Collective.

    Rows are ordered by task id, then as they stand in their table, so the file does not depend on
    which rank holds which table.

    Parameters
    ----------
    path
        The file; written aside (PATH, a number of this call, ``.part``), then renamed. One that
        exists is replaced.
    schema
        Columns with units and descriptions.
    tables
        Task id to rows (structured, at least the schema's columns) of the tasks of this rank.
    attributes
        What JSON can say of the table; the same on every rank. Rank 0's are written.
    by_sky
        Rows come in the order of their cells (`mpipipe.store.sky_index.sky_order` sorts them
        so), from task to task, too; tasks may share a cell. An index of the cells is written.

    Returns
    -------
    int
        Number of rows in the catalogue.

    Raises
    ------
    OutputError
        On every rank, if any of them can not write its part.
    MpipipeError
        On every rank, if two tables have the same task id, one lacks a column, or rows are not
        in the order of their cells.
    """
    path = Path(path)
    # Ranks behind a network split may publish the same file meanwhile.
    token = ranks.allgather(secrets.token_hex(8).encode())[0].decode()
    part = path.with_name(f"{path.name}.{token}.part")
    with _all_or_none(ranks, path):
        columns = {task: _check(schema, rows, task) for task, rows in sorted(tables.items())}
        counts = _cell_counts(schema, columns) if by_sky else _NO_COUNTS
    starts, n_rows = _places(ranks, {task: len(rows) for task, rows in columns.items()}, path)
    index = _sky_index(ranks, counts, path) if by_sky else None
    try:
        with _all_or_none(ranks, path):
            if ranks.rank == 0:
                _create(part, schema, n_rows, attributes or {}, index)
        with _all_or_none(ranks, path):
            if any(len(rows) for rows in columns.values()):
                _write(ranks, part, schema, columns, starts)
        with _all_or_none(ranks, path):
            if ranks.rank == 0:
                os.replace(part, path)
                _sync(path.parent)
    except BaseException:
        if ranks.rank == 0:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise
    return n_rows


@contextlib.contextmanager
def opened_catalogue(path: Path | str) -> Iterator[OpenCatalogue]:
    """A catalogue, open for reading.

    Raises
    ------
    BadDataError
        If the file is no catalogue.
    """
    with contextlib.ExitStack() as stack:
        with _reading(path):
            file = stack.enter_context(_h5py().File(path, "r", locking=False))
            if file.attrs.get("format") != "mpipipe catalogue":
                raise BadDataError("is HDF5, but no catalogue of mpipipe", file=path)
            catalogue = OpenCatalogue(Path(path), file)
        yield catalogue


class OpenCatalogue:
    """A catalogue that is open; only what is asked for is read.

    Attributes
    ----------
    path
        The file.
    names
        Names of its columns.
    n_rows
        Number of rows.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self.names = tuple(map(str, json.loads(file.attrs["columns"])))
        self.n_rows = int(file.attrs["n_rows"])
        self._file = file
        self._described: dict[str, tuple[Column, int]] = {}

    @cached_property
    def schema(self) -> Schema:
        """Its columns.

        Raises
        ------
        BadDataError
            If their descriptions are damaged.
        """
        return self.select(self.names)

    def select(self, names: Sequence[str] | None = None) -> Schema:
        """The schema with these columns only, in this order; None for all.

        Raises
        ------
        BadDataError
            If the catalogue lacks one.
        """
        if names is None:
            return self.schema
        missing = [name for name in names if name not in self.names]
        if missing:
            raise BadDataError(
                f"has no such column; it has {', '.join(self.names)}",
                file=self.path,
                key=missing[0],
            )
        with _reading(self.path):
            of_table = self._file.attrs
            columns = tuple(self._describe(name)[0] for name in names)
            return Schema(str(of_table["table"]), str(of_table["description"]), columns)

    def column(self, column: Column, rows: slice = slice(None)) -> np.ndarray:
        """The values of a column in a slice of rows, beside HDF5, which takes twice as long."""
        begin, end, step = rows.indices(self.n_rows)
        dtype = _stored(np.dtype(column.dtype))
        values = np.empty((max(end - begin, 0), *dtype.shape), dtype=dtype.base)
        with _reading(self.path):
            if values.size:
                place = self._describe(column.name)[1] + begin * dtype.itemsize
                _read_into(self._file.id.get_vfd_handle(), values, place)
            return _from_file(values[::step], np.dtype(column.dtype))

    def index(self) -> SkyIndex | None:
        """The sky index; None if rows are not in the order of the sky."""
        with _reading(self.path):
            group = self._file.get(_INDEX)
            if group is None or int(group.attrs["order"]) != SKY_ORDER:
                return None
            return SkyIndex(group["cell"][...], group["first"][...])

    def attributes(self) -> dict[str, Any]:
        """What the catalogue was published with."""
        with _reading(self.path):
            return dict(json.loads(self._file.attrs["attributes"]))

    def map_column(self, column: Column) -> np.ndarray:
        """A column as it is stored, mapped into memory, read-only; text is UTF-8 bytes."""
        dtype = _stored(np.dtype(column.dtype))
        if not self.n_rows:
            return np.zeros((0, *dtype.shape), dtype=dtype.base)
        with _reading(self.path):
            place, shape = self._describe(column.name)[1], (self.n_rows, *dtype.shape)
            return np.memmap(self.path, dtype=dtype.base, mode="r", offset=place, shape=shape)

    def _describe(self, name: str) -> tuple[Column, int]:
        """A column, and where in the file its values begin: when asked for, as it takes a while."""
        if name not in self._described:
            dataset = self._file[name]
            fields = (str(dataset.attrs[key]) for key in ("dtype", "unit", "description", "ucd"))
            self._described[name] = Column(name, *fields), dataset.id.get_offset()
        return self._described[name]


def read_schema(path: Path | str) -> Schema:
    """The schema of a catalogue.

    Raises
    ------
    BadDataError
        If the file is no catalogue.
    """
    with opened_catalogue(path) as catalogue:
        return catalogue.schema


def read_attributes(path: Path | str) -> dict[str, Any]:
    """The attributes that a catalogue was published with."""
    with opened_catalogue(path) as catalogue:
        return catalogue.attributes()


def read_catalogue(
    path: Path | str, columns: Sequence[str] | None = None, *, rows: slice = slice(None)
) -> np.ndarray:
    """The rows of a catalogue as a structured array.

    Parameters
    ----------
    columns
        Names of the columns to read; None for all.
    rows
        Which rows to read; no others are.

    Raises
    ------
    BadDataError
        If the file is no catalogue or lacks a column.
    """
    with opened_catalogue(path) as catalogue:
        schema = catalogue.select(columns)
        found = schema.empty(len(range(*rows.indices(catalogue.n_rows))))
        if len(found):
            for column in schema.columns:
                found[column.name] = catalogue.column(column, rows)
        return found


# -- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _all_or_none(ranks: RankGroup, path: Path) -> Iterator[None]:
    """Let every rank know whether the block went well on all; collective."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    if ranks.agree(error is None):
        return
    if error is None:
        raise OutputError("another rank could not do its part", file=path)
    if isinstance(error, MpipipeError):
        raise error
    raise OutputError(
        f"can not be written: {error}", file=path, way_out="look at permissions and free space"
    ) from error


def _check(schema: Schema, rows: np.ndarray, task_id: int) -> np.ndarray:
    """The rows, if they have the columns of the schema in a form that loses nothing."""
    names = rows.dtype.names or ()
    for column in schema.columns:
        if column.name not in names:
            reason = f"the {schema.name} table of task {task_id} lacks this column"
            raise MpipipeError(reason, key=column.name)
        found, wanted = rows.dtype[column.name], np.dtype(column.dtype)
        if found.shape != wanted.shape or not np.can_cast(found.base, wanted.base, "same_kind"):
            reason = f"the {schema.name} table of task {task_id} has {found}, not {wanted}"
            raise MpipipeError(reason, key=column.name)
    return rows


def _places(ranks: RankGroup, lengths: Mapping[int, int], path: Path) -> tuple[dict[int, int], int]:
    """First row of every task in the catalogue, and the number of rows. Collective."""
    mine = np.array(list(lengths.items()), dtype="<i8").reshape(-1, 2)
    everyones = [np.frombuffer(raw, dtype="<i8") for raw in ranks.allgather(mine.tobytes())]
    found = np.concatenate(everyones).reshape(-1, 2)
    found = found[np.argsort(found[:, 0], kind="stable")]
    twice = found[1:][np.diff(found[:, 0]) == 0]
    if len(twice):
        raise MpipipeError(f"two tables came from task {twice[0, 0]}", file=path)
    ends = np.cumsum(found[:, 1])
    first = ends - found[:, 1]
    n_rows = int(ends[-1]) if len(ends) else 0
    return dict(zip(found[:, 0].tolist(), first.tolist(), strict=True)), n_rows


def _cell_counts(schema: Schema, tables: Mapping[int, np.ndarray]) -> np.ndarray:
    """Rows (task, cell, how many) in the order of rows, (n, 3) int64.

    Raises
    ------
    MpipipeError
        If the rows of a task are not in the order of their cells.
    """
    ra_name, dec_name = schema.position
    found = [_NO_COUNTS]
    for task_id, rows in tables.items():
        cells = sky_cells(rows[ra_name], rows[dec_name])
        if np.any(np.diff(cells) < 0):
            reason = f"the {schema.name} table of task {task_id} is not in the order of sky cells"
            raise MpipipeError(reason)
        unique, counts = np.unique(cells, return_counts=True)
        found.append(np.stack([np.full(len(unique), task_id), unique, counts], axis=1))
    return np.concatenate(found).astype("<i8")


def _sky_index(ranks: RankGroup, counts: np.ndarray, path: Path) -> SkyIndex:
    """The index of the whole catalogue. Collective."""
    everyones = [np.frombuffer(raw, dtype="<i8") for raw in ranks.allgather(counts.tobytes())]
    found = np.concatenate(everyones).reshape(-1, 3)
    found = found[np.argsort(found[:, 0], kind="stable")]
    try:
        return SkyIndex.of_counts(found[:, 1], found[:, 2])
    except ValueError as error:
        raise MpipipeError(f"{error}, from task to task", file=path) from error


def _create(
    part: Path,
    schema: Schema,
    n_rows: int,
    attributes: Mapping[str, Any],
    index: SkyIndex | None = None,
) -> None:
    """Make the whole file but for the values of columns."""
    h5py = _h5py()
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    n_columns = len(schema.columns)
    n_bytes = n_rows * _row_bytes(schema) + n_columns * (_ALIGN + _META) + _META
    if index is not None:
        n_bytes += index.cells.nbytes + index.first.nbytes + 2 * (_ALIGN + _META)
    _try_space(part, n_bytes)
    settings = {"alignment_threshold": _ALIGN_FROM, "alignment_interval": _ALIGN}
    with h5py.File(part, "x", libver=("earliest", "v110"), **settings) as file:
        file.attrs["format"] = "mpipipe catalogue"
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["table"] = schema.name
        file.attrs["description"] = schema.description
        file.attrs["n_rows"] = n_rows
        file.attrs["columns"] = json.dumps([column.name for column in schema.columns])
        file.attrs["attributes"] = json.dumps(dict(attributes), sort_keys=True)
        for column in schema.columns:
            stored = _stored(np.dtype(column.dtype))
            _create_dataset(h5py, file, column.name, stored.base, (n_rows, *stored.shape))
            labels = file[column.name].attrs
            labels["unit"] = column.unit
            labels["description"] = column.description
            labels["ucd"] = column.ucd
            labels["dtype"] = column.dtype
        if index is not None:
            _create_index(h5py, file, index)
        file.flush()
    with open(part, "r+b") as stream:
        # Every rank's slices have their place on the disk before any is written.
        _allocate(stream.fileno(), os.fstat(stream.fileno()).st_size)
    _sync(part)


def _create_index(h5py: Any, file: Any, index: SkyIndex) -> None:
    group = file.create_group(_INDEX)
    group.attrs["order"] = SKY_ORDER
    group.attrs["description"] = (
        "HEALPix cells (nested, ICRS) that hold rows, ascending, and the first row of each; "
        "first has one end more; rows without a position are in cell 12 * 4**order"
    )
    for name, values in (("cell", index.cells), ("first", index.first)):
        _create_dataset(h5py, group, name, np.dtype("<i8"), values.shape)
        group[name][...] = values


def _row_bytes(schema: Schema) -> int:
    return sum(_stored(np.dtype(column.dtype)).itemsize for column in schema.columns)


def _try_space(path: Path, n_bytes: int) -> None:
    """See whether a file of that size has a place on the disk.

    When the disk is full libhdf5 fails to write what it holds, and then crashes on leaving; so it
    must not be the one to find out.
    """
    probe = path.with_name(f"{path.name}.space.part")
    try:
        with open(probe, "xb") as stream:
            _allocate(stream.fileno(), n_bytes)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _allocate(fd: int, n_bytes: int) -> None:
    """Give a file its blocks, where the file system can."""
    try:
        os.posix_fallocate(fd, 0, max(n_bytes, 1))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _create_dataset(
    h5py: Any, file: Any, name: str, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    """A dataset whose place in the file is fixed from the beginning."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=plist)


@dataclass(frozen=True)
class Area:
    """A dataset that others will fill without HDF5, and what its attributes say."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]


def has_h5py() -> bool:
    """Whether h5py can be imported."""
    try:
        _h5py()
    except ImportError:
        return False
    return True


def create_areas(
    path: Path, user_block: int, areas: Sequence[Area], attributes: Mapping[str, Any]
) -> list[int]:
    """Make a sparse HDF5 file with a user block and these datasets, and close it. Not collective.

    Parameters
    ----------
    path
        The file; it must not exist.
    user_block
        Bytes before the HDF5 superblock, a power of 2; datasets begin at its multiples.

    Returns
    -------
    list of int
        Where each dataset begins, from the beginning of the file.
    """
    h5py = _h5py()
    _try_space(path, 2 * user_block + len(areas) * _META)
    settings = {"alignment_threshold": _ALIGN_FROM, "alignment_interval": user_block}
    with h5py.File(
        path,
        "x",
        libver=("earliest", "v110"),
        userblock_size=user_block,
        locking=False,
        **settings,
    ) as file:
        file.attrs.update(attributes)
        for area in areas:
            _create_dataset(h5py, file, area.name, area.dtype, area.shape)
            file[area.name].attrs.update(area.attributes)
        places = [file[area.name].id.get_offset() for area in areas]
        file.flush()
    return places


def _write(
    ranks: RankGroup,
    part: Path,
    schema: Schema,
    tables: Mapping[int, np.ndarray],
    starts: Mapping[int, int],
) -> None:
    """Write this rank's rows to their places."""
    h5py = _h5py()
    runs = _runs(tables, starts)
    has_mpio = ranks.self_comm is not None and h5py.get_config().mpi
    if ranks.size > 1 and not has_mpio:
        _write_directly(part, schema, runs)
        return
    driver = {"driver": "mpio", "comm": ranks.self_comm} if has_mpio else {}
    with h5py.File(part, "r+", **driver) as file:
        for column in schema.columns:
            dataset = file[column.name]
            for start, rows in runs:
                values = _to_file(rows, column)
                dataset[start : start + len(values)] = values
    _sync(part)


def _write_directly(
    part: Path, schema: Schema, runs: Sequence[tuple[int, Sequence[np.ndarray]]]
) -> None:
    """Write this rank's rows without HDF5: handles of a serial HDF5 would disturb each other."""
    h5py = _h5py()
    with h5py.File(part, "r", locking=False) as file:
        offsets = {column.name: file[column.name].id.get_offset() for column in schema.columns}
    fd = os.open(part, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for column in schema.columns:
            for start, rows in runs:
                values = np.ascontiguousarray(_to_file(rows, column))
                data = memoryview(values.reshape(-1).view(np.uint8).data)
                place = offsets[column.name] + start * (len(data) // len(values))
                while data:
                    count = os.pwrite(fd, data, place)
                    data, place = data[count:], place + count
        os.fsync(fd)
    finally:
        os.close(fd)


def _runs(
    tables: Mapping[int, np.ndarray], starts: Mapping[int, int]
) -> list[tuple[int, list[np.ndarray]]]:
    """Tables that follow each other in the catalogue, together: (first row, tables)."""
    runs: list[tuple[int, list[np.ndarray]]] = []
    end = -1
    for task_id, rows in tables.items():
        if not len(rows):
            continue
        if starts[task_id] == end:
            runs[-1][1].append(rows)
        else:
            runs.append((starts[task_id], [rows]))
        end = starts[task_id] + len(rows)
    return runs


def _stored(dtype: np.dtype) -> np.dtype:
    """How a column is stored: little-endian; text as UTF-8 in a fixed number of bytes."""
    base = dtype.base
    if base.kind == "U":  # four bytes a character, as many as UTF-8 can need
        base = np.dtype(f"S{max(base.itemsize, 1)}")
    elif base.kind not in "biufcS":
        raise OutputError(f"a column of dtype {dtype} can not be stored")
    return np.dtype((base.newbyteorder("<"), dtype.shape))


def _to_file(tables: Sequence[np.ndarray], column: Column) -> np.ndarray:
    """The values of a column as they are stored."""
    dtype = np.dtype(column.dtype)
    found = []
    for rows in tables:
        values = rows[column.name]
        if dtype.base.kind == "U" and values.dtype.kind == "U":
            values = np.strings.encode(values, "utf-8")
        found.append(np.asarray(values).astype(_stored(dtype).base, copy=False))
    return found[0] if len(found) == 1 else np.concatenate(found)


def _from_file(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values of a column as they were handed over."""
    if dtype.base.kind == "U":
        return np.strings.decode(values, "utf-8")
    return values.astype(dtype.base, copy=False)


def _sync(path: Path) -> None:
    """Make a file or folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- reading -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """HDF5's errors become ours."""
    try:
        yield
    except (OSError, KeyError, ValueError) as error:
        raise BadDataError(f"can not be read as a catalogue: {error}", file=path) from error


def _read_into(fd: int, values: np.ndarray, place: int) -> None:
    """Fill an array from a place in a file.

    Raises
    ------
    ValueError
        If the file ends before.
    """
    data = memoryview(values.reshape(-1).view(np.uint8).data)
    while data:
        count = os.preadv(fd, [data], place)
        if not count:
            raise ValueError("it was cut short")
        data, place = data[count:], place + count


def _h5py() -> Any:
    """The h5py module, imported when it is needed, without starting MPI."""
    with _lock:
        # A parallel h5py imports mpi4py, which would start MPI where nobody asked for it.
        os.environ.setdefault("MPI4PY_RC_INITIALIZE", "0")
        import h5py
    return h5py
