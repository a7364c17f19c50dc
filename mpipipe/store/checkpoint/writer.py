"""Writing records into a checkpoint: each rank for itself, no messages, no HDF5.

A record goes to the end of the rank's region, then its entry into the region's index, then one
sync makes both durable. The checksums tell whether all of it has arrived, so no order between the
two is needed. When the region is full, another one is claimed; when there is none, or the record
is larger than any, the rank goes on in a file of its own.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from mpipipe.data.errors import OutputError
from mpipipe.store.checkpoint.create import create_checkpoint
from mpipipe.store.checkpoint.geometry import ENTRY_BYTES, USER_BLOCK, Geometry, read_geometry
from mpipipe.store.checkpoint.index import encode_entry
from mpipipe.store.checkpoint.pool import FOLDER, RegionPool
from mpipipe.store.checkpoint.space import Reservation
from mpipipe.store.checkpoint.syncing import Durability, SyncTimer
from mpipipe.store.records import HEADER, Record, RecordHead, encode_head

_DATA_STEP, _INDEX_STEP = 8 << 20, 1 << 16


class OpenFile:
    """A checkpoint that is open for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_dirty = False
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise OutputError(f"can not be opened: {error.strerror}", file=path) from error
        geometry = read_geometry(self.fd, path)
        if geometry is None:
            raise OutputError("has no header of a checkpoint", file=path)
        self.geometry: Geometry = geometry

    def write(self, parts: list[bytes], offset: int) -> None:
        """Write all parts one after the other."""
        self.is_dirty = True
        done, total = 0, sum(map(len, parts))
        while done < total:
            done += os.pwritev(self.fd, _behind(parts, done), offset + done)


def _behind(parts: list[bytes], done: int) -> list[memoryview]:
    """What is left of the parts after so many bytes."""
    rest = []
    for part in parts:
        if done < len(part):
            rest.append(memoryview(part)[done:])
        done = max(done - len(part), 0)
    return rest


class Region:
    """A region of which this process is the only writer."""

    def __init__(self, file: OpenFile, region: int, *, reserve: bool) -> None:
        geometry = file.geometry
        self.file = file
        self._data, self._data_end = geometry.data_of(region), geometry.data_of(region + 1)
        self._entry, self._index_end = geometry.index_of(region), geometry.index_of(region + 1)
        self._space = (
            Reservation(file.fd, self._data, self._data_end, _DATA_STEP),
            Reservation(file.fd, self._entry, self._index_end, _INDEX_STEP),
        )
        self._reserve = reserve

    def has_room(self, n_bytes: int) -> bool:
        """Whether a record of this size fits."""
        return self._data + n_bytes <= self._data_end and self._entry < self._index_end

    def append(self, record: Record) -> None:
        """Write a record and its entry; if that fails the next one takes its place."""
        number = self.file.geometry.file_number
        head = encode_head(number, record)
        end = self._data + len(head) + len(record.payload)
        if self._reserve:
            self._space[0].reach(end)
            self._space[1].reach(self._entry + ENTRY_BYTES)
        self.file.write([head, record.payload], self._data)
        crc, head_crc = HEADER.unpack_from(head)[-2:]
        what = (record.phase, record.task_id, record.attempt, record.kind, b"")
        where = (len(record.payload), self._data, end, crc, head_crc)
        entry = encode_entry(number, RecordHead(*what, *where, record.rank, record.written))
        self.file.write([entry], self._entry)
        self._data = end
        self._entry += ENTRY_BYTES


class CheckpointWriter:
    """Commits the records of one rank.

    Parameters
    ----------
    folder
        Of the incarnation.
    rank, n_ranks
        This rank, and how many began.
    own
        Sizes of files of its own, which it makes when it needs them.
    timer
        When to sync; None: every record by itself.
    shared
        The file of all ranks; None for files of its own alone.

    Raises
    ------
    OutputError
        If a file can not be opened or written, with the way out. A record that is not written
        whole does not count.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        n_ranks: int,
        own: Geometry,
        timer: SyncTimer | None = None,
        shared: Path | None = None,
    ) -> None:
        self._folder, self._rank, self._own = folder, rank, own
        self._timer = timer or SyncTimer()
        self._files: list[OpenFile] = []
        self._shared: OpenFile | None = None
        self._region: Region | None = None
        self._own_file: OpenFile | None = None
        self._n_own = self._next_own = 0
        if shared is not None:
            self._shared = self._open(shared)
            n_regions = self._shared.geometry.n_regions
            self._pool = RegionPool(folder / FOLDER, n_regions, rank, n_ranks)

    def append(
        self,
        phase: str,
        task_id: int,
        attempt: int,
        kind: int,
        payload: bytes = b"",
        meta: bytes = b"",
    ) -> None:
        """Add a record; when this returns it is as durable as the timer asks for."""
        what = (phase, task_id, attempt, kind, meta, payload)
        record = Record(*what, rank=self._rank, written=time.time())
        region = self._region_for(HEADER.size + len(phase.encode()) + len(meta) + len(payload))
        try:
            region.append(record)
        except OSError as error:
            raise OutputError(
                f"a record can not be written: {error.strerror}",
                file=region.file.path,
                way_out="free disk space, then go on with: mpipipe run --resume RUN",
            ) from error
        self._timer.wrote()
        self.sync_if_due()

    def sync_if_due(self) -> None:
        """Sync if records have waited long enough; to be called once in a while."""
        if self._timer.is_due:
            self.sync()

    def sync(self) -> None:
        """Make all records durable, if power losses are to be survived at all."""
        if self._timer.durability is not Durability.POWER or not self._timer.n_unsynced:
            return
        begin = time.monotonic()
        for file in self._files:
            if file.is_dirty:
                try:
                    os.fdatasync(file.fd)
                except OSError as error:
                    reason = f"can not be synced: {error.strerror}"
                    raise OutputError(reason, file=file.path) from error
                file.is_dirty = False
        self._timer.synced(time.monotonic() - begin)

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            while self._files:
                os.close(self._files.pop().fd)

    def _open(self, path: Path) -> OpenFile:
        self._files.append(OpenFile(path))
        return self._files[-1]

    def _region_for(self, n_bytes: int) -> Region:
        """Where a record of this size goes."""
        if self._region is not None and self._region.has_room(n_bytes):
            return self._region
        if self._shared is not None and n_bytes <= self._shared.geometry.region_bytes:
            if (number := self._pool.claim()) is not None:
                self._region = self._take(self._shared, number)
                return self._region
        elif n_bytes > self._own.region_bytes:
            # For this record alone: those that follow go on where there is room for them.
            return self._own_region(n_bytes)
        self._region = self._own_region(n_bytes)
        return self._region

    def _own_region(self, n_bytes: int) -> Region:
        """A region in a file of this rank, made if need be."""
        file = self._own_file
        if (
            file is None
            or self._next_own >= file.geometry.n_regions
            or n_bytes > file.geometry.region_bytes
        ):
            size = max(self._own.region_bytes, -(-n_bytes // USER_BLOCK) * USER_BLOCK)
            path = self._folder / f"rank-{self._rank:05d}-{self._n_own:02d}.h5"
            file = self._open(create_checkpoint(path, replace(self._own, region_bytes=size)))
            self._own_file, self._next_own = file, 0
            self._n_own += 1
        self._next_own += 1
        return self._take(file, self._next_own - 1)

    def _take(self, file: OpenFile, region: int) -> Region:
        return Region(file, region, reserve=self._timer.durability is not Durability.NONE)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
