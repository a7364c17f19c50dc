"""Records in a plain file that one process appends to: the simplest place for them.

A run commits into a checkpoint (`mpipipe.store.checkpoint`); this is for programs that need no
more than a list of records. What was appended is durable once `RecordWriter.append` returns: one
write, then fdatasync. Whatever happens to the file (cut off anywhere, bits flipped, pages zeroed),
reading it gives whole records only, all of those that are whole, and a list of the damage.

Layout: a file header (magic, random file number, length, CRC) and JSON attributes, then records.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mpipipe.data.errors import OutputError
from mpipipe.store.records import Damage, Record, RecordHead, RecordScanner, encode_head

_FILE_HEADER = struct.Struct("<8sQII")
_FILE_MAGIC = b"MPREC3\r\n"
_MAX_ATTRIBUTES = 1 << 20


class RecordWriter:
    """Appends records to a new file.

    Parameters
    ----------
    path
        The file; it must not exist.
    attributes
        What JSON can say of the file: run, incarnation, rank.
    group
        Records between two syncs; with more than 1, the last ones can be lost when the machine
        goes down (not when the process does), unless `sync` is called.

    Raises
    ------
    OutputError
        If the file exists or can not be written. A record that could not be written whole is
        taken back.
    """

    def __init__(
        self, path: Path | str, attributes: Mapping[str, Any] | None = None, group: int = 1
    ) -> None:
        self.path = Path(path)
        self._group = max(group, 1)
        self._unsynced = 0
        self._file_number = int.from_bytes(os.urandom(8), "little")
        text = json.dumps(dict(attributes or {})).encode()
        head = _FILE_HEADER.pack(_FILE_MAGIC, self._file_number, len(text), 0)[:-4]
        head += struct.pack("<I", zlib.crc32(text, zlib.crc32(head)))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise OutputError(f"can not be created: {error.strerror}", file=path) from error
        self._size = 0
        self._write([head, text])
        self.sync()
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def append(
        self,
        phase: str,
        task_id: int,
        attempt: int,
        kind: int,
        payload: bytes = b"",
        meta: bytes = b"",
    ) -> None:
        """Add a record; with ``group=1`` it is durable when this returns."""
        record = Record(phase, task_id, attempt, kind, meta, payload)
        self._write([encode_head(self._file_number, record), payload])
        self._unsynced += 1
        if self._unsynced >= self._group:
            self.sync()

    def sync(self) -> None:
        """Make all records durable."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise OutputError(f"can not be synced: {error.strerror}", file=self.path) from error
        self._unsynced = 0

    def close(self) -> None:
        """Sync and close."""
        if self._fd >= 0:
            try:
                if self._unsynced:
                    self.sync()
            finally:
                os.close(self._fd)
                self._fd = -1

    def _write(self, parts: list[bytes]) -> None:
        """Write by one call (more only beyond 2 GB); all or nothing."""
        rest = [memoryview(part) for part in parts if len(part)]
        total = sum(len(part) for part in rest)
        left = total
        try:
            while left:
                count = os.writev(self._fd, rest)
                left -= count
                while rest and count >= len(rest[0]):
                    count -= len(rest.pop(0))
                if rest:
                    rest[0] = rest[0][count:]
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise OutputError(
                f"can not be written: {error.strerror}", file=self.path, way_out="free disk space"
            ) from error
        self._size += total

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class RecordReader:
    """Reads a file of records, finished, torn, damaged, or still growing.

    Iterate over it for the whole records in the order they were written; afterwards `damage`
    tells what was passed over. What follows the last whole record while a rank is still writing
    is damage at that moment, too.

    Attributes
    ----------
    attributes
        Of the file; empty if its header is damaged, and then it has no records.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.attributes: dict[str, Any] = {}
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._fd).st_size
        self._scanner = RecordScanner(self.path, self._fd, 0, size)
        self._begin = self._read_file_header(size)

    def _read_file_header(self, size: int) -> int:
        """Where the first record begins."""
        raw = os.pread(self._fd, _FILE_HEADER.size, 0)
        if len(raw) == _FILE_HEADER.size:
            magic, file_number, length, crc = _FILE_HEADER.unpack(raw)
            if magic == _FILE_MAGIC and length <= _MAX_ATTRIBUTES:
                text = os.pread(self._fd, length, _FILE_HEADER.size)
                if len(text) == length and zlib.crc32(text, zlib.crc32(raw[:-4])) == crc:
                    self.attributes = json.loads(text)
                    self._scanner = RecordScanner(self.path, self._fd, file_number, size)
                    return _FILE_HEADER.size + length
        self.damage.append(Damage(0, size, "no header of a record file"))
        return size

    @property
    def damage(self) -> list[Damage]:
        """What was passed over so far."""
        return self._scanner.damage

    def __iter__(self) -> Iterator[Record]:
        return self._scanner.records(self._begin)

    def heads(self) -> Iterator[RecordHead]:
        """The records without their payloads, which are not read.

        A payload is checked when `at` reads it; one that is damaged has a head all the same.
        """
        return self._scanner.heads(self._begin)

    def at(self, offset: int) -> Record:
        """The record that begins at `offset`; raises `BadDataError` if none does."""
        return self._scanner.at(offset)

    def head_at(self, offset: int) -> RecordHead:
        """The head of the record that begins at `offset`; raises `BadDataError` if none does."""
        return self._scanner.head_at(offset)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_records(path: Path | str) -> tuple[list[Record], list[Damage]]:
    """All whole records of a file, and what was damaged."""
    with RecordReader(path) as reader:
        records = list(reader)
        return records, reader.damage
