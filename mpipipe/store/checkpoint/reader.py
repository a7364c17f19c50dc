"""Reading checkpoints that are whole, torn, damaged, or still being written.

Records are listed by the index. What the index does not tell of, because an entry was lost or not
yet written, is looked for in the gaps between the records it knows and behind the last of them;
such a record counts only if its payload is whole, too. A payload that the index knows is compared
with its checksum when it is read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.store.checkpoint.geometry import ENTRY_BYTES, Geometry, read_geometry
from mpipipe.store.checkpoint.index import (
    ENTRY,
    encode_entry,
    possible_entries,
    whole_entries,
)
from mpipipe.store.records import Damage, Record, RecordHead, RecordScanner

_NONE = np.zeros(0, dtype=ENTRY)
_FIRST_ENTRIES, _MORE_ENTRIES = 256, 1 << 15
_TAIL = 1 << 16


@dataclass
class _Progress:
    """How far a region has been read.

    Attributes
    ----------
    n_entries, end
        Index entries and bytes that need not be looked at again.
    ahead
        Records behind `end` that were given already: what is before them was not whole then, but
        may be so later if its writer lives.
    """

    n_entries: int
    end: int
    ahead: set[int] = field(default_factory=set)
    damage: list[Damage] = field(default_factory=list)
    tail_damage: list[Damage] = field(default_factory=list)


class CheckpointReader:
    """One file of records.

    Attributes
    ----------
    geometry
        None if the header is damaged; then there are no records.

    Raises
    ------
    BadDataError
        If it can not be opened, or has another version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._fd = -1
        self._open()
        try:
            self.geometry = read_geometry(self._fd, self.path)
        except BadDataError:
            self.close()
            raise
        self._size = os.fstat(self._fd).st_size
        self._progress: dict[int, _Progress] = {}

    def _open(self) -> None:
        """Open the file, again if need be."""
        if self._fd < 0:
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                reason = f"can not be opened: {error.strerror}"
                raise BadDataError(reason, file=self.path) from error

    @property
    def damage(self) -> list[Damage]:
        """What was passed over so far; while a rank writes, its last record may be among it."""
        if self.geometry is None:
            return [Damage(0, self._size, "no header of a checkpoint")]
        parts = [found.damage + found.tail_damage for found in self._progress.values()]
        cut = self.geometry.end - self._size
        ends = [Damage(self._size, cut, "cut off")] if cut > 0 else []
        return sum(parts, ends)

    def read_new(self, *, thorough: bool = False) -> np.ndarray:
        """The records that were not given before, as rows of `ENTRY`, by region and place.

        Parameters
        ----------
        thorough
            Search every region to its end, also where nothing tells of a record.
        """
        geometry = self.geometry
        if geometry is None:
            return _NONE
        self._open()
        self._size = os.fstat(self._fd).st_size
        parts = []
        for region in range(geometry.n_regions):
            if min(geometry.index_of(region), geometry.data_of(region)) >= self._size:
                break
            parts.append(self._read_region(geometry, region, thorough))
        return np.concatenate(parts) if parts else _NONE

    def records(self, rows: np.ndarray) -> Iterator[Record]:
        """The whole records of these rows; damaged ones are left out."""
        for row in rows:
            try:
                yield self.at(int(row["offset"]))
            except BadDataError:
                continue

    def at(self, offset: int) -> Record:
        """The record at a place that `read_new` gave.

        Raises
        ------
        BadDataError
            If it is damaged.
        """
        return self._scanner_at(offset).at(offset)

    def head_at(self, offset: int) -> RecordHead:
        """The same without its payload, which is not looked at."""
        return self._scanner_at(offset).head_at(offset)

    def _scanner_at(self, offset: int) -> RecordScanner:
        geometry = self.geometry
        if geometry is None:
            raise BadDataError("has no header of a checkpoint", file=self.path)
        region = (offset - geometry.data_offset) // geometry.region_bytes
        return self._scanner(geometry, geometry.data_of(region + 1))

    def _scanner(self, geometry: Geometry, limit: int) -> RecordScanner:
        self._open()
        # A new one each time: another's window would hide what was written since.
        limit = min(limit, os.fstat(self._fd).st_size)
        return RecordScanner(self.path, self._fd, geometry.file_number, limit)

    # -- a region ---------------------------------------------------------------------------------

    def _read_region(self, geometry: Geometry, region: int, thorough: bool) -> np.ndarray:
        begin = geometry.data_of(region)
        progress = self._progress.setdefault(region, _Progress(0, begin))
        rows, is_odd = self._indexed(geometry, region, progress)
        parts = []
        for first, last in self._stretches(rows):
            gap = int(rows["offset"][first]) - progress.end
            if gap > 0:
                found = self._search(geometry, progress.end, progress.end + gap, progress.damage)
                parts.append(_not_in(progress.ahead, found))
            parts.append(rows[first:last])
            progress.end = _end_of(rows[last - 1])
        limit = min(geometry.data_of(region + 1), self._size)
        parts.append(self._tail(geometry, progress, limit, thorough or is_odd))
        if not is_odd:
            # Nothing tells that this was ever whole: most likely its writer died over it.
            progress.tail_damage = [
                Damage(d.offset, d.length, "torn", is_loss=False) for d in progress.tail_damage
            ]
        return np.concatenate(parts)

    def _indexed(
        self, geometry: Geometry, region: int, progress: _Progress
    ) -> tuple[np.ndarray, bool]:
        """New records that the index tells of, by place; and whether the index is damaged."""
        raw = self._read_index(geometry, region, progress.n_entries)
        used = np.flatnonzero(raw.view(np.uint8).reshape(-1, ENTRY_BYTES).any(axis=1))
        if not len(used):
            return _NONE, False
        rows = raw[: used[-1] + 1]
        good = whole_entries(rows, geometry.file_number)
        limits = geometry.data_of(region), geometry.data_of(region + 1), self._size
        good[good] = possible_entries(rows[good], *limits)
        bad = np.flatnonzero(~good)
        place = geometry.index_of(region) + progress.n_entries * ENTRY_BYTES
        for number in bad.tolist():
            where = place + number * ENTRY_BYTES
            progress.damage.append(Damage(where, ENTRY_BYTES, "damaged index entry"))
        progress.n_entries += len(rows)
        found = rows[good]
        # Some were found before they were in the index.
        found = _not_in(progress.ahead, found[found["offset"] >= progress.end])
        return self._in_order(geometry, found), len(bad) > 0

    def _read_index(self, geometry: Geometry, region: int, n_known: int) -> np.ndarray:
        """The entries behind those that are known, up to a stretch without any."""
        parts, n_wanted = [_NONE], _FIRST_ENTRIES
        while n_known < geometry.n_entries:
            n_wanted = min(n_wanted, geometry.n_entries - n_known)
            place = geometry.index_of(region) + n_known * ENTRY_BYTES
            raw = os.pread(self._fd, n_wanted * ENTRY_BYTES, place)
            raw = raw[: len(raw) // ENTRY_BYTES * ENTRY_BYTES]
            if _is_zero(raw):
                break
            parts.append(np.frombuffer(raw, dtype=ENTRY))
            n_known += len(raw) // ENTRY_BYTES
            n_wanted = _MORE_ENTRIES
        return np.concatenate(parts)

    def _in_order(self, geometry: Geometry, rows: np.ndarray) -> np.ndarray:
        """Entries by place, none overlapping another."""
        rows = rows[np.argsort(rows["offset"], kind="stable")]
        if _overlaps(rows).any():
            # They can not all be right: those count whose record is there.
            rows = rows[np.array([self._is_there(geometry, row) for row in rows], dtype=bool)]
            while (wrong := _overlaps(rows)).any():
                rows = np.delete(rows, np.flatnonzero(wrong)[0])
        return rows

    def _is_there(self, geometry: Geometry, row: np.void) -> bool:
        scanner = self._scanner(geometry, _end_of(row))
        head, end, _ = scanner.read_head(int(row["offset"]))
        return head is not None and end == _end_of(row) and head.head_crc == int(row["head_crc"])

    def _stretches(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """Runs of records without a gap."""
        if not len(rows):
            return []
        ends = rows["offset"] + rows["n_head"] + rows["n_payload"]
        cuts = (np.flatnonzero(rows["offset"][1:] != ends[:-1]) + 1).tolist()
        return list(zip([0, *cuts], [*cuts, len(rows)], strict=True))

    def _search(self, geometry: Geometry, begin: int, end: int, damage: list[Damage]) -> np.ndarray:
        """Whole records in a stretch, by looking at its bytes."""
        scanner = self._scanner(geometry, end)
        entries = [encode_entry(geometry.file_number, h) for h in scanner.whole_heads(begin)]
        damage += scanner.damage
        return np.frombuffer(b"".join(entries), dtype=ENTRY)

    def _tail(
        self, geometry: Geometry, progress: _Progress, limit: int, thorough: bool
    ) -> np.ndarray:
        """Whole records behind the last one that the index knows."""
        progress.tail_damage = []
        if progress.end >= limit:
            return _NONE
        window = os.pread(self._fd, min(_TAIL, limit - progress.end), progress.end)
        if not thorough and _is_zero(window):
            return _NONE
        found = []
        for begin, end in self._written(progress.end, limit):
            found.append(self._search(geometry, begin, end, progress.tail_damage))
        progress.tail_damage = [d for d in progress.tail_damage if self._has_bytes(d)]
        rows = np.concatenate([_NONE, *found])
        new = _not_in(progress.ahead, rows)
        for row in rows:
            if int(row["offset"]) == progress.end:
                progress.end = _end_of(row)
            else:
                progress.ahead.add(int(row["offset"]))
        return new

    def _written(self, begin: int, limit: int) -> list[tuple[int, int]]:
        """The part of a stretch from its beginning to where the last data are."""
        end = place = begin
        while place < limit:
            try:
                place = os.lseek(self._fd, place, os.SEEK_DATA)
                if place >= limit:
                    break
                place = end = min(os.lseek(self._fd, place, os.SEEK_HOLE), limit)
            except OSError as error:
                if error.errno != errno.ENXIO:  # the file system can not tell
                    end = limit
                break  # there are no data behind this place
        return [(begin, end)] if end > begin else []

    def _has_bytes(self, damage: Damage) -> bool:
        """Whether anything was ever written there."""
        place, end = damage.offset, damage.offset + damage.length
        while place < end:
            raw = os.pread(self._fd, min(1 << 20, end - place), place)
            if not _is_zero(raw):
                return True
            if not raw:
                break
            place += len(raw)
        return False

    def close(self) -> None:
        """Close the file; reading on opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _is_zero(raw: bytes) -> bool:
    return not np.frombuffer(raw, dtype=np.uint8).any()


def _not_in(places: set[int], rows: np.ndarray) -> np.ndarray:
    """The rows without those of records that begin at one of these places."""
    return rows[~np.isin(rows["offset"], list(places))] if places else rows


def _end_of(row: np.void) -> int:
    return int(row["offset"]) + int(row["n_head"]) + int(row["n_payload"])


def _overlaps(rows: np.ndarray) -> np.ndarray:
    """Which rows begin before an earlier one ends."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    ends = np.maximum.accumulate(rows["offset"] + rows["n_head"] + rows["n_payload"])
    return np.concatenate([[False], rows["offset"][1:] < ends[:-1]])
