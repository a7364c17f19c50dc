"""STILTS, which TOPCAT is made of, finds nothing wrong with VOTables and reads what we write."""

from __future__ import annotations

import csv
import shutil
import subprocess

import numpy as np
import pytest

from mpipipe.data.association import SOURCE
from mpipipe.store.export.exporting import export_tables, load_format

from .published import HARD, hard_rows, publish, sky_tables

STILTS = shutil.which("stilts")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(STILTS is None, reason="needs stilts (Debian package of that name)"),
]


def stilts(*words):
    done = subprocess.run([STILTS, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("n_rows", [257, 0])
def test_votlint_finds_nothing(tmp_path, n_rows):
    path = publish(tmp_path, HARD, hard_rows(n_rows))
    export_tables([path], load_format("votable"), str(tmp_path / "x.vot"))
    assert stilts("votlint", tmp_path / "x.vot") == ""


def test_votlint_knows_units_and_ucds_of_sources(tmp_path):
    path = publish(tmp_path, SOURCE, sky_tables()[1])
    export_tables([path], load_format("votable"), str(tmp_path / "x.vot"))
    assert stilts("votlint", "ucd=true", "unit=true", tmp_path / "x.vot") == ""


@pytest.mark.parametrize("to", ["votable", "fits", "csv"])
def test_values_as_stilts_reads_them(tmp_path, to):
    rows = hard_rows(50)
    names = ["id", "ra", "flux", "var", "byte", "word", "flag"]
    target = tmp_path / f"x{load_format(to).SUFFIX}"
    export_tables([publish(tmp_path, HARD, rows)], load_format(to), str(target), columns=names)
    lines = list(csv.DictReader(stilts("tpipe", f"in={target}", "ofmt=csv").splitlines()))
    assert [int(line["id"]) for line in lines] == rows["id"].tolist()
    assert [line["flag"] == "true" for line in lines] == rows["flag"].tolist()
    assert [int(line["word"]) for line in lines] == rows["word"].tolist()
    for name in ("flux", "var", "ra"):  # STILTS writes what is not known as an empty field
        found = np.array([float(line[name] or "nan") for line in lines], dtype=rows.dtype[name])
        np.testing.assert_array_equal(found, rows[name])
