"""A person's own files stay, though they stand where a run puts its products."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.data.icsrc import ICSRC
from mpipipe.data.inventory import FrameFiles
from mpipipe.run.own_files import (
    claim_tables,
    own_tables,
    refuse_others_files,
    refuse_others_tables,
    remove_former_tables,
)
from mpipipe.run.plan import Plan
from mpipipe.run.task import Draft, build_table
from mpipipe.store.hdf5 import Alone, publish_catalogue
from mpipipe.store.layout import ON_TOP, RunLayout


@pytest.fixture
def flat(tmp_path: Path) -> RunLayout:
    layout = RunLayout.at(tmp_path / "OUT", is_flat=True)
    layout.create()
    return layout


def plan() -> Plan:
    frame = FrameFiles(7, 0, "R22", "science", "g", ("/raw/a.fits",), (), n_bytes=1)
    drafts = [Draft("calibrate", 7, "R22", "g", (frame,))]
    return Plan("calibrate", "/raw", None, build_table(drafts))


def test_only_tables_of_the_run_are_removed(flat: RunLayout) -> None:
    claim_tables(flat, makes_objects=False)
    flat.catalogue("object").write_text("mine")
    remove_former_tables(flat, [])
    assert flat.catalogue("object").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"object.h5: is none of this run's files"):
        claim_tables(flat, makes_objects=True)
    flat.catalogue("object").unlink()
    claim_tables(flat, makes_objects=True)
    for name in ON_TOP:
        flat.catalogue(name).write_text("the run's")
    claim_tables(flat, makes_objects=False)  # one that was interrupted is between
    remove_former_tables(flat, [])
    assert not flat.catalogues() and not own_tables(flat)


def test_tables_of_an_exposure_say_whose_they_are(flat: RunLayout) -> None:
    """One of another exposure, or of somebody who has put his own there, stays."""
    refuse_others_tables(flat, plan())
    path = flat.exposure_table("icSrc", 7, "R22")
    for facts in ({"visit": 7, "ccd": "R22", "band": "g"}, {"visit": 8, "ccd": "R22"}, {}):
        publish_catalogue(Alone(), path, ICSRC, {0: ICSRC.empty()}, facts)
        if facts.get("visit") == 7:
            refuse_others_tables(flat, plan())
            continue
        with pytest.raises(ConfigError, match=r"icSrc-7-R22.h5: is not the table"):
            refuse_others_tables(flat, plan())
    path.write_text("mine")
    with pytest.raises(ConfigError, match="visit 7 R22 g, and would be replaced"):
        refuse_others_tables(flat, plan())


@pytest.mark.parametrize("name", ["object.h5", "calexp-7-R22.fits", "src-7-R22.h5", "run/notes"])
def test_a_folder_with_files_of_such_names_is_no_new_one(tmp_path: Path, name: str) -> None:
    layout = RunLayout.at(tmp_path, is_flat=True)
    (tmp_path / "calexp-8-R22.fits").write_text("of another visit")
    refuse_others_files(layout, plan())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        refuse_others_files(layout, plan())
