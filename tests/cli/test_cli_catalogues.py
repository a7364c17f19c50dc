"""export, query, cone and lightcurve as a user calls them."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from astropy.io.votable import parse_single_table
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mpipipe.cli.main import app
from mpipipe.cli.positions import parse_angle, parse_position
from mpipipe.data.aperture_correction import ApertureCorrection
from mpipipe.data.association import SOURCE
from mpipipe.data.ccd_polynomial import CcdPolynomial
from mpipipe.data.errors import ConfigError, MpipipeError
from mpipipe.data.guess_psf import GuessPsf
from mpipipe.data.raw import FrameInfo
from mpipipe.data.schema import Column, Schema
from mpipipe.store.export.exporting import format_names
from mpipipe.store.hdf5 import Alone, publish_catalogue
from mpipipe.store.psf import write_psf
from mpipipe.store.query import open_query
from mpipipe.store.sky_index import sky_order

RUNNER = CliRunner()
OBJECT = Schema(
    "object",
    "Objects",
    (
        Column("objectId", "i8", "", "object", "meta.id;meta.main"),
        Column("ra", "f8", "deg", "right ascension", "pos.eq.ra;meta.main"),
        Column("dec", "f8", "deg", "declination", "pos.eq.dec;meta.main"),
        Column("gMean", "f4", "nJy", "mean flux in g", "phot.flux.density"),
    ),
)
FIRST = (1 << 61) + 1


def by_sky(rows, name):
    return rows[sky_order(rows["ra"], rows["dec"], rows[name])]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with 30 objects on a line at declination -0.5, six sources of each."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "catalogs").mkdir()
    objects = OBJECT.empty(30)
    objects["objectId"] = FIRST + np.arange(30)
    objects["ra"], objects["dec"] = (359.95 + 0.01 * np.arange(30)) % 360, -0.5
    objects["gMean"] = 100.0 + np.arange(30)
    objects["gMean"][4] = np.nan
    sources = SOURCE.empty(180)
    of = np.repeat(objects, 6)
    sources["id"], sources["objectId"] = np.arange(180), of["objectId"]
    sources["band"] = np.tile([b"g", b"r"], 90)
    sources["mjd"] = 60000.0 + np.tile([5, 3, 4, 1, 2, 0], 30)
    sources["ra"], sources["dec"], sources["psfFlux"] = of["ra"], of["dec"], of["gMean"]
    sources["psfFluxErr"] = 1.0
    for schema, rows in ((OBJECT, by_sky(objects, "objectId")), (SOURCE, by_sky(sources, "id"))):
        path = folder / "catalogs" / f"{schema.name}.h5"
        publish_catalogue(Alone(), path, schema, {0: rows}, by_sky=True)
    return folder


def call(*words):
    done = RUNNER.invoke(app, [str(word) for word in words])
    if isinstance(done.exception, MpipipeError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done


# -- export ----------------------------------------------------------------------------------------


def test_export(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("export", run, "object", "--to", "csv").output == "object.csv: object (30 rows)\n"
    with open("object.csv", encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 30
    with pytest.raises(ConfigError, match="exists already"):
        call("export", run, "object", "--to", "csv")
    call("export", run, "object", "--to", "csv", "--force", "--columns", "objectId, ra")
    assert Path("object.csv").read_text().startswith("objectId,ra\n")


def test_export_several_tables(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = json.loads(call("export", run, "all", "--to", "sqlite", "-o", "x.db", "--json").output)
    assert facts["rows"] == {"object": 30, "source": 180} and facts["targets"] == ["x.db"]
    with sqlite3.connect("x.db") as connection:
        joined = "SELECT count(*) FROM source JOIN object USING (objectId)"
        assert connection.execute(joined).fetchone() == (180,)
    call("export", run, "object", "source", "--to", "csv", "-o", "folder")
    assert sorted(p.name for p in Path("folder").iterdir()) == ["object.csv", "source.csv"]


def test_export_names_all_formats_in_its_help():
    text = re.sub(r"[\s│]+", " ", RUNNER.invoke(app, ["export", "--help"]).output)
    names = format_names()
    assert f"{', '.join(names[:-1])} or {names[-1]}" in text


def test_export_psf(run, tmp_path):
    folder = run / "psf" / "7"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "psf-7-R1_S1.fits"
    shape = (300, 400)
    one = CcdPolynomial(np.array([1.0]), np.diag([1e-6]), shape)
    info = FrameInfo("cam", 7, 0, "R1_S1", 1, "science", "r", 30.0, 31.0, 60000.25)
    psf, correction = GuessPsf(2.5, 2.2, 0.1, 25, 11.3, shape), ApertureCorrection(one, 30, False)
    write_psf(source, psf, correction, info, provenance={})
    words = ("export", run, "psf", "--visit", 7, "--ccd", "R1_S1", "--to", "fits")
    call(*words, "-o", tmp_path / "x.fits")
    assert (tmp_path / "x.fits").read_bytes() == source.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        call(*words, "-o", tmp_path / "x.fits")
    with pytest.raises(ConfigError, match="has no PSF of visit 8"):
        call("export", run, "psf", "--visit", 8, "--ccd", "R1_S1", "--to", "fits")
    with pytest.raises(ConfigError, match="by --visit V --ccd C --to fits"):
        call("export", run, "psf", "--to", "fits")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("objekt", "--to", "csv"), "has no table 'objekt' .it has object, source"),
        (("../object", "--to", "csv"), "has no table"),
        (("object", "--to", "cvs"), "did you mean 'csv'"),
        (("all", "--to", "csv", "--columns", "ra"), "--columns goes with one table"),
        (("object", "--to", "csv", "--visit", "3"), "--visit and --ccd go with psf"),
    ],
)
def test_export_says_what_is_wrong(run, words, message):
    with pytest.raises(ConfigError, match=message):
        call("export", run, *words)


# -- query -----------------------------------------------------------------------------------------


@pytest.fixture
def duckdb():
    return pytest.importorskip("duckdb", reason="needs duckdb (extra query)")


def test_names_that_differ_by_case(tmp_path, duckdb):
    schema = Schema("t", "", tuple(Column(n, "f4", "", "", "") for n in ("mag_r", "mag_R")))
    rows = schema.empty(2)
    rows["mag_r"], rows["mag_R"] = 1.0, 10.0
    path = tmp_path / "t.h5"
    publish_catalogue(Alone(), path, schema, {0: rows})
    with open_query({"t": path}) as query:
        found = list(query.rows('SELECT "mag_r", "mag_R_2" FROM t').chunks())
    assert found[0]["mag_r"].tolist() == [1.0, 1.0]
    assert found[0]["mag_R_2"].tolist() == [10.0, 10.0]


def test_query(run, duckdb):
    sql = "SELECT band, count(*) AS n, max(objectId) FROM source GROUP BY band ORDER BY band"
    lines = call("query", run, sql).output.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["g", "90", str(FIRST + 29)],
        ["r", "90", str(FIRST + 29)],
    ]
    found = json.loads(call("query", run, sql, "--to", "json").output)
    assert found[0] == {"band": "g", "n": 90, "max(objectId)": FIRST + 29}
    text = call("query", run, sql, "--to", "csv", "--limit", 1).output
    assert text.splitlines() == ["band,n,max(objectId)", f"g,90,{FIRST + 29}"]
    done = call("query", run, sql, "--to", "votable")
    table = parse_single_table(io.BytesIO(done.stdout_bytes), verify="exception").to_table()
    assert table["band"].tolist() == ["g", "r"] and table["n"].tolist() == [90, 90]


def test_what_is_not_known_is_null(run, duckdb):
    sql = "SELECT count(*), count(gMean), max(gMean) FROM object"
    found = call("query", run, sql, "--to", "csv").output.splitlines()[1]
    assert found == "30,29,129.0"
    sql = "SELECT gMean, NULL::INT AS n, NULL AS t FROM object WHERE gMean IS NULL"
    assert call("query", run, sql, "--to", "csv").output.splitlines()[1] == "NaN,,"
    assert json.loads(call("query", run, sql, "--to", "json").output) == [
        {"gMean": None, "n": None, "t": ""}
    ]


def test_separation(run, duckdb):
    sql = "SELECT objectId FROM object WHERE separation(ra, dec, 0, -0.5) < 0.0101 ORDER BY 1"
    found = [row["objectId"] for row in json.loads(call("query", run, sql, "--to", "json").output)]
    assert found == [FIRST + 4, FIRST + 5, FIRST + 6]


def test_table_for_people_tells_of_more(run, duckdb):
    lines = call("query", run, "SELECT id FROM source").output.splitlines()
    assert len(lines) == 52 and lines[-1].startswith("... and more: the first 50 rows")
    assert call("query", run, "SELECT id FROM source WHERE id < 0").output.endswith("no rows\n")
    lines = call("query", run, "SELECT id FROM source", "--limit", 3).output.splitlines()
    assert len(lines) == 5


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('{run}/catalogs/object.h5')",
        "SELECT * FROM glob('/*')",
        "COPY (SELECT 1) TO '{run}/out.csv'",
        "COPY object FROM '/etc/passwd'",
        "ATTACH '{run}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "EXPORT DATABASE '{run}/out'",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW object",
        "INSERT INTO object VALUES (1)",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{run}/out.csv''')",
        "SELECT 1; SELECT 2",
        "",
    ],
)
def test_query_reaches_nothing_else(run, duckdb, sql):
    """Neither other files nor anything that changes."""
    before = sorted(run.rglob("*"))
    with pytest.raises(ConfigError, match="query"):
        call("query", run, sql.format(run=run))
    assert sorted(run.rglob("*")) == before


def test_names_in_python_are_no_tables(run, duckdb):
    secret = Table({"a": [1]})
    assert len(secret) == 1
    with pytest.raises(ConfigError, match="Table with name secret does not exist"):
        call("query", run, "SELECT * FROM secret")


def test_errors_of_sql_are_told(run, duckdb):
    with pytest.raises(ConfigError, match='"gMaen" not found'):
        call("query", run, "SELECT gMaen FROM object")
    with pytest.raises(ConfigError, match="syntax error"):
        call("query", run, "SELCT 1")


def test_query_without_duckdb(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'mpipipe\[query\]'"):
        call("query", run, "SELECT 1")


# -- cone and light curve --------------------------------------------------------------------------


def test_cone(run):
    found = json.loads(call("cone", run, "0.0", "-0.5", "0.0101", "--to", "json").output)
    assert sorted(row["objectId"] for row in found) == [FIRST + 4, FIRST + 5, FIRST + 6]
    same = call("cone", run, "0:0:0", "-0:30:0", "36.4arcsec", "--to", "csv").output
    assert len(same.splitlines()) == 4
    lines = call(
        "cone", run, "0", "-0.5", "1arcmin", "--table", "source", "--columns", "id,ra"
    ).output.splitlines()
    assert lines[0].split() == ["id", "ra"] and len(lines) == 19
    done = call("cone", run, "0", "-0.5", "1arcmin", "--to", "votable", "--limit", 2)
    table = parse_single_table(io.BytesIO(done.stdout_bytes), verify="exception").to_table()
    assert str(table["ra"].unit) == "deg" and len(table) == 2
    assert call("cone", run, "90", "0", "1arcsec").output.endswith("no rows\n")


def test_lightcurve(run, tmp_path):
    picture = tmp_path / "x.png"
    lines = call("lightcurve", run, "0.0502", "-0.5", "-o", picture).output.splitlines()
    assert lines[0].startswith(f"object {FIRST + 10} at 0.0500000") and "6 measure" in lines[0]
    times = [float(line.split()[4]) for line in lines[2:8]]
    assert times == sorted(times) and len(times) == 6
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = call("lightcurve", run, "0.0502", "-0.5", "--to", "csv").output
    assert {row["objectId"] for row in csv.DictReader(io.StringIO(text))} == {str(FIRST + 10)}
    with pytest.raises(ConfigError, match="no object within 1 arcsec"):
        call("lightcurve", run, "0.055", "-0.5", "--radius", "1arcsec")


def test_no_association_yet(tmp_path):
    (tmp_path / "catalogs").mkdir()
    with pytest.raises(ConfigError, match="has no table 'object' .no table is published yet"):
        call("cone", tmp_path, "0", "0", "1")


# -- positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ra", "dec", "expected"),
    [
        ("150.1", "-2.2", (150.1, -2.2)),
        ("10:00:24", "-02:12:00", (150.1, -2.2)),
        ("10h00m24.0s", "-2d12m", (150.1, -2.2)),
        ("10 00 24", "-0 30 0", (150.1, -0.5)),
        ("-0.5", "+90", (359.5, 90.0)),
        ("1e1", "0", (10.0, 0.0)),
    ],
)
def test_positions(ra, dec, expected):
    np.testing.assert_allclose(parse_position(ra, dec), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ra", "dec"),
    [("x", "0"), ("0", "91"), ("10:60:00", "0"), ("nan", "0"), ("", ""), ("0", "1:2:3:4")],
)
def test_no_positions(ra, dec):
    with pytest.raises(ConfigError):
        parse_position(ra, dec)


@given(st.text(max_size=12), st.text(max_size=12))
def test_any_text_is_a_position_or_told(ra, dec):
    try:
        found = parse_position(ra, dec)
    except ConfigError:
        return
    assert 0 <= found[0] <= 360 and abs(found[1]) <= 90


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        ("0.1", 0.1),
        ("6arcmin", 0.1),
        ("6'", 0.1),
        ('360"', 0.1),
        ("360 arcsec", 0.1),
        ("1e-1deg", 0.1),
    ],
)
def test_angles(text, degrees):
    assert parse_angle(text) == pytest.approx(degrees, abs=1e-15)


def test_no_angle():
    for text in ("", "x", "1 parsec", "--1", "e"):
        with pytest.raises(ConfigError):
            parse_angle(text)
