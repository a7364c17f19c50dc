"""Every file format gives back what the published table holds, to the bit where it can."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.io.votable import parse, parse_single_table
from astropy.table import Table

from mpipipe.data.errors import BadDataError, ConfigError, OutputError
from mpipipe.data.schema import Column, Schema
from mpipipe.store import catalogue
from mpipipe.store.export.exporting import export_tables, format_names, load_format
from mpipipe.store.export.rows import Rows, text_of
from mpipipe.store.hdf5 import Alone, publish_catalogue, read_catalogue
from mpipipe.store.sky_index import UNPLACED, sky_cells

from .published import HARD, OBJECT, SOURCE, hard_rows, publish, sky_tables


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks even of a small table."""
    monkeypatch.setattr(catalogue, "CHUNK_BYTES", 50 * HARD.dtype.itemsize)


@pytest.fixture(params=[257, 1, 0], ids=["257 rows", "1 row", "no rows"])
def rows(request):
    return hard_rows(request.param)


@pytest.fixture
def path(tmp_path, rows):
    return publish(tmp_path, HARD, rows)


def export(path, to, target, **options):
    return export_tables([path], load_format(to), str(target), **options)


def assert_same(found, rows):
    """Columns of a table against rows, bit for bit; text as str."""
    for name in rows.dtype.names:
        values, expected = text_of(np.asarray(found[name])), text_of(rows[name])
        if expected.dtype.kind in "SU":
            assert values.tolist() == expected.tolist(), name
        else:
            np.testing.assert_array_equal(values, expected, err_msg=name)
            if expected.dtype.kind == "f":
                assert values.dtype.itemsize == expected.dtype.itemsize
                np.testing.assert_array_equal(np.signbit(values), np.signbit(expected))


def test_csv(tmp_path, path, rows):
    export(path, "csv", tmp_path / "x.csv")
    raw = (tmp_path / "x.csv").read_bytes()
    assert raw.count(b"\n") - raw.count(b"\r\n") == sum(
        b"\n" in text for text in (*rows["text"], *(t.encode() for t in rows["größe"]))
    )
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as stream:
        header, *lines = csv.reader(stream, strict=True)
    assert header == list(rows.dtype.names) and len(lines) == len(rows)
    table = hard_rows(0).copy()
    table.resize(len(rows))
    for i, line in enumerate(lines):
        for name, field in zip(header, line, strict=True):
            kind = rows.dtype[name].kind
            value = {"b": lambda f: {"True": True, "False": False}[f], "f": float}.get(
                kind, int if kind in "iu" else str
            )(field)
            table[name][i] = value.encode() if kind == "S" else value
    assert_same(table, rows)


def test_floats_of_csv_are_short(tmp_path):
    rows = hard_rows(3)
    rows["flux"], rows["var"] = np.float32(0.1), 0.1
    export(publish(tmp_path, HARD, rows), "csv", tmp_path / "x.csv", columns=["flux", "var"])
    assert (tmp_path / "x.csv").read_text().splitlines()[1:] == ["0.1,0.1"] * 3


