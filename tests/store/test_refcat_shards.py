"""Reference catalogues: every star in one shard, cones complete, same bytes, damage refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.data.refcat import reference_rows
from mpipipe.data.sky_cells import FINEST, finest_cells, parents
from mpipipe.store.refcat import reading, writing
from mpipipe.store.refcat.cells import touches_cone, unit_vectors
from mpipipe.store.refcat.index import read_index
from mpipipe.store.refcat.reading import read_reference
from mpipipe.store.refcat.writing import write_refcat

BANDS = ("g", "r")


def sky(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over the sky, some dense, some at the poles and around RA 0."""
    rng = np.random.default_rng(seed)
    ra = rng.uniform(0.0, 360.0, n_rows)
    dec = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, n_rows)))
    third = n_rows // 3
    ra[:third] = rng.normal(0.0, 0.5, third) % 360.0
    dec[:third] = rng.normal(0.0, 0.5, third)
    dec[third : third + n_rows // 10] = 90.0 - np.abs(rng.normal(0.0, 0.5, n_rows // 10))
    dec[-min(3, n_rows) :] = -90.0
    return ra, dec


def rows_at(ra: np.ndarray, dec: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"id": np.arange(len(ra)), "ra": ra, "dec": dec}
    columns["pm_ra"] = rng.normal(size=len(ra))
    columns["mag_g"] = rng.uniform(12.0, 20.0, len(ra))
    columns["mag_r_error"] = np.full(len(ra), np.nan)
    return reference_rows(columns, BANDS)


def brute_force(rows: np.ndarray, ra: float, dec: float, radius: float) -> list[int]:
    apart = unit_vectors(rows["ra"], rows["dec"]) - unit_vectors(ra, dec)[:, np.newaxis]
    chord = 2.0 * np.sin(np.radians(min(radius, 180.0)) / 2.0)
    found: list[int] = sorted(rows["id"][np.sum(apart**2, axis=0) <= chord**2].tolist())
    return found


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """6,000 stars in shards of at most 200."""
    rows = rows_at(*sky(6000, seed=3))
    folder = tmp_path_factory.mktemp("refcat") / "stars"
    write_refcat(folder, [rows], BANDS, "test", max_rows=200)
    return folder, rows


centres = st.one_of(
    st.tuples(st.floats(0.0, 360.0), st.floats(-90.0, 90.0)),
    st.tuples(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0)),
    st.tuples(st.floats(0.0, 360.0), st.sampled_from([90.0, -90.0, 89.9, 41.8103149, -41.81])),
)


@given(centres, st.one_of(st.floats(0.0, 5.0), st.floats(5.0, 200.0)))
@settings(max_examples=60, deadline=None)
def test_a_cone_equals_brute_force(
    catalogue: tuple[Path, np.ndarray], centre: tuple[float, float], radius: float
) -> None:
    folder, rows = catalogue
    stars, checksums = read_reference(folder, *centre, radius)
    assert sorted(stars.rows["id"].tolist()) == brute_force(rows, *centre, radius)
    assert all(hashlib.sha256(p.read_bytes()).hexdigest() == d for p, d in checksums.items())


@given(centres, st.floats(-6.0, 1.5), st.integers(0, FINEST), st.integers(0, 1 << 30))
@settings(max_examples=300, deadline=None)
def test_no_cell_with_a_point_in_a_cone_is_missed(
    centre: tuple[float, float], log_radius: float, order: int, seed: int
) -> None:
    """Cells of all orders, far smaller and far larger than the cone."""
    radius = 10.0**log_radius
    rng = np.random.default_rng(seed)
    axis = unit_vectors(*centre)
    side = np.cross(axis, rng.normal(size=3))
    side /= np.linalg.norm(side)
    angle = np.radians(radius) * np.sqrt(rng.uniform(0.0, 1.0, 50))
    turn = rng.uniform(0.0, 2.0 * np.pi, 50)
    other = np.cross(axis, side)
    x, y, z = np.outer(axis, np.cos(angle)) + np.sin(angle) * (
        np.outer(side, np.cos(turn)) + np.outer(other, np.sin(turn))
    )
    ra, dec = np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))
    cells = parents(finest_cells(ra, dec), order)
    assert touches_cone(cells, np.full(50, order), *centre, radius).all()


