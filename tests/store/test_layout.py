"""Paths of a run stay inside its folder, whatever the names in headers say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.errors import OutputError
from mpipipe.store.layout import RunLayout, safe_name


@given(st.text(max_size=40), st.integers(0, 2**40 - 1))
def test_no_detector_name_leads_outside(ccd: str, visit: int) -> None:
    layout = RunLayout.at("/some/run")
    path = layout.image("calexp", visit, ccd)
    assert path.resolve().is_relative_to(layout.root)
    assert path.parent == layout.root / "calexp" / str(visit)


@given(st.text(min_size=1, max_size=40))
def test_safe_names_are_single_visible_parts(text: str) -> None:
    name = safe_name(text)
    assert name and "/" not in name and not name.startswith(".")


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OutputError, match="file"):
        RunLayout.at(blocker / "run").create()


def test_a_flat_folder_is_known_by_its_mark(tmp_path: Path) -> None:
    """Not by a run in it that happens to have the name of its books."""
    other = RunLayout.at(tmp_path / "run")
    other.create()
    other.plan.touch()
    assert not RunLayout.at(tmp_path).is_flat
    flat = RunLayout.at(tmp_path / "OUT", is_flat=True)
    flat.create()
    assert RunLayout.at(tmp_path / "OUT") == flat
    assert flat.image("calexp", 7, "R22 S11").name == "calexp-7-R22_S11.fits"
    assert flat.image("calexp", 7, "R22").parent == flat.catalogue("object").parent == flat.root
    assert flat.plan.parent == flat.root / "run"
    flat.catalogue("object").touch()
    flat.exposure_table("src", 7, "R22").touch()
    assert list(flat.catalogues()) == ["object"]
