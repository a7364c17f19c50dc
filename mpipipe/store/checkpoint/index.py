"""Index entries: 64 bytes a record, with a checksum of their own, checked many at a time."""

from __future__ import annotations

import functools
import struct
import zlib

import numpy as np

from mpipipe.store.records import HEADER, RecordHead

ENTRY = np.dtype(
    [
        ("task", "<i8"),
        ("offset", "<i8"),
        ("n_payload", "<i8"),
        ("written", "<f8"),
        ("attempt", "<i4"),
        ("rank", "<i4"),
        ("phase", "<u4"),
        ("n_head", "<u4"),
        ("payload_crc", "<u4"),
        ("head_crc", "<u4"),
        ("kind", "<u2"),
        ("mark", "<u2"),
        ("crc", "<u4"),
    ]
)
"""What an entry says of its record; described column by column in `ENTRY_HELP`."""

ENTRY_HELP = {
    "task": "number of the task in the plan of the run",
    "offset": "where the record begins, in bytes from the beginning of the file",
    "n_payload": "bytes of the payload",
    "written": "when, in seconds since 1970 by the clock of the writer's host",
    "attempt": "number of the attempt at the task, from 1",
    "rank": "rank that wrote the record",
    "phase": "CRC-32 of the name of the phase",
    "n_head": "bytes before the payload: header of the record, name of the phase, meta",
    "payload_crc": "CRC-32 of the payload",
    "head_crc": "CRC-32 that stands in the header of the record",
    "kind": "outcome: 0 done, 1 partial, 2 no work, 3 bad data, 4 failed, 5 timed out, 6 lost",
    "mark": "0x4d49; 0 where there is no entry",
    "crc": "CRC-32 of the file number (8 bytes, little-endian) and the 60 bytes before this",
}

MARK = 0x4D49
_PACK = struct.Struct("<qqqdiiIIIIHH")
_BODY = ENTRY.itemsize - 4
_CHUNK = 1 << 14


def phase_code(phase: str) -> int:
    """What stands for a phase in the index."""
    return zlib.crc32(phase.encode())


def encode_entry(file_number: int, head: RecordHead) -> bytes:
    """The index entry of a record."""
    body = _PACK.pack(
        head.task_id,
        head.offset,
        head.n_payload,
        head.written,
        head.attempt,
        head.rank,
        phase_code(head.phase),
        head.end - head.n_payload - head.offset,
        head.crc,
        head.head_crc,
        head.kind,
        MARK,
    )
    crc = zlib.crc32(body, zlib.crc32(file_number.to_bytes(8, "little")))
    return body + crc.to_bytes(4, "little")


def whole_entries(rows: np.ndarray, file_number: int) -> np.ndarray:
    """Which entries have the mark and the right checksum."""
    found = rows["mark"] == MARK
    marked = np.flatnonzero(found)
    if len(marked):
        found[marked] = _checksums(rows[marked], file_number) == rows["crc"][marked]
    return found


def possible_entries(
    rows: np.ndarray, data_begin: int, data_end: int, n_readable: int
) -> np.ndarray:
    """Which entries point to a record inside of their region and of what is left of the file."""
    limit = min(data_end, n_readable)
    offset, n_payload = rows["offset"], rows["n_payload"]
    n_head = rows["n_head"].astype(np.int64)
    found = (offset >= data_begin) & (offset < limit) & (n_payload >= 0) & (n_payload <= limit)
    found &= n_head >= HEADER.size
    # No overflow: each is below the size of a file by now.
    found[found] = (offset + n_head + n_payload)[found] <= limit
    return found


@functools.cache
def _tables() -> np.ndarray:
    """What each byte value at each place of an entry adds to the checksum: CRC-32 is affine."""
    zeros = bytearray(_BODY)
    nothing = zlib.crc32(zeros)
    tables = np.empty((_BODY, 256), dtype=np.uint32)
    for place in range(_BODY):
        for value in range(256):
            zeros[place] = value
            tables[place, value] = zlib.crc32(zeros) ^ nothing
        zeros[place] = 0
    return tables


def _checksums(rows: np.ndarray, file_number: int) -> np.ndarray:
    """The checksum that each entry should have."""
    start = zlib.crc32(bytes(_BODY), zlib.crc32(file_number.to_bytes(8, "little")))
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), ENTRY.itemsize)
    found = np.full(len(rows), start, dtype=np.uint32)
    tables = _tables()
    for begin in range(0, len(rows), _CHUNK):  # what fits the cache
        columns = np.ascontiguousarray(raw[begin : begin + _CHUNK].T)
        part = found[begin : begin + _CHUNK]
        for place in range(_BODY):
            part ^= tables[place][columns[place]]
    return found
