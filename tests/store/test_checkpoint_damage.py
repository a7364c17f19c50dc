"""Whatever happens to a checkpoint, what is read is right, and what is whole is read."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from mpipipe.data.errors import BadDataError
from mpipipe.store.checkpoint.create import create_checkpoint
from mpipipe.store.checkpoint.geometry import COPIES, USER_BLOCK, Geometry, read_geometry
from mpipipe.store.checkpoint.index import ENTRY, MARK
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.records import HEADER, MAGIC

from .checkpoints import SMALL, Content, content, fields, read, writer

N_RECORDS = 50
PAGE = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


class Whole:
    """A file with records in two regions, and where its parts are."""

    def __init__(self, folder: Path) -> None:
        self.path = create_checkpoint(folder / "checkpoint.h5", SMALL)
        for rank in range(2):
            with writer(folder, self.path, rank, 2) as out:
                for task in range(rank, N_RECORDS, 2):
                    out.append(*content(task))
        self.raw = self.path.read_bytes()
        with CheckpointReader(self.path) as reader:
            assert isinstance(reader.geometry, Geometry)
            self.geometry: Geometry = reader.geometry
            self.rows = reader.read_new()
        self.ends = self.rows["offset"] + self.rows["n_head"] + self.rows["n_payload"]
        assert len(self.rows) == N_RECORDS

    def areas(self) -> dict[str, tuple[int, int]]:
        """The parts of the file that hold anything."""
        g = self.geometry
        return {
            "header": (0, 300),
            "second header": (COPIES[1], COPIES[1] + 300),
            "hdf5": (USER_BLOCK, USER_BLOCK + 6000),
            "index": (g.index_of(0), g.index_of(0) + 64 * N_RECORDS // 2),
            "other index": (g.index_of(1), g.index_of(1) + 64 * N_RECORDS // 2),
            "data": (g.data_of(0), int(self.ends[N_RECORDS // 2 - 1])),
            "other data": (g.data_of(1), int(self.ends[-1])),
            "anywhere": (0, len(self.raw)),
        }

    def altered(self, place: int, new: bytes) -> Path:
        """A copy with other bytes at a place."""
        path = self.path.with_name("copy.h5")
        path.write_bytes(self.raw)
        with open(path, "r+b") as stream:
            stream.seek(place)
            stream.write(new[: max(len(self.raw) - place, 0)])
        return path

    def hit(self, begin: int, end: int) -> set[int]:
        """Tasks of the records that have bytes in a stretch."""
        touched = (self.rows["offset"] < end) & (self.ends > begin)
        return set(self.rows["task"][touched].tolist())


@pytest.fixture(scope="module")
def whole(folder: Path) -> Whole:
    return Whole(folder)


AREAS = st.sampled_from(
    ["header", "second header", "hdf5", "index", "other index", "data", "other data", "anywhere"]
)


def found(path: Path, *, thorough: bool) -> tuple[set[int], int]:
    """Tasks whose records are whole, and the number of damages; checks that they are right."""
    records, damage = read(path, thorough=thorough)
    for record in records:
        assert fields(record) == content(record.task_id)
    tasks = [record.task_id for record in records]
    assert len(set(tasks)) == len(tasks), "a record was given twice"
    return set(tasks), len(damage)


@settings(max_examples=150)
@given(area=AREAS, data=st.data(), thorough=st.booleans())
def test_a_flipped_bit(whole: Whole, area: str, data: Any, thorough: bool) -> None:
    """It costs the record that it is in, and nothing else."""
    begin, end = whole.areas()[area]
    place = data.draw(st.integers(begin, end - 1))
    flipped = whole.raw[place] ^ (1 << data.draw(st.integers(0, 7)))
    tasks, n_damage = found(whole.altered(place, bytes([flipped])), thorough=thorough)
    hit = whole.hit(place, place + 1)
    assert tasks == set(range(N_RECORDS)) - hit
    if "index" in area:
        assert n_damage > 0


@settings(max_examples=120)
@given(area=AREAS, data=st.data(), filler=st.sampled_from([b"\0", b"\xff", b"noise"]))
def test_lost_pages(whole: Whole, area: str, data: Any, filler: bytes) -> None:
    """Pages of zeros, ones and noise cost the records in them; one header is enough."""
    begin, end = whole.areas()[area]
    place = data.draw(st.integers(begin, end - 1)) // PAGE * PAGE
    length = PAGE * data.draw(st.integers(1, 3))
    new = np.random.default_rng(place).bytes(length) if filler == b"noise" else filler * length
    tasks, _ = found(whole.altered(place, new), thorough=True)
    hit = whole.hit(place, place + length)
    assert tasks == set(range(N_RECORDS)) - hit


@settings(max_examples=100)
@given(area=AREAS, data=st.data())
def test_cut_anywhere(whole: Whole, area: str, data: Any) -> None:
    """What lies before the cut is there; and so again when zeros are put behind it."""
    begin, end = whole.areas()[area]
    cut = data.draw(st.integers(begin, end - 1))
    path = whole.altered(0, b"")
    os.truncate(path, cut)
    before = set(whole.rows["task"][whole.ends <= cut].tolist())
    first_header = len(whole.geometry.encode())
    expected = before if cut >= first_header else set()
    tasks, n_damage = found(path, thorough=False)
    assert tasks == expected and n_damage > 0
    os.truncate(path, len(whole.raw))
    again, _ = found(path, thorough=True)
    assert again == expected


ABSURD = st.sampled_from(
    [0, 1, -1, 63, 64, 4096, 2**15, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), -(2**31)]
)


@settings(max_examples=120)
@given(data=st.data(), number=st.integers(0, N_RECORDS // 2 - 1), extra=st.booleans())
def test_absurd_entries(whole: Whole, data: Any, number: int, extra: bool) -> None:
    """Entries with right checksums that point anywhere, beside the right one or in its stead."""
    rows = np.frombuffer(whole.raw, ENTRY, 1, whole.geometry.index_of(0) + 64 * number).copy()
    for name in data.draw(st.lists(st.sampled_from(["offset", "n_payload", "n_head"]), min_size=1)):
        value = data.draw(ABSURD | st.integers(0, len(whole.raw)))
        size = rows.dtype[name].itemsize * 8
        rows[name] = np.array(value % 2**size, dtype=np.uint64).astype(rows.dtype[name])
    number_bytes = whole.geometry.file_number.to_bytes(8, "little")
    rows["crc"] = zlib.crc32(rows.tobytes()[:60], zlib.crc32(number_bytes))
    place = N_RECORDS // 2 if extra else number
    path = whole.altered(whole.geometry.index_of(0) + 64 * place, rows.tobytes())
    assert found(path, thorough=False)[0] == set(range(N_RECORDS))


@settings(max_examples=100)
@given(
    number=st.integers(0, N_RECORDS - 1),
    n_label=st.sampled_from([0, 9, 4096, 65535]),
    n_meta=st.sampled_from([0, 20, 2**24, 2**32 - 1]),
    n_payload=st.sampled_from([0, 5, 2**31, 2**63, 2**64 - 1]),
    known=st.booleans(),
)
def test_absurd_records(
    whole: Whole, number: int, n_label: int, n_meta: int, n_payload: int, known: bool
) -> None:
    """Headers of records with absurd lengths, and the right or some file number."""
    file_number = whole.geometry.file_number if known else 1
    what = (MAGIC, file_number, 1, 0.0, 1, 0, 0, n_label, n_meta, n_payload, 0, 0)
    raw = HEADER.pack(*what)[:-4]
    offset = int(whole.rows["offset"][number])
    text = whole.raw[offset + 64 : offset + 64 + min(n_label + n_meta, 1 << 20)]
    header = raw + zlib.crc32(text, zlib.crc32(raw)).to_bytes(4, "little")
    records, _ = read(whole.altered(offset, header))
    right = {r.task_id for r in records if fields(r) == content(r.task_id)}
    hit = whole.hit(offset, offset + 1)
    assert right | hit == set(range(N_RECORDS))
    # With all checksums right, an empty record is one: nobody could tell.
    assert len(records) - len(right) <= (1 if known and n_payload == 0 else 0)


@given(garbage=st.binary(max_size=3000))
def test_any_bytes(folder: Path, garbage: bytes) -> None:
    path = folder / "garbage.h5"
    path.write_bytes(garbage)
    assert read(path) == ([], [read(path)[1][0]])


def test_it_does_not_exist(folder: Path) -> None:
    with pytest.raises(BadDataError, match=r"nothing\.h5.*can not be opened"):
        CheckpointReader(folder / "nothing.h5")


@given(
    sizes=st.lists(st.integers(-5, 2**60), min_size=3, max_size=3),
    offsets=st.lists(st.integers(0, 2**63), min_size=2, max_size=2),
)
def test_absurd_headers(folder: Path, sizes: list[int], offsets: list[int]) -> None:
    """A header with a right checksum and numbers without sense."""
    n_regions, region, n_entries = (abs(size) for size in sizes)
    small = (n_regions % 2**32, region, n_entries % 2**32)
    header = Geometry(*small, 1, 5, *offsets).encode()
    path = folder / "header.h5"
    path.write_bytes(header + bytes(1000))
    fd = os.open(path, os.O_RDONLY)
    geometry = read_geometry(fd, path)
    os.close(fd)
    assert geometry is None or geometry.is_sane
    assert read(path)[0] == []


# -- power losses ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Any], list[Content]]:
    """An empty file, and all that was done to it: (offset, bytes), or None for a sync."""
    folder = tmp_path_factory.mktemp("journal")
    path = create_checkpoint(folder / "checkpoint.h5", SMALL)
    empty, done = path.read_bytes(), []
    real_write, real_sync = os.pwritev, os.fdatasync

    def write(fd: int, parts: list[bytes], offset: int) -> int:
        done.append((offset, b"".join(bytes(part) for part in parts)))
        return real_write(fd, parts, offset)

    def sync(fd: int) -> None:
        done.append(None)
        real_sync(fd)

    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", write)
        patch.setattr(os, "fdatasync", sync)
        with writer(folder, path) as out:
            for task in range(12):
                written.append(content(task, size=task * 700 % 5000))
                out.append(*written[-1])
    return empty, done, written


@settings(max_examples=150)
@given(data=st.data())
def test_power_lost(folder: Path, journal: Any, data: Any) -> None:
    """Of what was not synced any sectors may be there; what was synced is whole."""
    empty, done, written = journal
    stop = data.draw(st.integers(0, len(done)))
    syncs = [place for place in range(stop) if done[place] is None]
    safe = syncs[-1] + 1 if syncs else 0
    raw = bytearray(empty)
    for entry in done[:safe]:
        if entry is not None:
            raw[entry[0] : entry[0] + len(entry[1])] = entry[1]
    for offset, new in done[safe:stop]:
        begin = offset
        while begin < offset + len(new):
            end = min(begin // 512 * 512 + 512, offset + len(new))
            if data.draw(st.booleans()):
                raw[begin:end] = new[begin - offset : end - offset]
            begin = end
    path = folder / "power.h5"
    path.write_bytes(raw)
    records, _ = read(path)
    got = [fields(record) for record in records]
    assert got[: len(syncs)] == written[: len(syncs)]
    assert all(record in written for record in got)
    assert len(got) <= len(syncs) + 1


def test_mark_is_no_zero() -> None:
    assert MARK.to_bytes(2, "little") == b"IM"
