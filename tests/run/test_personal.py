"""process, associate and the workbench, as somebody uses them who has files and no cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mpipipe import Workbench, read_table
from mpipipe.cli.main import app
from mpipipe.data.errors import BadDataError, ConfigError, MpipipeError
from mpipipe.run.completion import verify_run
from mpipipe.run.personal import to_associate, to_process
from mpipipe.run.pipelines import ON_CALEXP, PER_SNAP, PER_VISIT
from mpipipe.run.prepare import Request
from mpipipe.run.take_sources import _ledger_of
from mpipipe.store.hdf5 import Alone, opened_catalogue, publish_catalogue, read_catalogue
from mpipipe.store.layout import RunLayout

REQUEST = Request(Path())
ONE_CCD = "imsim_100001_R22_S11_C*"
THREE = ("imsim_100001_R22_S??_C*", "imsim_100002_R22_S11_C*")
OBJECTS = ("--set", "associate.enabled=true")
RUNNER = CliRunner()


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "mpipipe", *map(str, args)]


def run(*args: object, code: int = 0, folder: Path | None = None) -> str:
    done = subprocess.run(
        command(*args), capture_output=True, text=True, timeout=170, check=False, cwd=folder
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def digest(folder: Path) -> str:
    content = json.loads((folder / "run" / "completion.json").read_text())
    found: str = content["digest"]
    return found


def products(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def work(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as docs/python.md has it: SIM, REFCAT, and OUT of the files of one CCD."""
    root = tmp_path_factory.mktemp("person")
    (root / "SIM").symlink_to(tiny.parent)
    run("refcat", "ingest", "-q", "SIM/refcat", "-o", "REFCAT", folder=root)
    told = run("process", f"SIM/raw/{ONE_CCD}", "-o", "OUT", "--refcat", "REFCAT", folder=root)
    assert "camera sim-tiny" in told and "INSTRUME is 'sim-tiny'" in told
    assert "no masters (--calibs): bias, dark, flat, defects are left out" in told
    return root


def test_products_lie_side_by_side(work: Path) -> None:
    name = "100001-R22_S11"
    assert products(work / "OUT") == [
        f"bkgd-{name}.fits",
        f"calexp-{name}.fits",
        f"icSrc-{name}.h5",
        f"psf-{name}.fits",
        f"src-{name}.h5",
    ]
    assert sorted(path.name for path in (work / "OUT").iterdir() if path.is_dir()) == ["run"]
    assert verify_run(RunLayout.at(work / "OUT")).is_verified
    src = read_table(work / "OUT" / f"src-{name}.h5")
    whole = read_catalogue(RunLayout.at(work / "OUT").catalogue("src"))
    assert len(src) == len(whole) > 50
    assert set(src["band"]) == {"g"} and np.isfinite(src["mjd"]).all()


