"""`mpipipe doctor`: every fault is named with what mends it, and nothing can hang it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mpipipe.cli import doctor as command
from mpipipe.parallel import doctor
from mpipipe.parallel.doctor import Check, Status

OPEN_MPI_5 = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution"
MPIRUN_5 = "mpirun (Open MPI) 5.0.11\n\nReport bugs to ..."
MPIRUN_4 = "mpirun (Open MPI) 4.1.4\n\nReport bugs to ..."
HYDRA = "HYDRA build details:\n    Version:                                 4.0.2\n"
MPICH = "MPICH Version:\t4.0.2\nMPICH Release date:\tThu Apr  7 12:34:45 CDT 2022"
GOOD = {
    "mpi4py": "4.1.2",
    "library": OPEN_MPI_5,
    "h5py": "3.16.0",
    "h5py_mpi": True,
    "hdf5": "1.10.8",
    "maps": ["/venv/lib/libmpi.so.40", "/usr/lib/libhdf5_openmpi.so.103"],
}


def assert_bad(check: Check, mend: str) -> None:
    assert check.status is Status.BAD
    assert mend in check.mend


def assert_warns(check: Check, mend: str) -> None:
    assert check.status is Status.WARN
    assert mend in check.mend


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (OPEN_MPI_5, "Open MPI 5.0.11"),
        (MPIRUN_5, "Open MPI 5.0.11"),
        (HYDRA, "MPICH 4.0.2"),
        (MPICH, "MPICH 4.0.2"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307", "Intel MPI 2021.9"),
        ("something else\nmore", "something else"),
        ("", "unknown MPI"),
    ],
)
def test_mpi_is_named_alike_by_library_and_launcher(text: str, name: str) -> None:
    assert doctor.mpi_name(text) == name


def test_old_python_is_bad() -> None:
    assert doctor.check_python((3, 11, 0)).status is Status.OK
    assert_bad(doctor.check_python((3, 10, 9)), "python3.11")


def test_versions_are_held_against_the_lower_bounds() -> None:
    rows = list(doctor.check_versions(["numpy>=2.1", "scipy>=999", "no-such-thing>=1"]))
    assert [row.status for row in rows] == [Status.OK, Status.BAD, Status.BAD]
    assert rows[1].mend == "python -m pip install 'scipy>=999'"
    assert rows[2].found == "not installed"


def test_requirements_of_extras_are_not_looked_at() -> None:
    assert list(doctor.check_versions(['no-such-thing>=1; extra == "test"'])) == []


def test_missing_mpi4py_is_a_warning_and_a_broken_one_bad() -> None:
    assert doctor.check_mpi4py(GOOD).status is Status.OK
    assert_warns(doctor.check_mpi4py({"mpi4py_error": "No module named 'mpi4py'"}), "mpi4py")
    assert_bad(doctor.check_mpi4py({"mpi4py_error": "libmpi.so: cannot open"}), "--force")
    assert_bad(doctor.check_mpi4py({}), "mpi4py")


def test_launcher_of_another_mpi_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_launcher(OPEN_MPI_5, MPIRUN_5, "/v/mpirun").status is Status.OK
    assert doctor.check_launcher(MPICH, HYDRA, "/v/mpirun").status is Status.OK
    own = tmp_path / "bin" / "mpirun"
    own.parent.mkdir()
    own.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    check = doctor.check_launcher(OPEN_MPI_5, MPIRUN_4, "/bin/sh")
    assert_bad(check, f"export PATH={own.parent}:$PATH")
    assert "4.1.4" in check.found
    assert "5.0.11" in check.found
    assert_warns(doctor.check_launcher(None, MPIRUN_5, "/v/mpirun"), "mpi4py")
    assert_warns(doctor.check_launcher(OPEN_MPI_5, None, None), str(own.parent))


def test_two_mpi_libraries_in_one_process_are_bad() -> None:
    assert doctor.check_one_mpi(GOOD).status is Status.OK
    maps = [*GOOD["maps"], "/usr/lib/x86_64-linux-gnu/openmpi/lib/libmpi.so.40.30.4"]
    check = doctor.check_one_mpi({**GOOD, "maps": maps})
    assert check.status is Status.BAD
    assert check.mend
    assert "/venv/lib/libmpi.so.40" in check.found


def test_crash_of_the_import_is_bad() -> None:
    assert_bad(doctor.check_one_mpi({"mpi4py": "4.1.2"}), doctor.mend_h5py())


def test_plain_h5py_is_a_warning_and_none_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.check_h5py(GOOD).status is Status.OK
    monkeypatch.chdir(tmp_path)
    assert_warns(doctor.check_h5py({**GOOD, "h5py_mpi": False}), "HDF5_MPI=ON")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "setup").touch()
    assert_warns(doctor.check_h5py({**GOOD, "h5py_mpi": False}), "tools/setup")
    assert_bad(doctor.check_h5py({"h5py_error": "No module named 'h5py'"}), "h5py")


@pytest.mark.parametrize(("answer", "status"), [("yes", Status.OK), ("no", Status.WARN)])
def test_ulfm_is_read_from_the_launchers_own_info(
    tmp_path: Path, answer: str, status: Status
) -> None:
    info = tmp_path / "ompi_info"
    info.write_text(f"#!/bin/sh\necho '  FT MPI support: {answer}'\n")
    info.chmod(0o755)
    assert doctor.check_ulfm(str(tmp_path / "mpirun")).status is status


def test_no_launcher_has_no_ulfm(tmp_path: Path) -> None:
    assert_warns(doctor.check_ulfm(None), "openmpi")
    assert doctor.check_ulfm(str(tmp_path / "mpirun")).status is Status.WARN


def test_root_without_permission_is_bad() -> None:
    assert_bad(doctor.check_root(0, {}, MPIRUN_5), "export OMPI_ALLOW_RUN_AS_ROOT=1")
    allowed = dict.fromkeys(doctor.ROOT_VARIABLES, "1")
    assert doctor.check_root(0, allowed, MPIRUN_5).status is Status.OK
    assert doctor.check_root(0, {}, HYDRA).status is Status.OK
    assert doctor.check_root(0, {}, None).status is Status.OK
    assert doctor.check_root(1000, {}, MPIRUN_5).status is Status.OK


def test_more_ranks_than_cores_is_a_warning() -> None:
    ranks = {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert_warns(doctor.check_cores(2, ranks, MPIRUN_5), "-n 2")
    assert doctor.check_cores(4, ranks, MPIRUN_5).status is Status.OK
    assert_warns(doctor.check_cores(1, {}, MPIRUN_5), "oversubscribe")
    policy = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    assert doctor.check_cores(1, policy, MPIRUN_5).status is Status.OK


def test_threads_beside_ranks_are_a_warning() -> None:
    assert_warns(doctor.check_threads(8, {}), "export OMP_NUM_THREADS=1")
    assert doctor.check_threads(8, {"OMP_NUM_THREADS": "1"}).status is Status.OK
    assert doctor.check_threads(1, {}).status is Status.OK
    one_wide = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "8"}
    assert doctor.check_threads(8, one_wide).mend == "export NUMBA_NUM_THREADS=1"


def test_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert doctor.check_locale().status is Status.OK
    monkeypatch.setenv("LC_ALL", "xx_YY.ISO-8859-1")
    assert_warns(doctor.check_locale(), "C.UTF-8")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert_warns(doctor.check_locale(), "C.UTF-8")


# Root may write anywhere, except into folders that are none.
@pytest.fixture
def unwritable() -> Path:
    return Path("/proc/self")


def test_unwritable_folders_are_named(unwritable: Path, tmp_path: Path) -> None:
    check = doctor.check_writable("run folder", unwritable / "a" / "b", "mend it")
    assert_bad(check, "mend it")
    assert str(unwritable) in check.found
    assert doctor.check_writable("run folder", tmp_path / "a" / "b", "").status is Status.OK
    assert list(tmp_path.iterdir()) == []


def test_numba_cache(unwritable: Path, tmp_path: Path) -> None:
    mend = "NUMBA_CACHE_DIR"
    assert_warns(doctor.check_numba_cache({"NUMBA_CACHE_DIR": str(unwritable)}), mend)
    assert_warns(doctor.check_numba_cache({}), mend)
    usable = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert doctor.check_numba_cache(usable).status is Status.OK


def test_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_WARN", 0)
    assert doctor.check_disk(tmp_path / "not" / "yet").status is Status.OK
    monkeypatch.setattr(doctor, "DISK_WARN", 1 << 80)
    assert_warns(doctor.check_disk(tmp_path), "--run-folder")
    monkeypatch.setattr(doctor, "DISK_BAD", 1 << 80)
    assert_bad(doctor.check_disk(tmp_path), "--run-folder")


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHM_WARN", 0)
    assert [row.status for row in doctor.check_shared_memory(tmp_path)] == [Status.OK] * 2
    monkeypatch.setattr(doctor, "SHM_WARN", 1 << 80)
    assert_warns(next(doctor.check_shared_memory(tmp_path)), "remount")
    assert_warns(next(doctor.check_shared_memory(tmp_path / "none")), "mount")


def test_leftovers_are_those_that_nobody_uses(tmp_path: Path) -> None:
    dead = tmp_path / "sm_segment.host.0.1"
    used = tmp_path / "sm_segment.host.0.2"
    for path in (dead, used, tmp_path / "other"):
        path.write_bytes(bytes(4096))
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdout
        user.stdout.readline()
        assert doctor.leftovers(tmp_path) == [dead]
        *_, check = doctor.check_shared_memory(tmp_path)
        assert check.mend == f"rm {dead}"
        user.communicate(b"")
    assert doctor.leftovers(tmp_path) == [dead, used]


def test_probe_that_hangs_or_crashes_is_given_up() -> None:
    start = time.perf_counter()
    assert doctor.run_probe([sys.executable, "-c", "import time; time.sleep(60)"], 0.5) is None
    assert time.perf_counter() - start < 10
    assert doctor.run_probe(["/no/such/command"]) is None
    code = "import os; print('so far', flush=True); os.abort()"
    assert doctor.run_probe([sys.executable, "-c", code]) == "so far\n"


def test_probe_reads_what_was_told_before_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print('noise'); print('[1]'); print('{\"mpi4py\": \"4\"}', flush=True); import os; "
    monkeypatch.setattr(doctor, "PROBE", code + "os.abort()")
    assert doctor.probe_libraries() == {"mpi4py": "4"}


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command.doctor)
    return app


def test_command_tells_rows_as_json(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = CliRunner().invoke(app, ["--json", "--run-folder", str(tmp_path)])
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert {"Python", "mpi4py", "mpirun", "one MPI library", "disk"} <= rows.keys()
    assert rows["threads"]["status"] == "ok"
    assert done.exit_code == any(row["status"] == "bad" for row in rows.values())
    assert all(row["mend"] for row in rows.values() if row["status"] != "ok")


def test_command_names_a_foreign_mpirun(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mpi4py")
    foreign = tmp_path / "mpirun"
    foreign.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 1.2.3'\n")
    foreign.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = CliRunner().invoke(app)
    assert done.exit_code == 1
    assert "Open MPI 1.2.3" in done.stdout
    assert "mend: " in done.stdout


def test_command_ends_well_when_nothing_is_bad(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Check("a", Status.OK, "fine"), Check("b", Status.WARN, "so so", "do this")]
    monkeypatch.setattr(doctor, "examine", lambda folder: rows)
    done = CliRunner().invoke(app)
    assert done.exit_code == 0
    assert done.stdout.endswith("1 ok, 1 warn, 0 bad\n")
