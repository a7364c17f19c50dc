"""Checkpoints: written by several processes, read meanwhile, killed, full; opened with h5py."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mpipipe.data.errors import BadDataError, OutputError
from mpipipe.store.checkpoint import create
from mpipipe.store.checkpoint.create import create_checkpoint
from mpipipe.store.checkpoint.geometry import COPIES, USER_BLOCK, Geometry
from mpipipe.store.checkpoint.index import ENTRY, MARK, encode_entry, whole_entries
from mpipipe.store.checkpoint.mounts import allows_shared_files, file_system_of
from mpipipe.store.checkpoint.pool import RegionPool
from mpipipe.store.checkpoint.reader import CheckpointReader
from mpipipe.store.checkpoint.rewrite import write_checkpoint
from mpipipe.store.checkpoint.syncing import Durability, SyncTimer
from mpipipe.store.checkpoint.writer import CheckpointWriter
from mpipipe.store.records import Record, RecordHead

from .checkpoints import SMALL, content, ended_well, fields, forked, read, read_folder, writer


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return create_checkpoint(tmp_path / "checkpoint.h5", SMALL)


def test_round_trip(shared: Path) -> None:
    given_records = [content(task) for task in range(30)]
    with writer(shared.parent, shared) as out:
        for record in given_records:
            out.append(*record)
    records, damage = read(shared)
    assert [fields(record) for record in records] == given_records and not damage
    assert {record.rank for record in records} == {0}
    assert all(abs(record.written - time.time()) < 60 for record in records)
    with CheckpointReader(shared) as reader:
        rows = reader.read_new()
        assert rows["task"].tolist() == list(range(30))
        assert reader.head_at(int(rows["offset"][3])).meta == content(3)[5]
        assert len(reader.read_new()) == 0
        assert reader.geometry is not None and reader.geometry.attributes == {"run": "test"}


def test_several_writers_and_a_reader_meanwhile(shared: Path) -> None:
    """Every process has its own tasks; a reader sees whole records only, each of them once."""
    n_ranks, each = 3, 50

    def write(rank: int) -> None:
        with writer(shared.parent, shared, rank, n_ranks) as out:
            for task in range(rank, n_ranks * each, n_ranks):
                out.append(*content(task, size=task * 3))

    pids = [forked(lambda rank=rank: write(rank)) for rank in range(n_ranks)]
    seen: list[int] = []
    with CheckpointReader(shared) as reader:
        while len(seen) < n_ranks * each:
            for offset in reader.read_new()["offset"].tolist():
                record = reader.at(offset)
                assert fields(record) == content(record.task_id, size=record.task_id * 3)
                seen.append(record.task_id)
            if pids and os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
                assert ended_well(pids.pop(0))
            elif not pids:
                break
        seen += reader.read_new()["task"].tolist()
        assert not reader.damage
    assert sorted(seen) == list(range(n_ranks * each))


def test_pool_is_used_up(shared: Path) -> None:
    """When no region is left, and for a record that no region holds, a rank has its own files."""
    wanted = [content(task, size=1000) for task in range(300)]
    wanted.insert(5, content(1000, size=SMALL.region_bytes + 1))
    wanted.append(content(1001, size=3 << 20))
    with writer(shared.parent, shared) as out:
        for record in wanted:
            out.append(*record)
    assert sorted(read_folder(shared.parent)) == sorted(wanted)
    names = [path.name for path in sorted(shared.parent.glob("rank-*.h5"))]
    assert names[0] == "rank-00000-00.h5" and len(names) > 1
    assert len(read(shared)[0]) < len(wanted)


def test_full_index_claims_another_region(tmp_path: Path) -> None:
    path = create_checkpoint(tmp_path / "checkpoint.h5", Geometry(3, 1 << 16, 4, 1))
    with writer(tmp_path, path) as out:
        for task in range(20):
            out.append(*content(task, size=5))
    assert len(read(path)[0]) == 12
    assert sorted(read_folder(tmp_path)) == sorted(content(task, size=5) for task in range(20))


def test_own_files_alone(tmp_path: Path) -> None:
    with writer(tmp_path, None, rank=7) as out:
        out.append(*content(1))
    assert [path.name for path in tmp_path.iterdir()] == ["rank-00007-00.h5"]
    assert read_folder(tmp_path) == [content(1)]


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same areas without HDF5 around them."""
    monkeypatch.setattr(create, "has_h5py", lambda: False)
    path = create_checkpoint(tmp_path / "checkpoint.h5", SMALL)
    assert path.suffix == ".ckpt"
    with writer(tmp_path, path) as out:
        out.append(*content(1))
    assert [fields(record) for record in read(path)[0]] == [content(1)]


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 6))
def test_no_region_has_two_writers(order: list[int], n_ranks: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pools = [RegionPool(Path(folder), 20, rank, n_ranks) for rank in range(n_ranks)]
        claims = [pools[rank % n_ranks].claim() for rank in order]
        found = [region for region in claims if region is not None]
        assert len(set(found)) == len(found) and all(0 <= region < 20 for region in found)
        assert len(found) >= min(len(order), 20 - n_ranks)


def test_h5py_opens_it(shared: Path) -> None:
    """A person with h5py alone finds index and data, and what they mean."""
    h5py = pytest.importorskip("h5py")
    with writer(shared.parent, shared) as out:
        out.append(*content(3, size=100))
    with h5py.File(shared, "r") as file:
        assert file.attrs["format"] == "mpipipe checkpoint" and file.userblock_size == USER_BLOCK
        row = file["index"][0, 0]
        assert (row["task"], row["mark"], row["n_payload"]) == (3, MARK, 100)
        assert set(ENTRY.names or ()) < set(file["index"].attrs)
        begin = row["offset"] - file["data"].id.get_offset() + row["n_head"]
        payload = file["data"][0, begin : begin + row["n_payload"]].tobytes()
        assert payload == content(3, size=100)[4]
        assert row["payload_crc"] == zlib.crc32(payload)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whatever was acknowledged is whole; the file opens in h5py; what is read is right."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(1)
    n_acknowledged = 0
    for trial in range(12):
        folder = tmp_path / str(trial)
        folder.mkdir()
        path = create_checkpoint(folder / "checkpoint.h5", SMALL)
        inlet, outlet = os.pipe()

        def write(folder: Path = folder, path: Path = path, outlet: int = outlet) -> None:
            with writer(folder, path) as out:
                for task in itertools.count():
                    out.append(*content(task, size=10 if task % 2 else 9000))
                    os.write(outlet, b".")

        pid = forked(write)
        os.close(outlet)
        os.read(inlet, 1)
        time.sleep(float(rng.uniform(0, 0.05)))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(inlet, "rb") as stream:
            acknowledged = 1 + len(stream.read())
        found = {record[1]: record for record in read_folder(folder)}
        wanted = {task: content(task, size=10 if task % 2 else 9000) for task in found}
        assert found == wanted
        assert set(range(acknowledged)) <= set(found)
        n_acknowledged += acknowledged
        with h5py.File(path, "r") as file:
            assert file["data"].shape == (SMALL.n_regions, SMALL.region_bytes)
    assert n_acknowledged > 12


def fill_up(path: Path) -> None:
    """A record of 3 MB fits, another does not, a small one does."""
    with writer(path.parent, path) as out:
        out.append(*content(0, size=3_000_000))
        with pytest.raises(OutputError, match="(No space left|quota exceeded).*resume"):
            out.append(*content(1, size=3_000_000))
        out.append(*content(2, size=1_000))
    records, damage = read(path, thorough=True)
    assert [fields(record) for record in records] == [
        content(0, size=3_000_000),
        content(2, size=1_000),
    ]
    assert not damage


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_shows_before_a_record_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = create_checkpoint(tmp_path / "checkpoint.h5", Geometry(1, 1 << 24, 1 << 10, 1))
    left = 4 << 20

    def reserve(fd: int, begin: int, length: int) -> None:
        nonlocal left
        if length > left:
            raise OSError(number, os.strerror(number))
        left -= length

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    fill_up(path)


def test_full_disk_for_real(tmp_path: Path) -> None:
    """The same on a small file system of its own, where that can be had."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() or not mount or not unmount:
        pytest.skip("only root can mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can not be mounted here")
    try:
        fill_up(create_checkpoint(tmp_path / "checkpoint.h5", Geometry(1, 1 << 24, 1 << 10, 1)))
    finally:
        subprocess.run([unmount, str(tmp_path)], check=True)


def test_creating_it_again(shared: Path) -> None:
    """A successor repeats what a rank that died had begun or finished."""
    with writer(shared.parent, shared) as out:
        out.append(*content(1))
    shared.with_name("checkpoint.h5.part").write_bytes(b"half")
    assert create_checkpoint(shared, SMALL) == shared
    assert read(shared) == ([], [])
    assert not list(shared.parent.glob("*.part"))


def test_it_can_not_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"checkpoint\.h5"):
        create_checkpoint(tmp_path / "file" / "checkpoint.h5", SMALL)


def test_another_version_is_refused(shared: Path) -> None:
    raw = bytearray(shared.read_bytes())
    for place in COPIES:
        length = int.from_bytes(raw[place + 12 : place + 16], "little")
        raw[place + 8] = 2
        fixed = raw[place : place + 64]
        text = raw[place + 68 : place + 68 + length]
        raw[place + 64 : place + 68] = zlib.crc32(text, zlib.crc32(fixed)).to_bytes(4, "little")
    shared.write_bytes(raw)
    with pytest.raises(BadDataError, match=r"checkpoint\.h5.*version 2.*new folder"):
        CheckpointReader(shared)


def test_sparse(tmp_path: Path) -> None:
    path = create_checkpoint(tmp_path / "checkpoint.h5", Geometry(1000, 64 << 20, 1 << 16, 1))
    assert path.stat().st_size > 60e9 and path.stat().st_blocks * 512 < 1e6
    begin = time.monotonic()
    assert read(path) == ([], [])
    assert time.monotonic() - begin < 5


def test_fresh_file_of_old_records(tmp_path: Path) -> None:
    records = [Record(*content(task), rank=task, written=float(task)) for task in range(1, 9)]
    n_bytes = sum(64 + 9 + len(r.meta) + len(r.payload) for r in records)
    path = write_checkpoint(tmp_path / "new.h5", 3, len(records), n_bytes, iter(records))
    found, damage = read(path)
    assert not damage and [fields(r) for r in found] == [fields(r) for r in records]
    assert [(r.rank, r.written) for r in found] == [(r.rank, r.written) for r in records]
    assert [p.name for p in tmp_path.iterdir()] == ["new.h5"]

    def broken() -> Iterator[Record]:
        yield records[0]
        raise BadDataError("is damaged")

    with pytest.raises(BadDataError, match="is damaged"):
        write_checkpoint(tmp_path / "other.h5", 3, 2, 10_000, broken())
    assert [p.name for p in tmp_path.iterdir()] == ["new.h5"]


@given(st.binary(min_size=56, max_size=56), st.integers(0, 2**64 - 1), st.integers(0, 59))
def test_checksums_of_entries_are_those_of_zlib(body: bytes, number: int, place: int) -> None:
    head = RecordHead("p", 5, 1, 0, b"", 10, 100, 200, 7, 8, 3, 1.5)
    entry = encode_entry(number, head)
    odd = bytearray(entry)
    odd[place] ^= 1
    other = encode_entry(number ^ 1, head)
    rows = np.frombuffer(entry + bytes(odd) + other + bytes(64), dtype=ENTRY)
    assert whole_entries(rows, number).tolist() == [True, False, False, False]
    noise = np.frombuffer(body + bytes([MARK & 255, MARK >> 8]) + body[:6], dtype=ENTRY)
    wanted = zlib.crc32(noise.tobytes()[:60], zlib.crc32(number.to_bytes(8, "little")))
    assert whole_entries(noise, number).tolist() == [int(noise["crc"][0]) == wanted]


@pytest.mark.parametrize("durability", Durability)
def test_durability(shared: Path, durability: Durability, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fdatasync", "posix_fallocate"):
        real = getattr(os, name)
        note = lambda *args, real=real, name=name: (calls.append(name), real(*args))[1]  # noqa: E731
        monkeypatch.setattr(os, name, note)
    timer = SyncTimer(durability, 0.0)
    with CheckpointWriter(shared.parent, 0, 1, SMALL, timer, shared) as out:
        for task in range(3):
            out.append(*content(task))
    assert calls.count("fdatasync") == (3 if durability is Durability.POWER else 0)
    assert ("posix_fallocate" in calls) == (durability is not Durability.NONE)


def test_a_group_shares_a_sync(shared: Path) -> None:
    timer = SyncTimer(interval_s=0.2)
    with CheckpointWriter(shared.parent, 0, 1, SMALL, timer, shared) as out:
        out.append(*content(0))
        assert timer.n_unsynced == 0, "after a pause the first one need not wait"
        out.append(*content(1))
        out.append(*content(2))
        assert timer.n_unsynced == 2
        out.sync_if_due()
        assert timer.n_unsynced == 2
        time.sleep(0.21)
        out.sync_if_due()
        assert timer.n_unsynced == 0
        out.append(*content(3))
        out.sync()
        assert timer.n_unsynced == 0


def test_interval_that_is_chosen() -> None:
    timer = SyncTimer(interval_s=None, mtbf_s=1e6)
    timer.wrote()
    assert timer.is_due
    timer.synced(0.01)
    assert timer.gap_s == pytest.approx(1.0), "syncs take one percent of the time"
    timer.mtbf_s = 2.0
    assert timer.gap_s == pytest.approx(0.2), "the square root of 2 * cost * mtbf"


def test_file_systems(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:5 / /data rw,noatime shared:1 - nfs4 server:/x rw\n"
        "3 2 0:6 / /data/my\\040scratch rw - lustre mgs rw\n"
    )
    kinds = {"/": "ext4", "/database": "ext4", "/data/x": "nfs4", "/data/my scratch/y": "lustre"}
    for folder, kind in kinds.items():
        assert file_system_of(Path(folder), table) == kind
    assert file_system_of(tmp_path, tmp_path / "missing") == ""
    assert isinstance(allows_shared_files(tmp_path), bool)


@pytest.mark.mpi
def test_ranks_write_one_file(comm: Any, tmp_path: Path) -> None:
    """Every rank for itself; afterwards the records of all are there for each of them."""
    folder = Path(comm.bcast(str(tmp_path)))
    if comm.rank == 0:
        create_checkpoint(folder / "checkpoint.h5", SMALL)
    comm.Barrier()
    with CheckpointWriter(
        folder, comm.rank, comm.size, SMALL, None, folder / "checkpoint.h5"
    ) as out:
        for task in range(comm.rank, 40, comm.size):
            out.append(*content(task))
    comm.Barrier()
    records, damage = read(folder / "checkpoint.h5")
    assert sorted(map(fields, records)) == sorted(map(content, range(40))) and not damage
    assert {record.rank for record in records} == set(range(comm.size))
    comm.Barrier()
