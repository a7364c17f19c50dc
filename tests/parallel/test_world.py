"""Starting with and without a launcher, and the collective calls."""

import os
import sys

import pytest

from mpipipe.data.errors import MpipipeError
from mpipipe.parallel.launcher import detect_launcher
from mpipipe.parallel.world import World


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, 4),
        ({"PMI_SIZE": "3", "PMI_RANK": "0"}, 3),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, 8),
        # mpirun inside an allocation: mpirun counts
        ({"OMPI_COMM_WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "9", "SLURM_PROCID": "0"}, 2),
        ({"PMIX_RANK": "0"}, None),
    ],
)
def test_launcher_is_seen(environ, size):
    launcher = detect_launcher(environ)
    assert launcher is not None
    assert launcher.size == size


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HOME": "/root"},
        {"SLURM_NTASKS": "64", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},  # inside a batch script
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun of one task
        {"OMPI_COMM_WORLD_SIZE": "many"},
    ],
)
def test_no_launcher(environ):
    assert detect_launcher(environ) is None


def test_alone_imports_no_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with World.start({}) as world:
        assert (world.rank, world.size, world.comm, world.self_comm) == (0, 1, None, None)
        assert world.pid == os.getpid()
        assert world.agree(True) and not world.agree(False)
        assert world.broadcast(b"abc") == b"abc"
        assert world.allgather(b"abc") == [b"abc"]


def test_missing_mpi4py_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(MpipipeError, match="mpi4py is not there .*doctor"):
        World.start({"OMPI_COMM_WORLD_SIZE": "2"})


def test_an_exception_passes_when_alone():
    with pytest.raises(KeyError), World.start({}):
        raise KeyError("x")


@pytest.mark.mpi
def test_world_is_what_mpi_says(comm):
    with World.start() as world:
        assert (world.rank, world.size) == (comm.rank, comm.size)
        assert len(world.peers) == world.size
        assert world.peers[world.rank].pid == os.getpid()
        assert world.ranks_on_host == world.size
        assert world.self_comm.size == 1


@pytest.mark.mpi
def test_agreement_needs_everyone(comm):
    with World.start() as world:
        assert world.agree(True)
        assert not world.agree(False)
        for dissenter in range(world.size):
            assert not world.agree(world.rank != dissenter)


@pytest.mark.mpi
def test_broadcast_and_allgather(comm):
    with World.start() as world:
        for root in range(world.size):
            for data in (b"", b"x", bytes(range(256)) * 5000):
                given = data if world.rank == root else None
                assert world.broadcast(given, root) == data
        mine = b"r" * (world.rank * 3)
        assert world.allgather(mine) == [b"r" * (rank * 3) for rank in range(world.size)]
        assert world.allgather(b"") == [b""] * world.size


@pytest.mark.mpi
def test_worlds_follow_each_other(comm):
    """MPI that somebody else has started is left running."""
    for _ in range(3):
        with World.start() as world:
            assert world.agree(True)
    comm.Barrier()
