"""The ranks that run together: MPI when a launcher started us, one process otherwise.

The only module that imports mpi4py, and only when it is needed. All waiting here is polite: a
blocking MPI call burns a whole core, which the task process of the rank needs.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from mpipipe.data.errors import MpipipeError

FINALIZE_TIMEOUT_S = 60.0
"""After this time in MPI_Finalize the process leaves without it."""

_MAX_PAUSE_S = 0.001


@dataclass(frozen=True)
class Launcher:
    """What started this process: its name, and the number of ranks it promised if it said so."""

    name: str
    size: int | None


@dataclass(frozen=True)
class Peer:
    """Where a rank's MPI process lives."""

    host: str
    pid: int


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


class World:
    """The ranks of this run, seen from one of them.

    Attributes
    ----------
    rank, size
        This rank, and how many there are.
    comm
        A communicator of its own (a copy of COMM_WORLD), or None without MPI.
    host, pid
        Where this rank lives.
    peers
        Host and pid of every rank.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        comm: Any = None,
        host: str | None = None,
        pid: int | None = None,
    ) -> None:
        self.rank = rank
        self.size = size
        self.comm = comm
        self.host = socket.gethostname() if host is None else host
        self.pid = os.getpid() if pid is None else pid
        self.peers: tuple[Peer, ...] = (Peer(self.host, self.pid),)
        self._mpi: Any = None
        self._must_finalize = False
        self._closed = False

    @classmethod
    def start(cls, environ: Mapping[str, str] | None = None) -> World:
        """Start MPI if a launcher started this process. Collective.

        Raises
        ------
        MpipipeError
            If mpi4py is missing or belongs to another MPI than the launcher.
        """
        launcher = detect_launcher(os.environ if environ is None else environ)
        if launcher is None:
            return cls()
        mpi = _import_mpi(launcher)
        must_finalize = not mpi.Is_initialized()
        if must_finalize:
            mpi.Init_thread(mpi.THREAD_FUNNELED)
        size = mpi.COMM_WORLD.Get_size()
        if launcher.size is not None and launcher.size != size:
            reason = f"{launcher.name} promised {launcher.size} ranks, but MPI has made {size}"
            way_out = "the launcher and mpi4py belong to different MPI libraries: mpipipe doctor"
            error = MpipipeError(reason, way_out=way_out)
            if size == 1:  # every process is a world of its own: leave it and say so
                if must_finalize:
                    mpi.Finalize()
                raise error
            cls(mpi.COMM_WORLD.Get_rank(), size, mpi.COMM_WORLD).abort(error)
        world = cls(mpi.COMM_WORLD.Get_rank(), size, mpi.COMM_WORLD.Dup())
        world._mpi = mpi
        world._must_finalize = must_finalize
        found = world.allgather(f"{world.pid} {world.host}".encode())
        peers = (entry.decode(errors="replace").split(" ", 1) for entry in found)
        world.peers = tuple(Peer(host, int(pid)) for pid, host in peers)
        return world

    @property
    def is_master(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def self_comm(self) -> Any:
        """COMM_SELF, for files that only this rank has open; None without MPI."""
        return None if self._mpi is None else self._mpi.COMM_SELF

    @property
    def ranks_on_host(self) -> int:
        """Number of ranks that share this host."""
        return sum(peer.host == self.host for peer in self.peers)

    def new_status(self) -> Any:
        """A status object for probing."""
        return self._mpi.Status()

    # -- collective calls: every rank, same order ------------------------------------------------

    def agree(self, ok: bool) -> bool:
        """Whether all ranks say `ok`. Collective."""
        if self.comm is None:
            return bool(ok)
        mine = np.array([1 if ok else 0], dtype=np.int32)
        everyones = np.empty_like(mine)
        self._wait(self.comm.Iallreduce(mine, everyones, op=self._mpi.MIN))
        return bool(everyones[0])

    def broadcast(self, data: bytes | None, root: int = 0) -> bytes:
        """Give every rank the bytes that `root` has (others pass None). Collective."""
        if self.comm is None:
            return data or b""
        length = np.array([len(data or b"")], dtype=np.int64)
        self._wait(self.comm.Ibcast(length, root=root))
        buffer = np.empty(int(length[0]), dtype=np.uint8)
        if self.rank == root:
            buffer[:] = np.frombuffer(data or b"", dtype=np.uint8)
        self._wait(self.comm.Ibcast(buffer, root=root))
        return buffer.tobytes()

    def allgather(self, data: bytes) -> list[bytes]:
        """The bytes of every rank, in the order of ranks, on every rank. Collective."""
        if self.comm is None:
            return [data]
        lengths = np.empty(self.size, dtype=np.int64)
        self._wait(self.comm.Iallgather(np.array([len(data)], dtype=np.int64), lengths))
        ends = np.cumsum(lengths)
        buffer = np.empty(int(ends[-1]), dtype=np.uint8)
        mine = np.frombuffer(data, dtype=np.uint8)
        starts = ends - lengths
        self._wait(self.comm.Iallgatherv(mine, [buffer, lengths, starts, self._mpi.BYTE]))
        return [buffer[a:b].tobytes() for a, b in zip(starts, ends, strict=True)]

    def _wait(self, request: Any) -> None:
        """Wait for a collective call without burning the core."""
        pause, last = 0.0, time.perf_counter()
        while not request.Test():
            # Spin for as long as a healthy exchange takes, then get out of the way.
            if time.perf_counter() - last > 0.0001:
                pause = min(max(pause * 2, 0.00005), _MAX_PAUSE_S)
                time.sleep(pause)

    # -- leaving ---------------------------------------------------------------------------------

    def abort(self, error: BaseException | str, code: int = 1) -> NoReturn:
        """End all ranks at once, naming this one and what happened. Never returns.

        Leaving by an exception or `sys.exit` instead would let the other ranks wait for ever.
        """
        if isinstance(error, (MpipipeError, str)):
            text = str(error)
        else:
            text = "".join(traceback.format_exception(error)).rstrip()
        where = f"rank {self.rank} on {self.host}:{self.pid}"
        os.write(2, f"mpipipe: {where} ended the run:\n{text}\n".encode(errors="replace"))
        if self.comm is not None:
            self.comm.Abort(code)
        os._exit(code)

    def close(self) -> None:
        """Leave MPI. Collective; call it only when this rank is well."""
        if self._closed:
            return
        self._closed = True
        if self.comm is None:
            return
        # A peer that has died in between must not keep us here: this watchdog needs no GIL.
        faulthandler.dump_traceback_later(FINALIZE_TIMEOUT_S, exit=True)
        try:
            self.comm.Free()
            self.comm = None
            if self._must_finalize:
                self._mpi.Finalize()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.size > 1:
            self.abort(error)
        self.close()


def _import_mpi(launcher: Launcher) -> Any:
    """Import mpi4py without letting it start or end MPI by itself."""
    try:
        import mpi4py
    except ImportError as error:
        raise MpipipeError(
            f"{launcher.name} started this process, but mpi4py is not there",
            way_out="mpipipe doctor names what to install; without mpirun it runs as one process",
        ) from error
    if "mpi4py.MPI" not in sys.modules:
        mpi4py.rc.initialize = False
        # Its exit handler would wait in MPI_Finalize for ranks that are still at work.
        mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MpipipeError(
            f"mpi4py can not load its MPI library: {error}", way_out="mpipipe doctor"
        ) from error
    return MPI
