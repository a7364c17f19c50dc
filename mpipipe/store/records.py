"""What a record of a task is, as bytes, and how records are found in a stretch of a file.

A record is a header of 64 bytes, the name of the phase, meta (the outcome as JSON) and a payload
(tables as `mpipipe.store.columns` writes them). The header has the checksum of the payload, and a
checksum of itself, phase and meta: so the head can be trusted without reading the payload. It also
has the number of the file, which keeps a record that is part of somebody's payload from being
taken for one of the file.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mpipipe.data.errors import BadDataError

HEADER = struct.Struct("<8sQqdiiHHIQII")
"""Magic, file number, task, time, attempt, rank, kind, bytes of phase, of meta, of payload,
CRC-32 of the payload, CRC-32 of all before it, phase and meta."""

MAGIC = b"\xabmprec2\n"
_MAX_LABEL, _MAX_META = 1 << 12, 1 << 24
_WINDOW = 1 << 20
_SMALL, _NEAR = 1 << 12, 1 << 17
_CRC = struct.Struct("<I")


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
    rank
        Who wrote it; -1 if nobody said.
    written
        When, in seconds since 1970 by the clock of its host.
    """

    phase: str
    task_id: int
    attempt: int
    kind: int
    meta: bytes
    payload: bytes
    offset: int = -1
    rank: int = -1
    written: float = 0.0