def test_far_cells_are_not_read(catalogue: tuple[Path, np.ndarray]) -> None:
    folder, _ = catalogue
    index = read_index(folder)
    _, checksums = read_reference(folder, 200.0, 40.0, 0.1)
    assert len(index.shards) > 40 and 1 <= len(checksums) <= 4


@given(st.integers(0, 200), st.integers(5, 60), st.integers(1, 50), st.integers(0, 1 << 30))
@settings(max_examples=8, deadline=None)
def test_every_star_is_in_exactly_one_shard(
    tmp_path_factory: pytest.TempPathFactory, n: int, max_rows: int, at_once: int, seed: int
) -> None:
    """And comes back with all its values, however the rows were cut into chunks."""
    rows = rows_at(*sky(n, seed), seed)
    folder = tmp_path_factory.mktemp("refcat") / "stars"
    chunks = [rows[i : i + at_once] for i in range(0, n, at_once)]
    index = write_refcat(folder, chunks, BANDS, "test", max_rows=max_rows)
    assert index.n_rows == read_index(folder).n_rows == n
    assert read_index(folder).shards.sha256 == index.shards.sha256
    shards = index.shards
    parts = [rows[:0]]
    for number in range(len(shards)):
        part = reading.read_shard(
            shards.path(folder, number), index.schema, shards.sha256[number], shards.n_rows[number]
        )
        cells = parents(finest_cells(part["ra"], part["dec"]), int(shards.order[number]))
        assert np.all(cells == shards.cell[number])
        assert 0 < len(part) <= max_rows or shards.order[number] == FINEST
        parts.append(part)
    back = np.concatenate(parts)
    assert np.sort(back, order="id").tobytes() == rows.tobytes()
    first = shards.cell << (2 * (FINEST - shards.order))
    after = (shards.cell + 1) << (2 * (FINEST - shards.order))
    assert np.all(first[1:] >= after[:-1]), "in nested order, none inside another"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_bytes_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where cells are divided by further spill files instead of in memory."""
    rows = rows_at(*sky(600, seed=8))
    write_refcat(tmp_path / "whole", [rows], BANDS, "test", max_rows=25)
    pieces = [rows[i : i + 77] for i in range(0, len(rows), 77)]
    write_refcat(tmp_path / "pieces", pieces, BANDS, "test", max_rows=25)
    monkeypatch.setattr(writing, "_MOST_BYTES", 3000)
    write_refcat(tmp_path / "spilled", pieces, BANDS, "test", max_rows=25)
    whole = bytes_of(tmp_path / "whole")
    assert len(whole) > 30
    assert whole == bytes_of(tmp_path / "pieces") == bytes_of(tmp_path / "spilled")


def test_rows_that_stand_twice_are_left_out(tmp_path: Path) -> None:
    """But not stars in other places that happen to have the same id."""
    ra, dec = np.array([10.0, 10.0, 10.5, 200.0]), np.array([0.1, 0.1, 0.1, -40.0])
    rows = rows_at(ra, dec)
    rows["id"] = 7
    rows["mag_g"] = [15.0, 16.0, 17.0, 18.0]
    index = write_refcat(tmp_path / "stars", [rows], BANDS, "test")
    assert index.made["duplicates_left_out"] == 1
    stars, _ = read_reference(tmp_path / "stars", 0.0, 0.0, 180.0)
    assert sorted(stars.rows["mag_g"].tolist()) == [15.0, 17.0, 18.0]


def test_more_stars_on_one_point_than_fit_into_a_shard(tmp_path: Path) -> None:
    rows = rows_at(np.full(50, 123.4), np.full(50, -5.6))
    index = write_refcat(tmp_path / "stars", [rows], BANDS, "test", max_rows=10)
    assert index.shards.n_rows.tolist() == [50] and index.shards.order.tolist() == [FINEST]


@pytest.mark.parametrize("error", [KeyboardInterrupt, BadDataError("is damaged")])
def test_nothing_stays_of_half_a_catalogue(tmp_path: Path, error: Any) -> None:
    def chunks() -> Iterator[np.ndarray]:
        yield rows_at(*sky(500, seed=1))
        raise error

    with pytest.raises((KeyboardInterrupt, BadDataError)):
        write_refcat(tmp_path / "stars", chunks(), BANDS, "test")
    assert list(tmp_path.iterdir()) == []


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        write_refcat(tmp_path, [], BANDS, "test")
    assert (tmp_path / "mine.txt").read_text() == "precious"


# -- reading --------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One shard of 30 stars; nothing is known of it by this process."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(bytes(tmp_path)).digest()[:4]))
    rows = rows_at(rng.uniform(10.0, 11.0, 30), rng.uniform(0.0, 1.0, 30))
    write_refcat(tmp_path / "small", [rows], BANDS, "small", is_absolute=False)
    return tmp_path / "small"


def shard_of(folder: Path) -> Path:
    (path,) = folder.rglob("*.fits")
    return path


def test_what_is_read_tells_its_nature(small: Path) -> None:
    stars, checksums = read_reference(small, 10.5, 0.5, 2.0)
    assert (stars.name, stars.bands, stars.is_absolute, len(stars)) == ("small", BANDS, False, 30)
    assert list(checksums) == [shard_of(small)]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "other"])
def test_a_damaged_shard_is_named(small: Path, damage: str) -> None:
    path = shard_of(small)
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-2880])
    elif damage == "flip":
        content[-3000] ^= 1
        path.write_bytes(content)
    else:
        path.write_text("something else")
    with pytest.raises(BadDataError, match=r"Npix\d+\.fits"):
        read_reference(small, 10.5, 0.5, 2.0)
    if damage != "missing":
        assert len(read_reference(small, 190.0, -60.0, 1.0)[0]) == 0, "the rest can be read"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "another"),
        ("version", 99),
        ("bands", None),
        ("shards", [{"order": 40, "cell": 1, "n_rows": 1, "sha256": ""}]),
        ("shards", [{"order": 0, "cell": 12, "n_rows": 1, "sha256": ""}]),
        ("shards", [{"cell": "../../x"}]),
        ("n_rows_of", None),
    ],
)
def test_a_damaged_index_is_named(small: Path, key: str, value: object) -> None:
    path = small / "refcat.json"
    content = json.loads(path.read_text())
    content[key] = value
    path.write_text(json.dumps(content) if key != "n_rows_of" else "{")
    with pytest.raises(BadDataError, match=r"refcat\.json"):
        read_reference(small, 10.5, 0.5, 2.0)


def test_a_folder_without_catalogue(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="mpipipe refcat ingest"):
        read_reference(tmp_path / "nothing", 0.0, 0.0, 1.0)


@pytest.mark.parametrize("cone", [(0.0, 91.0, 1.0), (np.nan, 0.0, 1.0), (0.0, 0.0, -1.0)])
def test_no_cone(small: Path, cone: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="is no cone"):
        read_reference(small, *cone)


def test_shards_are_read_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tasks of one process; an exchanged catalogue is noticed all the same."""
    first, _ = read_reference(small, 10.5, 0.5, 2.0)

    def refuse(*_: object) -> None:
        raise AssertionError("was read again")

    with monkeypatch.context() as patched:
        patched.setattr(reading, "read_shard", refuse)
        again, _ = read_reference(small, 10.5, 0.5, 2.0)
    assert again.rows.tobytes() == first.rows.tobytes()
    rows = rows_at(np.array([10.5]), np.array([0.5]))
    for path in sorted(small.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    write_refcat(small, [rows], BANDS, "another")
    assert read_reference(small, 10.5, 0.5, 2.0)[0].name == "another"


def test_no_more_is_kept_than_fits(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = read_index(small)
    kept = reading._Shards(most_bytes=10)
    for _ in range(3):
        assert len(kept.get(shard_of(small), index, 0)) == 30
    assert len(kept._kept) == 1
