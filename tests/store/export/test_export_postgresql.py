"""A real PostgreSQL server has what the published table holds, with keys, indices and comments."""

from __future__ import annotations

import numpy as np
import pytest

from mpipipe.data.errors import ConfigError, OutputError
from mpipipe.store import catalogue
from mpipipe.store.export.exporting import export_tables, load_format
from mpipipe.store.export.formats import postgresql
from mpipipe.store.sky_index import UNPLACED, sky_cells

from .published import HARD, OBJECT, SOURCE, hard_rows, publish, sky_tables
from .server import find_server, running

psycopg = pytest.importorskip("psycopg", reason="needs psycopg (extra postgres)")


@pytest.fixture(scope="module")
def server():
    binaries = find_server()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (Debian package postgresql)")
    with running(binaries) as url:
        yield url


@pytest.fixture
def url(server):
    """The server with an empty database."""
    yield server
    with psycopg.connect(server) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(catalogue, "CHUNK_BYTES", 100 * HARD.dtype.itemsize)
    monkeypatch.setattr(postgresql, "_AT_ONCE", 30)


def export(paths, url, **options):
    return export_tables(paths, load_format("postgresql"), url, **options)


def ask(url, query, *values):
    with psycopg.connect(url) as connection:
        return connection.execute(query, values).fetchall()


@pytest.mark.parametrize("n_rows", [257, 1, 0])
def test_round_trip(tmp_path, url, n_rows):
    rows = hard_rows(n_rows)
    assert export([publish(tmp_path, HARD, rows)], url) == {"hard": n_rows}
    found = ask(url, 'SELECT * FROM "hard"')
    assert len(found) == n_rows
    for i, name in enumerate(rows.dtype.names):
        values, expected = [row[i] for row in found], rows[name]
        if expected.dtype.kind == "S":
            expected = np.strings.decode(expected, "utf-8")
        np.testing.assert_array_equal(
            np.array(values, dtype=expected.dtype), expected, err_msg=name
        )
        assert None not in values
    cells = [UNPLACED if row[-1] is None else row[-1] for row in found]
    assert cells == sky_cells(rows["ra"], rows["dec"]).tolist()


def test_types_and_comments(tmp_path, url):
    export([publish(tmp_path, HARD, hard_rows(3))], url)
    types = dict(
        ask(url, "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                 " WHERE attrelid = 'hard'::regclass AND attnum > 0")
    )  # fmt: skip
    assert types["id"] == types["long"] == types["skyCell"] == "bigint"
    assert types["flux"] == "real" and types["var"] == "double precision"
    assert types["byte"] == "smallint" and types["word"] == "integer"
    assert types["flag"] == "boolean" and types["text"] == types["größe"] == "text"
    comment = ask(url, "SELECT obj_description('hard'::regclass)")
    assert comment == [(HARD.description,)]
    comments = dict(
        ask(url, "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
                 " WHERE attrelid = 'hard'::regclass AND attnum > 0")
    )  # fmt: skip
    assert comments["var"] == "[nJy2] with 'quotes' & <angles>"
    assert comments['odd";--'] == "a name that would end a statement"


def test_keys_and_indices(tmp_path, url):
    objects, sources = sky_tables()
    sources["objectId"][5] = -1
    paths = [publish(tmp_path, OBJECT, objects), publish(tmp_path, SOURCE, sources)]
    assert export(paths[::-1], url) == {"source": len(sources), "object": len(objects)}
    keys = ask(
        url,
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype IN ('p', 'f') AND connamespace = 'public'::regnamespace",
    )
    assert {key for (key,) in keys} == {
        "PRIMARY KEY (id)",
        'PRIMARY KEY ("objectId")',
        'FOREIGN KEY ("objectId") REFERENCES object("objectId")',
    }
    indices = [
        one for (one,) in ask(url, "SELECT indexdef FROM pg_indexes WHERE schemaname='public'")
    ]
    for wanted in ('object USING btree ("skyCell")', 'source USING btree ("objectId")'):
        assert any(wanted in index for index in indices), wanted
    joined = ask(url, 'SELECT count(*) FROM source JOIN object USING ("objectId")')
    assert joined == [(len(sources) - 1,)]
    assert ask(url, 'SELECT count(*) FROM source WHERE "objectId" IS NULL') == [(1,)]


def test_what_is_there_stays_unless_forced(tmp_path, url):
    path = publish(tmp_path, HARD, hard_rows(9))
    export([path], url)
    with pytest.raises(ConfigError, match="has a table 'hard' already .--force"):
        export([path], url)
    publish(tmp_path, HARD, hard_rows(20))
    export([path], url, force=True)
    assert ask(url, "SELECT count(*) FROM hard") == [(20,)]


def test_all_or_nothing(tmp_path, url):
    objects, sources = sky_tables()
    sources["objectId"][7] = 3
    paths = [publish(tmp_path, OBJECT, objects), publish(tmp_path, SOURCE, sources)]
    with pytest.raises(OutputError, match="PostgreSQL: .*violates foreign key"):
        export(paths, url)
    assert ask(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_by_the_environment(tmp_path, url, monkeypatch):
    monkeypatch.setenv("PGHOST", url.partition("host=")[2])
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", "postgres")
    assert export([publish(tmp_path, HARD, hard_rows(9))], "") == {"hard": 9}


def test_no_server(tmp_path):
    path = publish(tmp_path, HARD, hard_rows(9))
    with pytest.raises(OutputError, match="PostgreSQL: .*name the database by -o"):
        export([path], f"postgresql:///x?host={tmp_path}")