@dataclass(frozen=True, slots=True)
class RecordHead:
    """A record without its payload; fields as those of `Record`.

    Attributes
    ----------
    n_payload
        Length of its payload, whose checksum has not been looked at.
    offset, end
        Where the record begins in its file, and where the next one does.
    crc
        What the checksum of its payload should be.
    head_crc
        The checksum of the head.
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
    head_crc: int
    rank: int
    written: float


@dataclass(frozen=True)
class Damage:
    """A stretch of a file that holds no whole record.

    Attributes
    ----------
    is_loss
        Whether a whole record may have been there; False where a writer was stopped in the middle
        of one, which nobody was told of.
    """

    offset: int
    length: int
    reason: str
    is_loss: bool = True


def encode_head(file_number: int, record: Record) -> bytes:
    """Everything of a record that stands before its payload.

    Raises
    ------
    ValueError
        If a field is too long.
    """
    label = record.phase.encode()
    if len(label) > _MAX_LABEL or len(record.meta) > _MAX_META:
        raise ValueError("name of the phase or meta is too long")
    fields = (MAGIC, file_number, record.task_id, record.written or time.time(), record.attempt)
    lengths = (len(label), len(record.meta), len(record.payload), zlib.crc32(record.payload))
    head = HEADER.pack(*fields, record.rank, record.kind, *lengths, 0)[: -_CRC.size]
    crc = zlib.crc32(record.meta, zlib.crc32(label, zlib.crc32(head)))
    return head + _CRC.pack(crc) + label + record.meta


def pread_all(fd: int, length: int, offset: int) -> bytes:
    """All of a stretch, or what there is of it: one call gives no more than 2 GB."""
    parts = []
    while length > 0:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class RecordScanner:
    """Finds records in a file, whatever has happened to it.

    Parameters
    ----------
    path, fd
        The file, open for reading.
    file_number
        What its records carry.
    limit
        No record reaches beyond this place; it can be moved.

    Attributes
    ----------
    damage
        What was passed over so far.
    end
        Where the last whole record that was read ends.
    """

    def __init__(self, path: Path, fd: int, file_number: int, limit: int) -> None:
        self.path, self.limit, self.end = path, limit, 0
        self.damage: list[Damage] = []
        self._fd, self._file_number = fd, file_number
        self._window, self._window_begin = b"", 0

    def records(self, begin: int) -> Iterator[Record]:
        """The whole records that begin at this place or later."""
        found = self._walk(self.read_record, begin)
        return (record for record in found if isinstance(record, Record))

    def heads(self, begin: int) -> Iterator[RecordHead]:
        """The same without their payloads, which are not read."""
        found = self._walk(self.read_head, begin)
        return (head for head in found if isinstance(head, RecordHead))

    def whole_heads(self, begin: int) -> Iterator[RecordHead]:
        """The heads of whole records: payloads are read and compared with their checksums."""
        found = self._walk(self._read_whole_head, begin)
        return (head for head in found if isinstance(head, RecordHead))

    def _read_whole_head(self, offset: int) -> tuple[RecordHead | None, int, str]:
        record, _, trouble = self.read_record(offset)
        return (None, 0, trouble) if record is None else self.read_head(offset)

    def _walk(
        self, read: Callable[[int], tuple[Record | RecordHead | None, int, str]], offset: int
    ) -> Iterator[Record | RecordHead]:
        """What `read` finds, record by record; what is between goes to `damage`."""
        lost, reason = -1, ""
        self.end = offset
        while offset < self.limit:
            record, end, trouble = read(offset)
            if record is None:
                if lost < 0:
                    lost, reason = offset, trouble
                # Lengths in a damaged record are not to be trusted: look for the next beginning.
                offset = self.find_magic(offset + 1)
                continue
            if lost >= 0:
                self.damage.append(Damage(lost, offset - lost, reason))
                lost = -1
            self.end = end
            yield record
            offset = end
        if lost >= 0:
            self.damage.append(Damage(lost, self.limit - lost, reason))

    def at(self, offset: int) -> Record:
        """The record that begins at `offset`, as an earlier walk gave it.

        Raises
        ------
        BadDataError
            If there is no whole record any more.
        """
        record, _, trouble = self.read_record(offset)
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
        head, _, trouble = self.read_head(offset)
        if head is None:
            raise BadDataError(f"record at byte {offset} is {trouble}", file=self.path)
        return head

    def read_head(self, offset: int) -> tuple[RecordHead | None, int, str]:
        """The head of the record that begins at `offset` and its end; or None and what is wrong."""
        raw = self._peek(offset, HEADER.size)
        if len(raw) < HEADER.size:
            return None, 0, "torn"
        magic, number, task_id, written, attempt, rank, kind, n_label, n_meta, n_payload, *crcs = (
            HEADER.unpack(raw)
        )
        if magic != MAGIC or n_label > _MAX_LABEL or n_meta > _MAX_META:
            return None, 0, "damaged header"
        text = self._peek(offset + HEADER.size, n_label + n_meta)
        if len(text) < n_label + n_meta:
            return None, 0, "torn"
        crc, head_crc = crcs
        if zlib.crc32(text, zlib.crc32(raw[: -_CRC.size])) != head_crc:
            return None, 0, "damaged header"
        if number != self._file_number:
            return None, 0, "a record of another file"
        end = offset + HEADER.size + n_label + n_meta + n_payload
        if end > self.limit:
            return None, 0, "torn"
        label, meta = text[:n_label].decode(errors="replace"), text[n_label:]
        what = (label, task_id, attempt, kind, meta, n_payload, offset, end)
        return RecordHead(*what, crc, head_crc, rank, written), end, ""

    def read_record(self, offset: int) -> tuple[Record | None, int, str]:
        """The record that begins at `offset` and its end; or None and what is wrong."""
        head, end, trouble = self.read_head(offset)
        if head is None:
            return None, 0, trouble
        payload = pread_all(self._fd, head.n_payload, end - head.n_payload)
        if len(payload) != head.n_payload or zlib.crc32(payload) != head.crc:
            return None, 0, "damaged body"
        what = (head.phase, head.task_id, head.attempt, head.kind, head.meta)
        return Record(*what, payload, offset, head.rank, head.written), end, ""

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

    def find_magic(self, offset: int) -> int:
        """Where the next record may begin; `limit` if nowhere."""
        while offset < self.limit:
            window = os.pread(self._fd, min(_WINDOW, self.limit - offset), offset)
            found = window.find(MAGIC)
            if found >= 0:
                return offset + found
            if len(window) < len(MAGIC):
                break
            offset += len(window) - len(MAGIC) + 1
        return self.limit
