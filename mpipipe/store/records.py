"""Records of tasks in an append-only file, one file a rank.

What a task handed over is durable once `RecordWriter.append` returns: one write, then fdatasync.
Whatever happens to the file (cut off anywhere, bits flipped, pages zeroed), reading it gives whole
records only, all of those that are whole, and a list of the damage.

Layout: a file header (magic, random file number, length, CRC) and JSON attributes, then records:
header (magic, file number, task, attempt, kind, lengths, CRC of the body, CRC of the header) and
body (phase, meta, payload). The file number keeps a record that is part of somebody's payload from
being taken for one of this file.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mpipipe.data.errors import BadDataError, OutputError

_FILE_HEADER = struct.Struct("<8sQII")
_FILE_MAGIC = b"MPREC1\r\n"
_HEADER = struct.Struct("<8sQqiiIIQII")
_MAGIC = b"\xabmprec\r\n"
_MAX_ATTRIBUTES = 1 << 20
_WINDOW = 1 << 20


@dataclass(frozen=True)
class Record:
    """One attempt at a task, as it was committed.

    Attributes
    ----------
    phase, task_id, attempt
        Which attempt.
    kind
        Its `OutcomeKind` as a number.
    meta
        Small: the outcome as JSON.
    payload
        What the task handed over.
    offset
        Where the record begins in its file.
    """

    phase: str
    task_id: int
    attempt: int
    kind: int
    meta: bytes
    payload: bytes
    offset: int = -1


@dataclass(frozen=True)
class Damage:
    """A stretch of a file that holds no whole record."""

    offset: int
    length: int
    reason: str


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
        label = phase.encode()
        crc = zlib.crc32(payload, zlib.crc32(meta, zlib.crc32(label)))
        fields = (_MAGIC, self._file_number, task_id, attempt, kind)
        lengths = (len(label), len(meta), len(payload), crc)
        head = _HEADER.pack(*fields, *lengths, 0)[:-4]
        self._write([head + struct.pack("<I", zlib.crc32(head)) + label + meta, payload])
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
    damage
        What was passed over so far.
    end
        Where the last whole record that was read ends.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.attributes: dict[str, Any] = {}
        self.damage: list[Damage] = []
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._begin = self.end = self._read_file_header()

    def _read_file_header(self) -> int:
        """Where the first record begins."""
        raw = os.pread(self._fd, _FILE_HEADER.size, 0)
        if len(raw) == _FILE_HEADER.size:
            magic, self._file_number, length, crc = _FILE_HEADER.unpack(raw)
            if magic == _FILE_MAGIC and length <= _MAX_ATTRIBUTES:
                text = os.pread(self._fd, length, _FILE_HEADER.size)
                if len(text) == length and zlib.crc32(text, zlib.crc32(raw[:-4])) == crc:
                    self.attributes = json.loads(text)
                    return _FILE_HEADER.size + length
        self.damage.append(Damage(0, self._size, "no header of a record file"))
        return self._size

    def __iter__(self) -> Iterator[Record]:
        return self.after(0)

    def after(self, offset: int) -> Iterator[Record]:
        """The records that begin at `offset` or later; it must not be inside of one.

        `end` is where the last whole one ends: where to go on when the file has grown.
        """
        offset, lost = max(offset, self._begin), -1
        self.end = offset
        reason = ""
        while offset < self._size:
            record, end, trouble = self._read_record(offset)
            if record is None:
                if lost < 0:
                    lost, reason = offset, trouble
                # Lengths in a damaged record are not to be trusted: look for the next beginning.
                offset = self._find_magic(offset + 1)
                continue
            if lost >= 0:
                self.damage.append(Damage(lost, offset - lost, reason))
                lost = -1
            self.end = end
            yield record
            offset = end
        if lost >= 0:
            self.damage.append(Damage(lost, self._size - lost, reason))

    def at(self, offset: int) -> Record:
        """The record that begins at `offset`, as an earlier iteration gave it.

        Raises
        ------
        BadDataError
            If there is no whole record any more.
        """
        record, _, trouble = self._read_record(offset)
        if record is None:
            raise BadDataError(f"record at byte {offset} is {trouble}", file=self.path)
        return record

    def _read_record(self, offset: int) -> tuple[Record | None, int, str]:
        """The record that begins at `offset` and its end; or None and what is wrong."""
        raw = os.pread(self._fd, _HEADER.size, offset)
        if len(raw) < _HEADER.size:
            return None, 0, "torn"
        fields = _HEADER.unpack(raw)
        magic, number, task_id, attempt, kind, n_label, n_meta, n_payload, crc, head_crc = fields
        if magic != _MAGIC or zlib.crc32(raw[:-4]) != head_crc:
            return None, 0, "damaged header"
        if number != self._file_number:
            return None, 0, "a record of another file"
        end = offset + _HEADER.size + n_label + n_meta + n_payload
        if end > self._size:
            return None, 0, "torn"
        body = self._pread(end - offset - _HEADER.size, offset + _HEADER.size)
        if zlib.crc32(body) != crc:
            return None, 0, "damaged body"
        label = body[:n_label].decode(errors="replace")
        meta = body[n_label : n_label + n_meta]
        payload = body[n_label + n_meta :]
        return Record(label, task_id, attempt, kind, meta, payload, offset), end, ""

    def _pread(self, length: int, offset: int) -> bytes:
        """All of a stretch: one call gives no more than 2 GB."""
        parts = []
        while length > 0:
            part = os.pread(self._fd, length, offset)
            if not part:
                break
            parts.append(part)
            length -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _find_magic(self, offset: int) -> int:
        """Where the next record may begin; the end of the file if nowhere."""
        while offset < self._size:
            window = os.pread(self._fd, _WINDOW, offset)
            found = window.find(_MAGIC)
            if found >= 0:
                return offset + found
            if len(window) < len(_MAGIC):
                break
            offset += len(window) - len(_MAGIC) + 1
        return self._size

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