def test_the_same_command_goes_on_and_changes(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "OUT"
    shutil.copytree(work / "OUT", out)
    files = ("process", f"{work}/SIM/raw/{ONE_CCD}", "-o", out, "--refcat", work / "REFCAT")
    assert "nothing to do" in run(*files)
    with pytest.raises(ConfigError, match="was made of other files: .* is new, and 31 files more"):
        to_process([f"{work}/SIM/raw/imsim_100001_*"], out, REQUEST, force=False)
    others = [out / name for name in ("object.h5", "mine.fits", "film.mkv.part")]
    for path in others:
        path.write_text("mine")
    torn = out / ".src-1-R22.h5.0123456789abcdef.part"
    torn.write_text("half")
    told = run(*files, "--set", "sfm.sourceDetection.threshold=20")
    assert "1 measured again on their calexp" in told
    assert [path.read_text() for path in others] == ["mine"] * 3 and "mine.fits" not in told
    assert not torn.exists()
    name = "src-100001-R22_S11.h5"
    assert 0 < len(read_catalogue(out / name)) < len(read_catalogue(work / "OUT" / name))
    (out / name).write_text("mine")
    told = run(*files, code=1)
    assert f"{name}: is not the table that this run has made of visit 100001 R22_S11 g" in told
    assert (out / name).read_text() == "mine"


def test_what_is_not_set_any_more_is_undone(work: Path) -> None:
    """The configuration is what the command says, not what an earlier one has said."""
    raw, reference = [f"{work}/SIM/raw/{ONE_CCD}"], work / "REFCAT"
    request = Request(Path(), refcat=reference, assignments=("sfm.sourceDetection.passes=1",))
    asked = to_process(raw, work / "OUT", request, force=False).asked
    assert asked.assignments == ("sfm.sourceDetection.passes=1",) and asked.refcat is None
    asked = to_process(raw, work / "OUT", Request(Path(), refcat=reference), force=False).asked
    assert asked.assignments == ()
    # But for the catalogue; and what the folder has been filled with is no input.
    errand = to_process([*raw, f"{work}/OUT/*.fits"], work / "OUT", REQUEST, force=False)
    assert any("that of before stays" in note and "REFCAT" in note for note in errand.notes)
    assert not any("no reference catalogue" in note for note in errand.notes)


def test_another_camera_is_refused(work: Path, tmp_path: Path) -> None:
    """Frames stay what they were taken for, also if they fit another description."""
    raw, camera = [f"{work}/SIM/raw/{ONE_CCD}"], tmp_path / "mine.toml"
    camera.write_text('base = "sim-tiny"\nname = "mine"\n')
    with pytest.raises(ConfigError, match="was made as camera sim-tiny .choose another folder"):
        to_process(raw, work / "OUT", Request(Path(), str(camera)), force=False)


@pytest.fixture(scope="module")
def many(work: Path) -> Path:
    """Three exposures in two bands, of three processes, and their objects."""
    files = [f"{work}/SIM/raw/{name}" for name in THREE]
    assert "3 done" in run("process", *files, *OBJECTS, "-o", work / "MANY", "-j", 3)
    return work / "MANY"


def test_one_process_and_an_interruption_give_the_same_bits(
    work: Path, many: Path, tmp_path: Path
) -> None:
    files = [f"{work}/SIM/raw/{name}" for name in THREE]
    given = ("process", *files, *OBJECTS, "-o", tmp_path)
    process = subprocess.Popen(command(*given, "-j", 1, "-q"), start_new_session=True)
    limit = time.monotonic() + 120
    while not list(tmp_path.glob("calexp-*.fits")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 75
    assert not list(tmp_path.glob("src-*.h5"))
    assert "done already and taken over" in run(*given, "-j", 2)
    assert digest(tmp_path) == digest(many)


def test_objects_are_the_same_from_files_and_from_the_run(many: Path, tmp_path: Path) -> None:
    """The table of an exposure tells all of its sources that association needs.

    Behind the table of a run stand its records. Either gives what the run itself has made.
    """
    by_file, by_run = tmp_path / "by_file", tmp_path / "by_run"
    for path in many.glob("src-*.h5"):
        shutil.copy(path, tmp_path)
    run("associate", f"{tmp_path}/src-*.h5", "-o", by_file, "-j", 1)
    run("associate", RunLayout.at(many).catalogue("src"), "-o", by_run, "-j", 2)
    names = [f"{n}.h5" for n in ("badSource", "badSourceHist", "object", "source", "sourceHist")]
    assert products(by_file) == names
    for name in names:
        assert (by_file / name).read_bytes() == (by_run / name).read_bytes(), name
        made = read_catalogue(many / name)  # the table of the run tells its camera, too
        assert made.tobytes() == read_catalogue(by_file / name).tobytes(), name
    assert len(read_catalogue(by_file / "object.h5")) > 100
    with pytest.raises(ConfigError, match="is in .*src-100001-R22_S01.h5, too"):
        to_associate([str(many), str(tmp_path)], tmp_path / "x", (), force=False)
    one = tmp_path / "src-100001-R22_S01.h5"
    n_before = len(read_catalogue(by_file / "source.h5"))
    rewrite(one, one, read_catalogue(one)[:-9])
    assert "nothing to do" not in run("associate", f"{tmp_path}/src-*.h5", "-o", by_file, "-j", 1)
    assert len(read_catalogue(by_file / "source.h5")) in range(n_before - 9, n_before)


def rewrite(source: Path, target: Path, rows: np.ndarray, **facts: str) -> None:
    """Another table of an exposure, of these rows."""
    with opened_catalogue(source) as catalogue:
        schema, attributes = catalogue.schema, catalogue.attributes()
    publish_catalogue(Alone(), target, schema, {0: rows}, attributes | facts)


def test_the_same_sources_under_another_name_are_refused(work: Path, tmp_path: Path) -> None:
    """Ids know the number of a CCD, not its name. And a table may lie in the uppermost folder."""
    first, second = work / "OUT" / "src-100001-R22_S11.h5", tmp_path / "src-100001-other.h5"
    rewrite(first, second, read_catalogue(first), ccd="other")
    with pytest.raises(ConfigError, match=r"src-.*.h5, too, called CCD .*: the ids are alike"):
        to_associate([str(first), str(second)], tmp_path / "x", (), force=False)
    with pytest.raises(BadDataError, match="is a table of a run without its run"):
        _ledger_of(Path("/src.h5"))


def export(*args: object) -> None:
    RUNNER.invoke(app, ["export", *map(str, args)], catch_exceptions=False)


def test_single_files_are_exported(work: Path, tmp_path: Path) -> None:
    name = "100001-R22_S11"
    export(work / "OUT" / f"src-{name}.h5", "-o", tmp_path / "src.csv")
    n_rows = len(read_catalogue(work / "OUT" / f"src-{name}.h5"))
    assert len((tmp_path / "src.csv").read_text().splitlines()) == n_rows + 1
    tables = [work / "OUT" / f"{kind}-{name}.h5" for kind in ("src", "icSrc")]
    export(*tables, "--to", "votable", "-o", tmp_path / "all")
    assert products(tmp_path / "all") == [f"icSrc-{name}.vot", f"src-{name}.vot"]
    psf = work / "OUT" / f"psf-{name}.fits"
    export(psf, "--to", "fits", "-o", tmp_path / "psf.fits")
    assert (tmp_path / "psf.fits").read_bytes() == psf.read_bytes()
    for what, reason in (
        (work / "OUT" / f"calexp-{name}.fits", "is no PSF"),
        (work / "OUT", "say which table"),
        (tmp_path / "none.h5", "does not exist"),
    ):
        with pytest.raises(MpipipeError, match=reason):
            export(what, "--to", "fits", "-o", tmp_path / "x.fits")
    with pytest.raises(ConfigError, match="key --to: is not given"):
        export(tables[0], "-o", tmp_path / "x.doc")


@pytest.mark.parametrize("case", ["empty", "pattern", "missing", "no fits", "cameras", "masters"])
def test_what_can_not_be_processed_is_refused(work: Path, tmp_path: Path, case: str) -> None:
    """Before anything is written, with a line that names the file and the reason."""
    raw, note = f"{work}/SIM/raw/{ONE_CCD}", tmp_path / "note.fits"
    note.write_text("no FITS")
    (tmp_path / "empty").mkdir()
    names, reason = {
        "empty": ([tmp_path / "empty"], "there is no FITS file in this folder"),
        "pattern": ([tmp_path / "*.fit"], "nothing has a name like this"),
        "missing": ([tmp_path / "x.fits"], "does not exist"),
        "no fits": ([raw, note], "note.fits.*is no FITS file"),
        "cameras": ([raw, tmp_path / "other.fits"], "files of several cameras: .*arcsat"),
        "masters": ([raw], "holds no masters"),
    }[case]
    if case == "cameras":
        write_frame(tmp_path / "other.fits", INSTRUME="FlareCam", TELESCOP="ARCSAT 0.5-m")
    request = Request(Path(), calibs=tmp_path / "empty" if case == "masters" else None)
    with pytest.raises(MpipipeError, match=reason):
        to_process([str(name) for name in names], tmp_path / "OUT", request, force=False)
    assert not (tmp_path / "OUT").exists()


def write_frame(path: Path, **cards: str) -> None:
    from astropy.io import fits

    header = fits.Header(cards)
    fits.PrimaryHDU(np.zeros((8, 8), dtype="i2"), header).writeto(path)


def test_a_camera_that_nobody_knows_is_to_be_named(tmp_path: Path) -> None:
    write_frame(tmp_path / "a.fits", INSTRUME="Selfmade")
    with pytest.raises(ConfigError, match="INSTRUME is 'Selfmade'.*--camera: arcsat, .*generic"):
        to_process([str(tmp_path / "a.fits")], tmp_path / "OUT", REQUEST, force=False)


def test_folders_that_are_not_for_it_are_refused(work: Path, tmp_path: Path) -> None:
    raw = [f"{work}/SIM/raw/{ONE_CCD}"]
    (tmp_path / "file").write_text("")
    with pytest.raises(MpipipeError, match="is a file"):
        to_process(raw, tmp_path / "file", REQUEST, force=False)
    (tmp_path / "plan.columns").write_text("")
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "run").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "parent"):
        with pytest.raises(ConfigError, match="holds a run that mpipipe run has made"):
            to_process(raw, folder, REQUEST, force=False)
    with pytest.raises(ConfigError, match="holds exposures"):
        to_associate([str(work / "OUT")], work / "OUT", (), force=False)
    with pytest.raises(MpipipeError, match="is the table 'icSrc', not src"):
        to_associate(
            [str(work / "OUT" / "icSrc-100001-R22_S11.h5")], tmp_path / "x", (), force=False
        )


