"""The completion record: a run counts as done only while every product is as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpipipe.data.errors import BadDataError, ConfigError
from mpipipe.run.completion import product_of_file, verify_run, write_completion
from mpipipe.store.layout import RunLayout


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    layout = RunLayout.at(tmp_path / "run")
    layout.create()
    for name in ("a.fits", "b.fits"):
        (layout.root / name).write_bytes(name.encode() * 100)
    products = [product_of_file("calexp", layout, name) for name in ("b.fits", "a.fits")]
    write_completion(layout, products, {"calibrate": {"done": 2}})
    return layout


def test_an_untouched_run_verifies(layout: RunLayout) -> None:
    verdict = verify_run(layout)
    assert verdict.is_verified
    assert verdict.n_products == 2
    assert verdict.outcomes == {"calibrate": {"done": 2}}


def test_the_digest_knows_no_order(layout: RunLayout) -> None:
    before = verify_run(layout).digest
    products = [product_of_file("calexp", layout, name) for name in ("a.fits", "b.fits")]
    write_completion(layout, products, {})
    assert verify_run(layout).digest == before


def test_a_missing_product_is_named(layout: RunLayout) -> None:
    (layout.root / "a.fits").unlink()
    assert verify_run(layout).faults == ("a.fits: missing",)


def test_a_truncated_product_is_named(layout: RunLayout) -> None:
    (layout.root / "a.fits").write_bytes(b"a")
    assert "1 bytes instead of 600" in verify_run(layout).faults[0]


def test_one_flipped_bit_is_seen(layout: RunLayout) -> None:
    content = bytearray((layout.root / "b.fits").read_bytes())
    content[17] ^= 1
    (layout.root / "b.fits").write_bytes(bytes(content))
    assert verify_run(layout).faults == ("b.fits: content was altered",)


def test_a_product_can_not_be_taken_off_the_list(layout: RunLayout) -> None:
    record = json.loads(layout.completion.read_text())
    record["products"].pop()
    layout.completion.write_text(json.dumps(record))
    with pytest.raises(BadDataError, match="list of products was altered"):
        verify_run(layout)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 9, "products": []}'])
def test_a_damaged_record_is_refused(layout: RunLayout, text: str) -> None:
    layout.completion.write_text(text)
    with pytest.raises(BadDataError):
        verify_run(layout)


def test_an_unfinished_run_says_how_to_go_on(layout: RunLayout) -> None:
    layout.completion.unlink()
    with pytest.raises(BadDataError, match="--resume"):
        verify_run(layout)


def test_records_can_not_name_files_outside_the_run(layout: RunLayout) -> None:
    with pytest.raises(ConfigError, match="leaves the run folder"):
        layout.inside("../../etc/passwd")
