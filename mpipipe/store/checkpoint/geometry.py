"""Where things lie in a checkpoint file, and the header in its user block that says so.

The header lets everything be found by fixed offsets, without HDF5, which refuses a file that was
cut off. It stands twice, on different pages.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpipipe.data.errors import BadDataError

VERSION = 1
USER_BLOCK = 1 << 20
"""Bytes before the HDF5 superblock; also what regions are aligned to."""
COPIES = (0, 1 << 16)
"""Where the header stands."""
ENTRY_BYTES = 64

_MAGIC = b"MPCKPT\r\n"
_PREFIX = struct.Struct("<8sII")
_FIELDS = struct.Struct("<QIIIIQQQ")
_CRC = struct.Struct("<I")
_FIXED = _PREFIX.size + _FIELDS.size + _CRC.size
_MAX_TEXT = COPIES[1] - _FIXED
_MAX_BYTES = 1 << 55


@dataclass(frozen=True)
class Geometry:
    """The layout of one file.

    Attributes
    ----------
    file_number
        Random; every record and index entry of the file carries it.
    incarnation
        Whose records these are.
    n_regions, region_bytes
        Each region has one writer.
    n_entries
        Index entries of a region.
    index_offset, data_offset
        Where index and data begin, from the beginning of the file.
    attributes
        What JSON can say of the file.
    """

    n_regions: int
    region_bytes: int
    n_entries: int
    incarnation: int = 0
    file_number: int = 0
    index_offset: int = 0
    data_offset: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def index_of(self, region: int) -> int:
        """Where the index of a region begins."""
        return self.index_offset + region * self.n_entries * ENTRY_BYTES

    def data_of(self, region: int) -> int:
        """Where the records of a region begin."""
        return self.data_offset + region * self.region_bytes

    @property
    def end(self) -> int:
        """Where index and data end."""
        return max(self.index_of(self.n_regions), self.data_of(self.n_regions))

    def numbered(self, index_offset: int, data_offset: int) -> Geometry:
        """This geometry for a new file whose areas were laid there."""
        number = int.from_bytes(os.urandom(8), "little") | 1
        return replace(self, file_number=number, index_offset=index_offset, data_offset=data_offset)

    def encode(self) -> bytes:
        """The header."""
        text = json.dumps(dict(self.attributes), sort_keys=True).encode()
        if len(text) > _MAX_TEXT:
            raise ValueError("attributes of a checkpoint are too long")
        raw = _PREFIX.pack(_MAGIC, VERSION, len(text)) + _FIELDS.pack(
            self.file_number,
            self.incarnation,
            self.n_entries,
            self.n_regions,
            0,
            self.region_bytes,
            self.index_offset,
            self.data_offset,
        )
        return raw + _CRC.pack(zlib.crc32(text, zlib.crc32(raw))) + text

    @property
    def is_sane(self) -> bool:
        """Whether these numbers can be those of a file."""
        sizes = (self.n_regions, self.region_bytes, self.n_entries)
        offsets = (self.index_offset, self.data_offset)
        return min(sizes) > 0 and min(offsets) >= 0 and self.end < _MAX_BYTES


def read_geometry(fd: int, path: Path) -> Geometry | None:
    """The geometry of an open file, from a header that is whole; None if there is none.

    Raises
    ------
    BadDataError
        If the file has another version.
    """
    for place in COPIES:
        raw = os.pread(fd, _FIXED, place)
        if len(raw) < _FIXED:
            continue
        magic, version, length = _PREFIX.unpack_from(raw)
        if magic != _MAGIC or length > _MAX_TEXT:
            continue
        text = os.pread(fd, length, place + _FIXED)
        crc = zlib.crc32(text, zlib.crc32(raw[: -_CRC.size]))
        if len(text) < length or raw[-_CRC.size :] != _CRC.pack(crc):
            continue
        if version != VERSION:
            raise BadDataError(
                f"is a checkpoint of version {version}, not {VERSION}",
                file=path,
                way_out="read it with the mpipipe that wrote it, or start a run in a new folder",
            )
        if (found := _decode(raw, text)) is not None:
            return found
    return None


def _decode(raw: bytes, text: bytes) -> Geometry | None:
    fields = _FIELDS.unpack_from(raw, _PREFIX.size)
    number, incarnation, n_entries, n_regions, _, region_bytes, index, data = fields
    try:
        attributes = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = Geometry(
        n_regions, region_bytes, n_entries, incarnation, number, index, data, attributes
    )
    return found if found.is_sane and isinstance(attributes, dict) else None