def test_half_of_the_channels_and_a_frame_twice_are_told(work: Path, tmp_path: Path) -> None:
    """The first has bad data; of the other the snap that is not double is used."""
    raw, double = work / "SIM" / "raw", "imsim_100001_R22_S11_C10_E000.fits"
    shutil.copy(raw / double, tmp_path / f"a_{double}")
    files = (raw / ONE_CCD, tmp_path / f"a_{double}", raw / "imsim_100001_R22_S01_C0*")
    told = run("process", *files, "-o", tmp_path / "OUT", "-j", 1, code=3)
    assert "R22_S01 g: bad data" in told and "no file of channel C10, C11" in told
    assert "R22_S11 g: partial" in told and "a second file of channel C10" in told
    assert [name for name in products(tmp_path / "OUT") if name.startswith("src")] == [
        "src-100001-R22_S11.h5"
    ]


def test_the_workbench_does_what_the_run_did(work: Path) -> None:
    bench = Workbench.of_run(work / "OUT")
    values = bench.run()
    src = read_catalogue(RunLayout.at(work / "OUT").catalogue("src"))
    for name in src.dtype.names or ():
        assert values["src"][name].tobytes() == src[name].tobytes(), name
    assert bench.problems == ()
    given = bench.run("sfm.sourceDetection", before=True)
    n_before = len(given["detections"].x)
    few = bench.run_stage("sfm.sourceDetection", given, {"threshold": 50})
    assert len(given["detections"].x) == n_before, "what a stage is given stays"
    again = bench.run("sfm.sourceDetection", {"sfm.sourceDetection.threshold": 50})
    assert len(few["detections"].x) == len(again["detections"].x) < len(src)


