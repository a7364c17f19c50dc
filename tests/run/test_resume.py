"""Going on with a run after something has changed: what is done again, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.run.basis import PARTS, PARTS_OF_OPTIONS
from mpipipe.run.config import RunConfig
from mpipipe.run.ledger import Ledger
from mpipipe.run.plan import load_plan
from mpipipe.run.upkeep import compact
from mpipipe.run.validity import read_basis
from mpipipe.store.layout import RunLayout

from .conftest import Mpipipe, Result

HIGHER = "sfm.sourceDetection.threshold=9.0"
MakeRun = Callable[..., Result]


@pytest.fixture(scope="module")
def raw(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of our own, which tests may exchange."""
    folder = tmp_path_factory.mktemp("resume") / "raw"
    shutil.copytree(tiny, folder)
    return folder


@pytest.fixture(scope="module")
def finished(raw: Path) -> Path:
    """A run that is done."""
    return make(raw, raw.parent / "finished")


@pytest.fixture(scope="module")
def with_higher(raw: Path) -> str:
    """Digest of a run with another threshold from the beginning."""
    return digest_of(make(raw, raw.parent / "higher", "--set", HIGHER))


def make(raw: Path, root: Path, *options: str) -> Path:
    """A run in a process of its own."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "mpipipe", "run", "-q", str(raw), "-o", str(root), *options]
    subprocess.run(command, check=True, timeout=170, capture_output=True)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, where it may be changed."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def digest_of(root: Path) -> str:
    return Result(0, "", "", root).digest


def stages_by_task(root: Path) -> dict[int, set[str]]:
    """The pipelines that each task's best attempt went through."""
    layout = RunLayout.at(root)
    ledger = Ledger.read(layout, load_plan(layout))
    return {
        task_id: {
            row["stage"].decode().partition(".")[0] for row in ledger.tables(task_id)["stages"]
        }
        for task_id in ledger.task_ids()
    }


def test_every_option_is_known_to_change_something_or_nothing() -> None:
    """An option that no part knew would change products behind the back of the records."""
    assert set(PARTS_OF_OPTIONS) == set(RunConfig.model_fields)
    assert all(set(parts) <= set(PARTS) for parts in PARTS_OF_OPTIONS.values())


def test_a_changed_option_of_sfm_redoes_what_is_measured_on_the_calexp(
    root: Path, with_higher: str, mpipipe: Mpipipe
) -> None:
    """And what comes out is what a run with that option gives, to the bit."""
    before = digest_of(root)
    backgrounds = {path: path.stat().st_mtime_ns for path in root.glob("bkgd/*/*.fits")}
    tried = mpipipe("run", "--resume", root, "--set", HIGHER, "--dry-run")
    assert tried.code == 0, tried.err
    assert "4 measured again on their calexp" in tried.out
    assert "sfm.sourceDetection.threshold is 9.0, was 5.0" in tried.out
    assert digest_of(root) == before
    done = mpipipe("run", "-q", "--resume", root, "--set", HIGHER)
    assert done.code == 0, done.err
    assert digest_of(root) == with_higher != before
    assert {p: p.stat().st_mtime_ns for p in root.glob("bkgd/*/*.fits")} == backgrounds
    visits = {pipelines for pipelines in map(frozenset, stages_by_task(root).values()) if pipelines}
    assert visits == {frozenset({"ic", "sfm"})}
    assert "nothing to do" in mpipipe("run", "--resume", root).out
    back = mpipipe("run", "-q", "--resume", root, "--set", HIGHER.replace("9.0", "5.0"))
    assert back.code == 0, back.err
    assert digest_of(root) == before


def test_records_of_two_kinds_are_not_mixed(root: Path, with_higher: str, mpipipe: Mpipipe) -> None:
    """Compacting moves records to the newest incarnation, which must have made them alike."""
    layout = RunLayout.at(root)
    basis = read_basis(layout, 1)
    assert basis is not None
    other = {part: dict(facts) for part, facts in basis.parts.items()}
    other["sources"]["option sfm.sourceDetection.threshold"] = 9.0
    layout.record_folder(2).mkdir()
    layout.provenance(2).write_text(json.dumps({"basis": other}))
    with pytest.raises(ConfigError, match="other options"):
        compact(layout)
    assert mpipipe("run", "-q", "--resume", root, "--set", HIGHER).code == 0
    compact(layout)
    (root / "completion.json").unlink()
    assert mpipipe("run", "-q", "--resume", root).code == 0
    assert digest_of(root) == with_higher


def test_a_calexp_that_was_altered_is_no_base(
    root: Path, with_higher: str, mpipipe: Mpipipe
) -> None:
    image = min(root.glob("calexp/*/*.fits"))
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    done = mpipipe("run", "-q", "--resume", root, "--set", HIGHER)
    assert done.code == 0, done.err
    assert digest_of(root) == with_higher
    n_whole = sum("isr" in pipelines for pipelines in stages_by_task(root).values())
    assert n_whole == 1


def test_a_changed_option_of_isr_redoes_all(root: Path, raw: Path, mpipipe: Mpipipe) -> None:
    other = "isr.overscan.enabled=false"
    fresh = digest_of(make(raw, root.parent / "fresh", "--set", other))
    tried = mpipipe("run", "--resume", root, "--set", other, "--dry-run")
    assert "0 stay as they are" in tried.out and "measured again" not in tried.out
    done = mpipipe("run", "-q", "--resume", root, "--set", other)
    assert done.code == 0, done.err
    assert digest_of(root) == fresh


