"""A sky-sorted catalogue has the same bits whoever writes it; a cone of it is that of all rows."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from hypothesis import given, settings
from hypothesis import strategies as st

import mpipipe
from mpipipe.data.association import SOURCE
from mpipipe.data.errors import BadDataError, ConfigError, MpipipeError
from mpipipe.data.schema import SDQA, Column, Schema
from mpipipe.parallel.world import World
from mpipipe.store import catalogue as module
from mpipipe.store.catalogue import iterate_catalogue, read_cone, read_table
from mpipipe.store.hdf5 import Alone, opened_catalogue, publish_catalogue, read_catalogue
from mpipipe.store.sky_index import UNPLACED, SkyIndex, sky_cells, sky_order

N_TASKS = 12


def sky(seed, n):
    """Rows all over the sky, with clumps at the poles and at RA 0, some without a position."""
    rng = np.random.default_rng(seed)
    rows = SOURCE.empty(n)
    rows["id"] = rng.permutation(n) + (1 << 60)
    rows["band"] = rng.choice(["g", "r"], n)
    rows["psfFlux"] = rng.normal(size=n)
    rows["ra"] = rng.uniform(0, 360, n)
    rows["dec"] = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    clump = rng.integers(0, 5, n)
    rows["dec"][clump == 0] = 90 - np.abs(rng.normal(scale=0.2, size=(clump == 0).sum()))
    rows["dec"][clump == 1] = -90 + np.abs(rng.normal(scale=0.2, size=(clump == 1).sum()))
    near = clump == 2
    rows["ra"][near] = rng.normal(scale=0.3, size=near.sum()) % 360
    rows["dec"][near] = rng.normal(scale=0.3, size=near.sum())
    rows["ra"][::17] = np.nan
    rows["dec"][::34] = np.nan
    return rows[sky_order(rows["ra"], rows["dec"], rows["id"])]


def parted(rows, rank=0, size=1):
    """Tables whose borders go through cells."""
    parts = np.array_split(rows, N_TASKS)
    return {task: part for task, part in enumerate(parts) if task * 5 % size == rank}


def checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def rows():
    return sky(1, 4000)


@pytest.fixture(scope="module")
def path(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("catalogue") / "source.h5"
    publish_catalogue(Alone(), path, SOURCE, parted(rows), by_sky=True)
    return path


def test_index_tells_where_the_rows_of_a_cell_are(path, rows):
    assert read_catalogue(path).tobytes() == rows.tobytes()
    with opened_catalogue(path) as catalogue:
        index = catalogue.index()
    cells = sky_cells(rows["ra"], rows["dec"])
    assert index.cells.tolist() == np.unique(cells).tolist()
    assert index.first[-1] == len(rows)
    np.testing.assert_array_equal(np.repeat(index.cells, np.diff(index.first)), cells)


def test_rows_without_a_position_come_last(rows, path):
    n_unplaced = np.count_nonzero(np.isnan(rows["ra"]) | np.isnan(rows["dec"]))
    assert n_unplaced and np.all(np.isnan(rows["ra"][-n_unplaced:]))
    with opened_catalogue(path) as catalogue:
        index = catalogue.index()
    assert index.cells[-1] == UNPLACED
    assert index.first[-1] - index.first[-2] == n_unplaced


def test_rows_in_another_order_are_refused(tmp_path, rows):
    parts = parted(rows)
    with pytest.raises(MpipipeError, match="source table of task 3 is not in the order of sky"):
        publish_catalogue(
            Alone(), tmp_path / "x.h5", SOURCE, parts | {3: parts[3][::-1]}, by_sky=True
        )
    parts[0], parts[1] = parts[1], parts[0]
    with pytest.raises(MpipipeError, match="from task to task"):
        publish_catalogue(Alone(), tmp_path / "x.h5", SOURCE, parts, by_sky=True)
    assert not list(tmp_path.iterdir())


def test_no_rows(tmp_path):
    publish_catalogue(Alone(), tmp_path / "x.h5", SOURCE, {}, by_sky=True)
    assert len(read_cone(tmp_path / "x.h5", 0.0, 0.0, 180.0)) == 0
    assert list(iterate_catalogue(tmp_path / "x.h5")) == []
    assert len(read_table(tmp_path / "x.h5")) == 0


def brute_force(rows, ra, dec, radius):
    """By the vectors of astropy-free trigonometry: haversine."""
    ra0, dec0, ra1, dec1 = map(np.radians, (ra, dec, rows["ra"], rows["dec"]))
    h = np.sin((dec1 - dec0) / 2) ** 2 + np.cos(dec0) * np.cos(dec1) * np.sin((ra1 - ra0) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.minimum(h, 1.0)))) <= radius


@settings(deadline=None, max_examples=60)
@given(
    ra=st.one_of(st.floats(-1.0, 361.0), st.sampled_from([0.0, 359.999999, 360.0])),
    dec=st.one_of(
        st.floats(-90.0, 90.0), st.sampled_from([-90.0, 90.0, 89.99, 0.0]), st.floats(-0.5, 0.5)
    ),
    radius=st.one_of(st.floats(0.001, 1.0), st.floats(1.0, 179.0)),
)
def test_cone_is_that_of_all_rows(path, rows, ra, dec, radius):
    expected = rows[brute_force(rows, ra, dec, radius)]
    found = read_cone(path, ra, dec, radius)
    np.testing.assert_array_equal(found["id"], expected["id"])
    np.testing.assert_array_equal(found["psfFlux"], expected["psfFlux"])


def test_cone_reads_only_what_it_needs(path, rows, monkeypatch):
    read = []
    column_of = module.OpenCatalogue.column

    def note(self, column, part=slice(None)):
        read.append((column.name, part.stop - part.start))
        return column_of(self, column, part)

    monkeypatch.setattr(module.OpenCatalogue, "column", note)
    found = read_cone(path, 0.0, 0.0, 0.2, ["id"])
    assert len(found) > 10 and found.dtype.names == ("id",)
    assert {name for name, _ in read} == {"id", "ra", "dec"}
    assert sum(n for name, n in read if name == "ra") < len(rows) / 4


def test_cone_of_a_catalogue_without_index(tmp_path, rows, path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 16 * 300)
    mixed = np.random.default_rng(0).permutation(rows)
    publish_catalogue(Alone(), tmp_path / "x.h5", SOURCE, {0: mixed})
    found = read_cone(tmp_path / "x.h5", 0.1, 0.1, 0.5)
    expected = read_cone(path, 0.1, 0.1, 0.5)
    assert len(expected) > 10
    assert sorted(found["id"]) == sorted(expected["id"])


@pytest.mark.parametrize("cone", [(np.nan, 0.0, 1.0), (0.0, 91.0, 1.0), (0.0, 0.0, -1.0)])
def test_no_such_cone(path, cone):
    with pytest.raises(ConfigError, match="there is no cone"):
        read_cone(path, *cone)


def test_no_cone_without_positions(tmp_path):
    publish_catalogue(Alone(), tmp_path / "sdqa.h5", SDQA, {0: SDQA.empty(3)})
    with pytest.raises(BadDataError, match="has no positions"):
        read_cone(tmp_path / "sdqa.h5", 0.0, 0.0, 1.0)


@given(
    cells=st.lists(st.integers(0, UNPLACED), max_size=30),
    data=st.data(),
)
def test_index_of_counts_however_cut(cells, data):
    """Where the rows of a cell come in several pieces, the index is the same."""
    cells = np.sort(np.array(cells, dtype=np.int64))
    cuts = data.draw(st.lists(st.integers(0, len(cells)), max_size=5))
    pieces = np.split(cells, sorted(cuts))
    counted = [np.unique(piece, return_counts=True) for piece in pieces]
    found = SkyIndex.of_counts(
        np.concatenate([one[0] for one in counted]), np.concatenate([one[1] for one in counted])
    )
    unique, first = np.unique(cells, return_index=True)
    assert found.cells.tolist() == unique.tolist()
    assert found.first.tolist() == [*first.tolist(), len(cells)]


def test_stream_is_the_whole_in_pieces(path, rows):
    pieces = list(iterate_catalogue(path, ["id", "band", "ra"], max_rows=700))
    assert [len(piece["id"]) for piece in pieces] == [700] * 5 + [500]
    for name in ("id", "band", "ra"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in pieces]), rows[name])


def test_opens_in_astropy_with_one_line(path, rows):
    table = mpipipe.read_table(path)
    assert table["psfFlux"].unit == u.nJy
    assert table["band"][0] in ("g", "r") and table["band"].dtype.kind == "U"
    assert table["ra"].description == SOURCE.columns[6].description
    assert table.meta["name"] == "source"
    assert QTable(table)["ra"].unit == u.deg
    np.testing.assert_array_equal(table["id"], rows["id"])


def test_text_beyond_ascii_in_astropy(tmp_path):
    schema = Schema("t", "T", (Column("s", "S12", "", "s"), Column("u", "U4", "", "u")))
    rows = schema.empty(2)
    rows["s"], rows["u"] = ["größe".encode(), b""], ["αβγδ", "星"]
    publish_catalogue(Alone(), tmp_path / "t.h5", schema, {0: rows})
    table = read_table(tmp_path / "t.h5")
    assert table["s"].tolist() == ["größe", ""]
    assert table["u"].tolist() == ["αβγδ", "星"]


# -- several ranks ---------------------------------------------------------------------------------


@pytest.mark.mpi
def test_indexed_file_has_the_same_bits_at_any_rank_count(comm, tmp_path_factory):
    mine = str(tmp_path_factory.mktemp("shared")) if comm.rank == 0 else None
    folder = Path(comm.bcast(mine))
    rows = sky(2, 3000)
    with World.start() as world:
        tables = parted(rows, world.rank, world.size)
        publish_catalogue(world, folder / "a.h5", SOURCE, tables, by_sky=True)
        if world.rank == 0:
            publish_catalogue(Alone(), folder / "b.h5", SOURCE, parted(rows), by_sky=True)
            assert checksum(folder / "a.h5") == checksum(folder / "b.h5")
        assert world.agree(len(read_cone(folder / "a.h5", 0.0, 0.0, 0.3)) > 10)


@pytest.mark.mpi
def test_disorder_on_one_rank_is_known_to_all(comm, tmp_path_factory):
    mine = str(tmp_path_factory.mktemp("shared")) if comm.rank == 0 else None
    folder = Path(comm.bcast(mine))
    with World.start() as world:
        tables = parted(sky(2, 3000), world.rank, world.size)
        if world.rank == world.size - 1:
            tables = {task: part[::-1] for task, part in tables.items()}
        with pytest.raises(MpipipeError):
            publish_catalogue(world, folder / "a.h5", SOURCE, tables, by_sky=True)
        assert world.agree(True)
        assert not list(folder.glob("*"))
