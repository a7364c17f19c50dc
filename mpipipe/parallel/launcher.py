"""Who started this process: read from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """What started this process: its name, and the number of ranks it promised if it said so."""

    name: str
    size: int | None


def detect_launcher(environ: Mapping[str, str]) -> Launcher | None:
    """Find out from the environment whether an MPI launcher started this process.

    Slurm counts only with a step of several tasks (`srun -n 2`): inside `sbatch` or `salloc` a
    plain command is one process although SLURM_NTASKS is set.
    """
    for name, key in (
        ("mpirun (Open MPI)", "OMPI_COMM_WORLD_SIZE"),
        ("mpiexec (PMI)", "PMI_SIZE"),
        ("mpiexec (MVAPICH)", "MV2_COMM_WORLD_SIZE"),
    ):
        if environ.get(key, "").isdecimal():
            return Launcher(name, int(environ[key]))
    n_tasks = environ.get("SLURM_STEP_NUM_TASKS", "")
    if "SLURM_PROCID" in environ and n_tasks.isdecimal() and int(n_tasks) > 1:
        return Launcher("srun", int(n_tasks))
    if "PMIX_RANK" in environ or "PMI_RANK" in environ or "PALS_RANKID" in environ:
        return Launcher("a PMI launcher", None)
    return None


def is_first(environ: Mapping[str, str]) -> bool:
    """Whether this process will be rank 0, as far as the environment tells; before MPI starts."""
    keys = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK", "PALS_RANKID",
            "SLURM_PROCID")  # fmt: skip
    return next((environ[key] for key in keys if key in environ), "0") == "0"