def test_options_that_change_no_product_redo_nothing(root: Path, mpipipe: Mpipipe) -> None:
    before = digest_of(root)
    done = mpipipe("run", "--resume", root, "--set", "scheduling.deadline=1000")
    assert done.code == 0, done.err
    assert "nothing to do" in done.out
    assert digest_of(root) == before


def alter_basis(root: Path, change: Callable[[Any], None]) -> None:
    """Rewrite what the run's first incarnation noted as its basis."""
    path = RunLayout.at(root).provenance(1)
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))
    (root / "completion.json").unlink()


def test_other_libraries_are_refused_with_the_reason(root: Path, mpipipe: Mpipipe) -> None:
    def older_scipy(facts: Any) -> None:
        for part in facts["basis"].values():
            part["version scipy"] = "1.0"

    before = digest_of(root)
    alter_basis(root, older_scipy)
    refused = mpipipe("run", "--resume", root)
    assert refused.code == 1
    assert "scipy is" in refused.err and "was 1.0" in refused.err and "--force" in refused.err
    assert len(RunLayout.at(root).incarnations()) == 1, "nothing was begun"
    tried = mpipipe("run", "--resume", root, "--dry-run")
    assert "without --force it is refused" in tried.out
    forced = mpipipe("run", "-q", "--resume", root, "--force")
    assert forced.code == 0, forced.err
    assert digest_of(root) == before


def test_other_code_of_sfm_concerns_sfm_alone(root: Path, mpipipe: Mpipipe) -> None:
    def other_code(facts: Any) -> None:
        facts["basis"]["sources"]["code"] = "0" * 64

    before = digest_of(root)
    alter_basis(root, other_code)
    assert "mpipipe's code has changed" in mpipipe("run", "--resume", root).err
    forced = mpipipe("run", "-q", "--resume", root, "--force")
    assert forced.code == 0, forced.err
    assert digest_of(root) == before
    assert "isr" not in set().union(*stages_by_task(root).values())


@pytest.mark.parametrize("content", [None, 7, {"masters": 3}, []])
def test_records_of_unknown_origin_are_refused(
    root: Path, mpipipe: Mpipipe, content: object
) -> None:
    alter_basis(root, lambda facts: facts.update(basis=content))
    refused = mpipipe("run", "--resume", root)
    assert refused.code == 1
    assert "was not recorded" in refused.err


def test_the_camera_stays(root: Path, mpipipe: Mpipipe) -> None:
    refused = mpipipe("run", "--resume", root, "--set", "camera=decam")
    assert refused.code == 1
    assert "camera" in refused.err and "can not be changed" in refused.err


def test_an_exchanged_raw_frame_is_noticed(root: Path, raw: Path, mpipipe: Mpipipe) -> None:
    """Its visit is done again, also if the frame has the size and name of the old one."""
    before = digest_of(root)
    frame = min(path for path in raw.iterdir() if "_2" in path.name or "_1" in path.name)
    layout = RunLayout.at(root)
    plan = load_plan(layout)
    visit = next(task for task in plan.in_phase("calibrate"))
    frame = Path(visit.frames[0].paths[0])
    kept = frame.read_bytes()
    facts = frame.stat()
    try:
        content = np.frombuffer(kept, dtype=np.uint8).copy()
        content[-3000:-2880:2] ^= 1
        frame.write_bytes(content.tobytes())
        (root / "completion.json").unlink()
        tried = mpipipe("run", "--resume", root, "--dry-run")
        assert "another file than the one that was processed" in tried.out
        assert "calibrate: 4 tasks, 3 stay as they are, 1 from the beginning" in tried.out
        done = mpipipe("run", "-q", "--resume", root)
        assert done.code == 0, done.err
    finally:
        frame.write_bytes(kept)
    os.utime(frame, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (root / "completion.json").unlink()
    assert mpipipe("run", "-q", "--resume", root).code == 0
    assert digest_of(root) == before


def test_frames_that_were_only_copied_again_are_the_same(
    root: Path, raw: Path, mpipipe: Mpipipe
) -> None:
    for path in raw.iterdir():
        os.utime(path)
    (root / "completion.json").unlink()
    tried = mpipipe("run", "--resume", root, "--dry-run")
    assert "from the beginning" not in tried.out


def test_an_exchanged_bias_frame_concerns_everything(
    root: Path, raw: Path, mpipipe: Mpipipe
) -> None:
    layout = RunLayout.at(root)
    frame = Path(load_plan(layout).in_phase("bias")[0].frames[0].paths[0])
    kept = frame.read_bytes()
    try:
        content = bytearray(kept)
        content[-2900] ^= 4
        frame.write_bytes(content)
        (root / "completion.json").unlink()
        tried = mpipipe("run", "--resume", root, "--dry-run")
        assert "calibrate: 4 tasks, 0 stay as they are" in tried.out
    finally:
        frame.write_bytes(kept)


def test_resume_options_need_a_run(raw: Path, tmp_path: Path, mpipipe: Mpipipe) -> None:
    for option in ("--force", "--dry-run"):
        refused = mpipipe("run", raw, "-o", tmp_path / "run", option)
        assert refused.code == 1 and "--resume" in refused.err
    refused = mpipipe("run", "--resume", tmp_path / "run", "--dry-run")
    assert refused.code == 1 and "holds no run" in refused.err
    refused = mpipipe("run", "--resume", tmp_path / "run", "--verify", "some")
    assert refused.code == 1 and "sampled or all" in refused.err
