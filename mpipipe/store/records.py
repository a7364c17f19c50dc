"""Records of tasks in an append-only file, one file a rank.

What a task handed over is durable once `RecordWriter.append` returns: one write, then fdatasync.
Whatever happens to the file (cut off anywhere, bits flipped, pages zeroed), reading it gives whole
records only, all of those that are whole, and a list of the damage.

Layout: a file header (magic, random file number, length, CRC) and JSON attributes, then records:
header (magic, file number, task, attempt, kind, lengths, CRC of the payload, CRC of header, phase
and meta), phase, meta, payload. So a record's head can be trusted without reading its payload,
and a million records are listed in seconds (`RecordReader.heads`). The file number keeps a record
that is part of somebody's payload from being taken for one of this file.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mpipipe.data.errors import BadDataError, OutputError

_FILE_HEADER = struct.Struct("<8sQII")
_FILE_MAGIC = b"MPREC2\r\n"
_HEADER = struct.Struct("<8sQqiiIIQII")
_MAGIC = b"\xabmprec\r\n"
_MAX_ATTRIBUTES = 1 << 20
_MAX_LABEL, _MAX_META = 1 << 12, 1 << 24
_WINDOW = 1 << 20
_SMALL, _NEAR = 1 << 12, 1 << 17


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


@dataclass(frozen=True, slots=True)
class RecordHead:
    """A record without its payload.

    Attributes
    ----------
    n_payload
        Length of its payload, whose checksum has not been looked at.
    offset, end
        Where the record begins in its file, and where the next one does.
    crc
        What the checksum of its payload should be.
    """

    phase: str
    task_id: int
    attempt: int
    kind: int
    meta: bytes
    n_payload: int
    offset: int
    end: int
    crc: int


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
        if len(label) > _MAX_LABEL or len(meta) > _MAX_META:
            raise ValueError("name of the phase or meta is too long")
        crc = zlib.crc32(payload)
        fields = (_MAGIC, self._file_number, task_id, attempt, kind)
        lengths = (len(label), len(meta), len(payload), crc)
        head = _HEADER.pack(*fields, *lengths, 0)[:-4]
        head_crc = zlib.crc32(meta, zlib.crc32(label, zlib.crc32(head)))
        self._write([head + struct.pack("<I", head_crc) + label + meta, payload])
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
        self._window, self._window_begin = b"", 0
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
        return (record for record in self._walk(self._read_record) if isinstance(record, Record))

    def heads(self, after: int = 0) -> Iterator[RecordHead]:
        """The records without their payloads, which are not read.

        A payload is checked when `at` reads it; one that is damaged has a head all the same.

        Parameters
        ----------
        after
            Only those that begin there or later; it must not be inside of a record. `end` is
            where to go on when the file has grown.
        """
        found = self._walk(self._read_head, after)
        return (head for head in found if isinstance(head, RecordHead))

    def _walk(
        self, read: Callable[[int], tuple[Record | RecordHead | None, int, str]], after: int = 0
    ) -> Iterator[Record | RecordHead]:
        """What `read` finds, record by record; what is between goes to `damage`."""
        offset, lost = max(after, self._begin), -1
        self.end = offset
        reason = ""
        while offset < self._size:
            record, end, trouble = read(offset)
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

    def head_at(self, offset: int) -> RecordHead:
        """The head of the record that begins at `offset`.

        Raises
        ------
        BadDataError
            If there is none any more.
        """
        head, _, trouble = self._read_head(offset)
        if head is None:
            raise BadDataError(f"record at byte {offset} is {trouble}", file=self.path)
        return head

    def _read_head(self, offset: int) -> tuple[RecordHead | None, int, str]:
        """The head of the record that begins at `offset` and its end; or None and what is wrong."""
        raw = self._peek(offset, _HEADER.size)
        if len(raw) < _HEADER.size:
            return None, 0, "torn"
        magic, number, task_id, attempt, kind, n_label, n_meta, n_payload, crc, head_crc = (
            _HEADER.unpack(raw)
        )
        if magic != _MAGIC or n_label > _MAX_LABEL or n_meta > _MAX_META:
            return None, 0, "damaged header"
        text = self._peek(offset + _HEADER.size, n_label + n_meta)
        if len(text) < n_label + n_meta:
            return None, 0, "torn"
        if zlib.crc32(text, zlib.crc32(raw[:-4])) != head_crc:
            return None, 0, "damaged header"
        if number != self._file_number:
            return None, 0, "a record of another file"
        end = offset + _HEADER.size + n_label + n_meta + n_payload
        if end > self._size:
            return None, 0, "torn"
        label = text[:n_label].decode(errors="replace")
        meta = text[n_label:]
        head = RecordHead(label, task_id, attempt, kind, meta, n_payload, offset, end, crc)
        return head, end, ""

    def _read_record(self, offset: int) -> tuple[Record | None, int, str]:
        """The record that begins at `offset` and its end; or None and what is wrong."""
        head, end, trouble = self._read_head(offset)
        if head is None:
            return None, 0, trouble
        payload = self._pread(head.n_payload, end - head.n_payload)
        if len(payload) != head.n_payload or zlib.crc32(payload) != head.crc:
            return None, 0, "damaged body"
        record = Record(
            head.phase, head.task_id, head.attempt, head.kind, head.meta, payload, offset
        )
        return record, end, ""

    def _peek(self, offset: int, length: int) -> bytes:
        """A short stretch, out of a window that is read again when it does not hold it.

        After a small step the next ones will be small, too, so a large window pays.
        """
        begin = offset - self._window_begin
        if begin >= 0 and begin + length <= len(self._window):
            return self._window[begin : begin + length]
        near = 0 <= begin <= len(self._window) + _SMALL
        size = max(length, _NEAR if near else _SMALL)
        self._window = os.pread(self._fd, size, offset)
        self._window_begin = offset
        return self._window[:length]

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