def test_json(tmp_path, path, rows):
    export(path, "json", tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert [row["id"] for row in found] == rows["id"].tolist()
    assert [row["größe"] for row in found] == rows["größe"].tolist()
    expected = [float(x) if np.isfinite(x) else None for x in rows["flux"]]
    assert [None if r["flux"] is None else np.float32(r["flux"]) for r in found] == expected
    assert [row["flag"] for row in found] == rows["flag"].tolist()


def test_fits(tmp_path, path, rows):
    names = [name for name in rows.dtype.names if name.isascii()]
    export(path, "fits", tmp_path / "x.fits", columns=names)
    with fits.open(tmp_path / "x.fits") as hdus:
        hdus.verify("exception")
        header = hdus[1].header
        numbers = {header[f"TTYPE{i}"]: i for i in range(1, header["TFIELDS"] + 1)}
        assert header["EXTNAME"] == "HARD" and header[f"TUCD{numbers['ra']}"]
        assert header[f"TFORM{numbers['id']}"] == "K" and header[f"TFORM{numbers['flag']}"] == "L"
    assert (tmp_path / "x.fits").stat().st_size % 2880 == 0
    table = Table.read(tmp_path / "x.fits")
    rows["text"] = np.strings.rstrip(rows["text"])  # blanks at the end mean nothing in FITS
    assert_same({name: np.ma.getdata(table[name]) for name in names}, rows[names])
    assert str(table["var"].unit) == "nJy2" and table["id"].dtype.kind == "i"


def test_fits_has_no_names_beyond_ascii(tmp_path, path):
    with pytest.raises(OutputError, match="key größe: FITS knows only names in ASCII"):
        export(path, "fits", tmp_path / "x.fits")


def test_votable(tmp_path, path, rows):
    export(path, "votable", tmp_path / "x.vot")
    table = parse_single_table(tmp_path / "x.vot", verify="exception")
    fields = {field.name: field for field in table.fields}
    assert fields["id"].datatype == "long" and fields["flux"].ucd == "phot.flux.density"
    assert (
        str(fields["flux"].unit) == "nJy"
        and fields["var"].description == HARD.columns[4].description
    )
    assert table.description == HARD.description
    assert_same({f.name: np.ma.getdata(table.array[f.ID]) for f in table.fields}, rows)


def test_parquet(tmp_path, path, rows):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(path, "parquet", tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert_same({name: table[name].to_numpy() for name in table.column_names}, rows)
    assert table["id"].null_count == table["flux"].null_count == 0
    assert table.schema.field("var").metadata[b"unit"] == b"nJy2"
    assert table.schema.metadata[b"table"] == b"hard"


def test_sqlite(tmp_path, path, rows):
    export(path, "sqlite", tmp_path / "x.sqlite")
    with sqlite3.connect(tmp_path / "x.sqlite") as connection:
        found = connection.execute('SELECT * FROM "hard"').fetchall()
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'hard'").fetchone()
    assert "-- [nJy2] with 'quotes' & <angles>" in sql and '"id" BIGINT PRIMARY KEY' in sql
    assert len(found) == len(rows)
    if not len(rows):
        return
    by_name = dict(zip([*rows.dtype.names, "skyCell"], zip(*found, strict=True), strict=True))
    for name in rows.dtype.names:
        values = np.array(
            [np.nan if value is None else value for value in by_name[name]]
            if rows.dtype[name].kind == "f"
            else by_name[name]
        )
        by_name[name] = values.astype(rows.dtype[name]) if values.dtype.kind != "U" else values
    rows["flux"] += 0.0  # SQLite knows no negative zero
    assert_same(by_name, rows)
    cells = [UNPLACED if cell is None else cell for cell in by_name["skyCell"]]
    assert cells == sky_cells(rows["ra"], rows["dec"]).tolist()


def test_keys_of_sqlite(tmp_path):
    objects, sources = sky_tables()
    sources["objectId"][5] = -1
    paths = [publish(tmp_path, OBJECT, objects), publish(tmp_path, SOURCE, sources)]
    target = tmp_path / "x.sqlite"
    export_tables(paths[::-1], load_format("sqlite"), str(target))
    with sqlite3.connect(target) as connection:
        (n_lost,) = connection.execute(
            "SELECT count(*) FROM source WHERE objectId IS NULL"
        ).fetchone()
        assert n_lost == 1
        foreign = connection.execute("PRAGMA foreign_key_list(source)").fetchall()
        assert [(key[2], key[3], key[4]) for key in foreign] == [("object", "objectId", "objectId")]
        plan = str(
            connection.execute(
                "EXPLAIN QUERY PLAN SELECT * FROM source WHERE objectId = 5"
            ).fetchall()
        )
        assert "source_objectId" in plan
        plan = str(
            connection.execute(
                "EXPLAIN QUERY PLAN SELECT * FROM object WHERE skyCell = 5"
            ).fetchall()
        )
        assert "object_skyCell" in plan


def test_source_of_no_object_is_told(tmp_path):
    objects, sources = sky_tables()
    sources["objectId"][7] = 3
    paths = [publish(tmp_path, OBJECT, objects), publish(tmp_path, SOURCE, sources)]
    with pytest.raises(OutputError, match="row 8 of source belongs to no row of object"):
        export_tables(paths, load_format("sqlite"), str(tmp_path / "x.sqlite"))
    assert not list(tmp_path.glob("*x.sqlite*"))


def test_ids_that_stand_twice_are_told(tmp_path):
    rows = hard_rows(9)
    rows["id"][4] = rows["id"][3]
    with pytest.raises(OutputError, match=r"UNIQUE constraint failed: hard\.id"):
        export(publish(tmp_path, HARD, rows), "sqlite", tmp_path / "x.sqlite")


def test_hats(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    from mpipipe.store.export.formats import hats

    monkeypatch.setattr(hats, "MAX_BYTES", 40 * HARD.dtype.itemsize)
    rows = hard_rows(700)
    export(publish(tmp_path, HARD, rows), "hats", tmp_path / "hard.hats")
    folder = tmp_path / "hard.hats"
    properties = dict(
        line.split("=", 1) for line in (folder / "hats.properties").read_text().splitlines()
    )
    n_placed = np.count_nonzero(np.isfinite(rows["ra"]))
    assert int(properties["hats_nrows"]) == n_placed
    assert parquet.read_metadata(folder / "dataset" / "_metadata").num_rows == n_placed
    info = Table.read(folder / "partition_info.csv", format="ascii.csv")
    tables = []
    for order, cell in info.iterrows():
        name = f"dataset/Norder={order}/Dir={cell // 10000 * 10000}/Npix={cell}.parquet"
        table = parquet.ParquetFile(folder / name).read()
        finest = table["_healpix_29"].to_numpy()
        assert len(table) <= 40 and np.all(np.diff(finest) >= 0)
        assert np.all(finest >> 2 * (29 - order) == cell)
        tables.append(table)
    assert len(tables) == len(list(folder.rglob("Npix=*.parquet"))) > 12
    unplaced = parquet.read_table(folder / "unplaced.parquet")
    ids = np.concatenate([table["id"].to_numpy() for table in (*tables, unplaced)])
    assert sorted(ids) == sorted(rows["id"])


def test_hats_of_a_table_in_another_order(tmp_path):
    path = publish(tmp_path, HARD, hard_rows(9), by_sky=False)
    with pytest.raises(OutputError, match="not in the order of the sky"):
        export(path, "hats", tmp_path / "x.hats")


@pytest.mark.parametrize("to", ["fits", "votable"])
def test_several_tables_in_one_file(tmp_path, to):
    objects, sources = sky_tables()
    paths = [publish(tmp_path, OBJECT, objects), publish(tmp_path, SOURCE, sources)]
    target = tmp_path / "both"
    counts = export_tables(paths, load_format(to), str(target))
    assert counts == {"object": len(objects), "source": len(sources)}
    if to == "votable":
        tables = [table.to_table() for table in parse(target, verify="exception").iter_tables()]
    else:
        tables = [Table.read(target, hdu=number, format="fits") for number in (1, 2)]
    assert tables[0]["objectId"].tolist() == objects["objectId"].tolist()
    assert tables[1]["id"].tolist() == sources["id"].tolist()


# -- all formats -----------------------------------------------------------------------------------

FILES = [name for name in format_names() if load_format(name).SUFFIX]


@pytest.mark.parametrize("to", FILES)
def test_same_table_same_bits(tmp_path, to):
    if to in ("parquet", "hats"):
        pytest.importorskip("pyarrow")
    rows = hard_rows(300)
    names = [name for name in rows.dtype.names if name.isascii()]
    path = publish(tmp_path, HARD, rows)
    for number in range(2):
        export(path, to, tmp_path / f"{number}", columns=names)
    first, second = (
        {p.relative_to(root): p.read_bytes() for p in [root, *root.rglob("*")] if p.is_file()}
        for root in (tmp_path / "0", tmp_path / "1")
    )
    assert first == second


@pytest.mark.parametrize("to", FILES)
def test_what_is_there_stays_unless_forced(tmp_path, to):
    if to in ("parquet", "hats"):
        pytest.importorskip("pyarrow")
    path, target = publish(tmp_path, OBJECT, sky_tables()[0]), tmp_path / "out"
    target.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(path, to, target)
    assert target.read_text() == "mine"
    export(path, to, target, force=True)
    export(path, to, target, force=True)
    assert target.is_dir() or target.read_bytes() != b"mine"
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="no export has made"):
        export(path, to, tmp_path / "folder", force=True)
    (tmp_path / "folder").rmdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["catalogs", "out"]


@pytest.mark.parametrize("to", FILES)
def test_nothing_stays_of_an_export_that_fails(tmp_path, to, monkeypatch):
    if to in ("parquet", "hats"):
        pytest.importorskip("pyarrow")
    path = publish(tmp_path, HARD, hard_rows(200))

    def watch(what, share, n_rows):
        if n_rows >= 100:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        export(path, to, tmp_path / "out", watch=watch, columns=["id", "ra", "dec"])
    assert [p.name for p in tmp_path.iterdir()] == ["catalogs"]


def test_watch_hears_how_far_it_is(tmp_path):
    heard = []
    path = publish(tmp_path, HARD, hard_rows(200))
    export(path, "csv", tmp_path / "out", watch=lambda *facts: heard.append(facts))
    assert heard[0][0] == "hard" and heard[-1] == ("hard", 1.0, 200)
    assert len(heard) >= 4


def test_unknown_names(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        load_format("parket")
    path = publish(tmp_path, OBJECT, sky_tables()[0])
    with pytest.raises(BadDataError, match="key fluxx: has no such column"):
        export(path, "csv", tmp_path / "out", columns=["fluxx"])
    with pytest.raises(BadDataError, match="can not be read"):
        export(tmp_path / "none.h5", "csv", tmp_path / "out")


@pytest.mark.parametrize("to", FILES)
def test_columns_of_arrays_are_refused(tmp_path, to):
    schema = Schema("t", "T", (Column("cov", "(2,2)f4", "", "c"),))
    publish_catalogue(Alone(), tmp_path / "t.h5", schema, {0: schema.empty(2)})
    with pytest.raises(OutputError, match="columns of arrays"):
        export(tmp_path / "t.h5", to, tmp_path / "out")


@pytest.mark.parametrize("to", ["fits", "votable", "sqlite"])
def test_integers_without_a_place_are_refused(tmp_path, to):
    schema = Schema("t", "T", (Column("n", "u8", "", "n"),))
    publish_catalogue(Alone(), tmp_path / "t.h5", schema, {0: schema.empty(2)})
    with pytest.raises(OutputError, match="key n: has no place"):
        export(tmp_path / "t.h5", to, tmp_path / "out")


def test_names_alike_but_for_case_are_refused_by_databases(tmp_path):
    schema = Schema("t", "T", (Column("n", "i4", "", "n"), Column("N", "i4", "", "N")))
    publish_catalogue(Alone(), tmp_path / "t.h5", schema, {0: schema.empty(2)})
    with pytest.raises(OutputError, match="'n' and 'N'"):
        export(tmp_path / "t.h5", "sqlite", tmp_path / "out")


def test_units_are_those_of_each_standard(tmp_path):
    """What the schemas of real tables say is known to FITS and VOTable."""
    from mpipipe.data.icsrc import ICMATCH, ICSRC
    from mpipipe.stages.sfm.src_table import SRC

    for schema in (SRC, ICSRC, ICMATCH, SOURCE):
        path = publish(tmp_path, schema, schema.empty(2), by_sky=False)
        export(path, "votable", tmp_path / f"{schema.name}.vot")
        export(path, "fits", tmp_path / f"{schema.name}.fits")
        table = parse_single_table(tmp_path / f"{schema.name}.vot", verify="exception").to_table()
        other = Table.read(tmp_path / f"{schema.name}.fits")
        for column in schema.columns:
            assert bool(column.unit) == (table[column.name].unit is not None), column
            if column.unit:
                units = [u.Unit(str(found[column.name].unit)) for found in (table, other)]
                assert units[0] == units[1] == u.Unit(column.unit)


def test_rows_protocol_reads_nothing_beyond_the_slice(tmp_path):
    path = publish(tmp_path, HARD, hard_rows(100))
    from mpipipe.store.export.rows import rows_of_catalogue
    from mpipipe.store.hdf5 import opened_catalogue

    with opened_catalogue(path) as opened:
        rows: Rows = rows_of_catalogue(opened, opened.schema, None)
        pieces = list(rows.slices(slice(10, 35), 10))
    assert [len(piece["id"]) for piece in pieces] == [10, 10, 5]
    found = np.concatenate([piece["id"] for piece in pieces])
    assert found.tolist() == read_catalogue(Path(path), ["id"])["id"][10:35].tolist()
