"""Files of sky cells: the same whatever way rows came; damage is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpipipe.data.association import SOURCE
from mpipipe.data.errors import BadDataError, OutputError
from mpipipe.store.cell_rows import TRAVELLING, CellRowsWriter, read_cell_rows


def travelling(n_rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.zeros(n_rows, dtype=TRAVELLING)
    rows["cell"] = rng.integers(0, 3, n_rows)
    rows["own"] = rng.random(n_rows) < 0.8
    rows["row"]["id"] = rng.permutation(n_rows) + (1 << 60)
    rows["row"]["ra"] = rng.uniform(0, 360, n_rows)
    rows["row"]["band"] = b"r"
    return rows


def write(folder: Path, rows: np.ndarray, buffer_bytes: int) -> list[tuple[int, int, str]]:
    writer = CellRowsWriter({cell: folder / f"{cell}.columns" for cell in range(4)}, buffer_bytes)
    for begin in range(0, len(rows), 37):
        writer.add(rows[begin : begin + 37])
    return [writer.finish(cell) for cell in range(4)]


def test_files_are_the_same_whatever_way_rows_came(tmp_path):
    rows = travelling(500)
    mixed = rows[np.random.default_rng(1).permutation(500)]
    one = write(tmp_path / "a", rows, 1 << 20)
    other = write(tmp_path / "b", mixed, 3000)
    assert one == other
    assert sum(facts[0] + facts[1] for facts in one) == 500
    assert one[3][:2] == (0, 0)
    for cell in range(4):
        found, own = read_cell_rows(tmp_path / "a" / f"{cell}.columns")
        wanted = rows[rows["cell"] == cell]
        wanted = wanted[np.argsort(wanted["row"]["id"])]
        assert found.dtype == SOURCE.dtype
        assert found.tobytes() == wanted["row"].tobytes()
        assert np.array_equal(own, wanted["own"])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        f"{cell}.columns" for cell in range(4)
    ]


def test_checksums_follow_from_facts_and_cell_too(tmp_path):
    rows = travelling(40)
    rows["cell"] = 0
    found = set()
    for number, (name, fwhm) in enumerate([("a", 1.0), ("a", 1.1), ("b", 1.0)]):
        path = tmp_path / str(number) / f"{name}.columns"
        writer = CellRowsWriter({0: path}, 1 << 20, {"fwhm": fwhm})
        writer.add(rows)
        found.add(writer.finish(0)[2])
    assert len(found) == 3


def test_rows_of_a_writer_that_died_do_not_come_back(tmp_path):
    died = CellRowsWriter({0: tmp_path / "0.columns"}, 1)
    rows = travelling(50)
    rows["cell"] = 0
    died.add(rows)
    again = CellRowsWriter({0: tmp_path / "0.columns"}, 1)
    again.add(rows[:20])
    assert sum(again.finish(0)[:2]) == 20


def test_damage_is_refused(tmp_path):
    write(tmp_path, travelling(300), 1 << 20)
    path = tmp_path / "0.columns"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadDataError, match="checksum"):
        read_cell_rows(path)
    with pytest.raises(BadDataError, match="can not be read"):
        read_cell_rows(tmp_path / "9.columns")


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        write(tmp_path / "file", travelling(40), 1)