def test_the_workbench_says_what_it_can_not_do(work: Path) -> None:
    with pytest.raises(ConfigError, match="are 4 exposures.*visit=100001, ccd='R22_S01'"):
        Workbench(work / "SIM" / "raw")
    with pytest.raises(ConfigError, match="is no such exposure"):
        Workbench.of_run(work / "OUT", visit=7)
    bench = Workbench(f"{work}/SIM/raw/{ONE_CCD}")
    with pytest.raises(ConfigError, match="did you mean 'isr.overscan'"):
        bench.run("isr.overscann")
    with pytest.raises(ConfigError, match="needs calexp"):
        bench.run_stage("sfm.initialize", {})

    def mine(config: object, **values: object) -> dict[str, object]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError):
        bench.run("isr.overscan", replace={"isr.overscan": mine})
    values = bench.run("isr.bias")
    assert set(bench.stage("isr.bias").adds) <= set(values)


@pytest.mark.parametrize("kind", ["snap", "visit", "calexp"])
def test_the_first_stage_of_each_chain_has_what_it_needs(work: Path, kind: str) -> None:
    """Whether values are of a snap, of the visit or of its calexp is the stage's to say."""
    chain = {"snap": PER_SNAP, "visit": PER_VISIT, "calexp": ON_CALEXP}[kind]
    bench = Workbench.of_run(work / "OUT")
    given = bench.run(chain[0].name, before=True)
    assert set(chain[0].needs) <= set(given)
    bench.run_stage(chain[0].name, given)


def test_the_document_runs(work: Path, repo: Path, tmp_path: Path) -> None:
    """Every block of docs/python.md, in order, in one interpreter."""
    text = (repo / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 4
    for name in ("SIM", "REFCAT", "OUT"):
        (tmp_path / name).symlink_to(work / name)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "look.png").stat().st_size > 10_000
