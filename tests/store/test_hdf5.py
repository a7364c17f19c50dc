"""A catalogue has the same bits whoever writes it, and reads back as it was handed over."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.errors import BadDataError, MpipipeError, OutputError
from mpipipe.data.schema import SDQA, Column, Schema
from mpipipe.parallel.world import World
from mpipipe.store import hdf5
from mpipipe.store.hdf5 import Alone, publish_catalogue, read_catalogue, read_schema

SCHEMA = Schema(
    "src",
    "Sources",
    (
        Column("id", "i8", "", "number", "meta.id"),
        Column("name", "S12", "", "name"),
        Column("filter", "U4", "", "filter"),
        Column("flag", "?", "", "flag", "meta.code"),
        Column("flux", "f8", "electron", "flux", "phot.flux"),
        Column("cov", "(2,3)f4", "pix2", "covariance"),
        Column("level", "u1", "", "level"),
    ),
)
# The file that `table` for tasks 0..19 makes, whatever the number of ranks.
N_TASKS = 20


def table(task):
    """Rows of a task; some tasks have none."""
    rng = np.random.default_rng(task)
    rows = SCHEMA.empty((task * 7) % 5 * 300)
    n = len(rows)
    rows["id"] = np.arange(n) + 100_000 * task
    rows["name"] = [f"source {i}" for i in range(n)]
    rows["filter"] = rng.choice(["g", "größ", ""], n)
    rows["flag"] = rng.random(n) > 0.5
    rows["flux"] = rng.normal(size=n)
    rows["flux"][::7] = np.nan
    rows["cov"] = rng.random((n, 2, 3))
    rows["level"] = rng.integers(0, 256, n)
    return rows


def tables(rank=0, size=1):
    return {task: table(task) for task in range(N_TASKS) if task * 5 % size == rank}


def checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole():
    return np.concatenate([table(task) for task in range(N_TASKS)])


def assert_same(found, expected):
    assert found.dtype.names == expected.dtype.names
    for name in expected.dtype.names:
        np.testing.assert_array_equal(found[name], expected[name])


def test_round_trip(tmp_path, whole):
    path = tmp_path / "src.h5"
    n_rows = publish_catalogue(Alone(), path, SCHEMA, tables(), {"run": "a", "n": 3})
    assert n_rows == len(whole)
    assert_same(read_catalogue(path), whole)
    assert read_schema(path) == SCHEMA
    assert hdf5.read_attributes(path) == {"run": "a", "n": 3}
    some = read_catalogue(path, ["flux", "id"])
    assert some.dtype.names == ("flux", "id") and len(some) == n_rows
    assert os.listdir(tmp_path) == ["src.h5"]


def test_anybody_can_read_it(tmp_path, whole):
    """Plain HDF5 with units and descriptions; text is UTF-8."""
    h5py = pytest.importorskip("h5py")
    publish_catalogue(Alone(), tmp_path / "src.h5", SCHEMA, tables())
    with h5py.File(tmp_path / "src.h5") as file:
        assert file["flux"].attrs["unit"] == "electron"
        assert file["flux"].attrs["ucd"] == "phot.flux"
        assert file["flag"].dtype == bool
        assert file["filter"][...].tolist() == [text.encode() for text in whole["filter"]]
        assert all(file[name].chunks is None for name in file), "contiguous"


@pytest.mark.parametrize(
    "given_tables", [{}, {0: SCHEMA.empty()}, {3: SCHEMA.empty(), 4: table(3)}]
)
def test_no_rows(tmp_path, given_tables):
    publish_catalogue(Alone(), tmp_path / "src.h5", SCHEMA, given_tables)
    found = read_catalogue(tmp_path / "src.h5")
    assert len(found) == sum(map(len, given_tables.values()))
    assert found.dtype.names == SCHEMA.dtype.names


def test_same_bits_each_time(tmp_path, monkeypatch):
    publish_catalogue(Alone(), tmp_path / "a.h5", SCHEMA, tables())
    monkeypatch.setattr("time.time", lambda: 0.0)
    publish_catalogue(Alone(), tmp_path / "b.h5", SCHEMA, dict(reversed(tables().items())))
    assert checksum(tmp_path / "a.h5") == checksum(tmp_path / "b.h5")


def test_serial_hdf5_gives_the_same_bits(tmp_path):
    """Where h5py has no MPI, ranks write to the places that HDF5 has set aside."""
    publish_catalogue(Alone(), tmp_path / "a.h5", SCHEMA, tables())
    places, n_rows = hdf5._places(Alone(), {t: len(r) for t, r in tables().items()}, tmp_path)
    hdf5._create(tmp_path / "b.h5", SCHEMA, n_rows, {})
    for rank in range(3):
        mine = tables(rank, 3)
        hdf5._write_directly(tmp_path / "b.h5", SCHEMA, hdf5._runs(mine, places))
    assert checksum(tmp_path / "a.h5") == checksum(tmp_path / "b.h5")


def test_extra_columns_stay_out_and_missing_ones_are_named(tmp_path):
    rows = np.zeros(3, dtype=[*SDQA.dtype.descr, ("more", "f8")])
    publish_catalogue(Alone(), tmp_path / "sdqa.h5", SDQA, {1: rows})
    assert read_catalogue(tmp_path / "sdqa.h5").dtype == SDQA.dtype
    kept = [name for name in SDQA.dtype.names if name != "metric"]
    with pytest.raises(MpipipeError, match="key metric: .* task 4 lacks"):
        publish_catalogue(Alone(), tmp_path / "x.h5", SDQA, {4: rows[kept]})
    names = SCHEMA.dtype.names
    bad = np.zeros(
        2, dtype=[(name, "f8" if name == "id" else SCHEMA.dtype[name]) for name in names]
    )
    with pytest.raises(MpipipeError, match="key id: .* has float64, not int64"):
        publish_catalogue(Alone(), tmp_path / "x.h5", SCHEMA, {4: bad})
    assert not list(tmp_path.glob("x.h5*"))


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "src.h5"
    publish_catalogue(Alone(), path, SCHEMA, tables())
    before = checksum(path)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hdf5, "_write", fail)
    with pytest.raises(OutputError, match="No space left"):
        publish_catalogue(Alone(), path, SCHEMA, {1: table(1)})
    assert checksum(path) == before
    assert os.listdir(tmp_path) == ["src.h5"]


def test_written_aside_where_nobody_else_writes(tmp_path, monkeypatch):
    """Ranks that were taken for dead may publish the same table meanwhile."""
    create, used = hdf5._create, []

    def note(part, *others):
        used.append(part)
        create(part, *others)

    monkeypatch.setattr(hdf5, "_create", note)
    path = tmp_path / "src.h5"
    for _ in range(2):
        publish_catalogue(Alone(), path, SCHEMA, tables())
    assert len({path, *used}) == 3
    assert os.listdir(tmp_path) == ["src.h5"]


def test_no_such_folder(tmp_path):
    with pytest.raises(OutputError, match="can not be written"):
        publish_catalogue(Alone(), tmp_path / "no" / "src.h5", SCHEMA, tables())


@pytest.mark.parametrize("content", [None, b"", b"SIMPLE  =", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_not_a_catalogue(tmp_path, content):
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadDataError, match=r"x\.h5"):
        read_catalogue(path)


def test_unknown_column(tmp_path):
    publish_catalogue(Alone(), tmp_path / "src.h5", SCHEMA, {})
    with pytest.raises(BadDataError, match="key fluxx: has no such column; it has id"):
        read_catalogue(tmp_path / "src.h5", ["fluxx"])


# -- several ranks ---------------------------------------------------------------------------------


@pytest.fixture
def shared_folder(comm, tmp_path_factory):
    """One folder for all ranks."""
    mine = str(tmp_path_factory.mktemp("shared")) if comm.rank == 0 else None
    return Path(comm.bcast(mine))


@pytest.mark.mpi
@pytest.mark.parametrize("driver", ["mpio", "direct"])
def test_same_bits_at_any_rank_count(comm, shared_folder, monkeypatch, driver):
    h5py = pytest.importorskip("h5py")
    if driver == "mpio" and not h5py.get_config().mpi:
        pytest.skip("h5py was built without MPI")
    if driver == "direct":
        monkeypatch.setattr(World, "self_comm", None)
    with World.start() as world:
        n_rows = publish_catalogue(
            world, shared_folder / "src.h5", SCHEMA, tables(world.rank, world.size)
        )
        if world.rank == 0:
            publish_catalogue(Alone(), shared_folder / "alone.h5", SCHEMA, tables())
            assert checksum(shared_folder / "src.h5") == checksum(shared_folder / "alone.h5")
        assert world.agree(n_rows == sum(len(table(task)) for task in range(N_TASKS)))
        assert world.agree(len(read_catalogue(shared_folder / "src.h5")) == n_rows)


@pytest.mark.mpi
def test_a_failure_on_one_rank_is_known_to_all(comm, shared_folder, monkeypatch):
    with World.start() as world:
        failing = world.size - 1
        if world.rank == failing:
            monkeypatch.setattr(hdf5, "_sync", lambda path: 1 / 0)
        with pytest.raises(OutputError) as caught:
            publish_catalogue(
                world, shared_folder / "src.h5", SCHEMA, tables(world.rank, world.size)
            )
        assert ("another rank" in str(caught.value)) == (world.rank != failing)
        assert world.agree(True)
        assert not list(shared_folder.glob("*"))


@pytest.mark.mpi
def test_one_task_on_two_ranks_is_refused(comm, shared_folder):
    if comm.size < 2:
        pytest.skip("needs two ranks")
    with World.start() as world, pytest.raises(MpipipeError, match="two tables came from task 1"):
        publish_catalogue(world, shared_folder / "src.h5", SCHEMA, {1: table(1)})
