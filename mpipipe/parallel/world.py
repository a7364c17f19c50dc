"""The ranks that run together: MPI when a launcher started us, one process otherwise.

The only module that imports mpi4py, and only when it is needed. All waiting here is polite (but
in the rare calls that must block): a blocking MPI call burns a whole core, which the task process
of the rank needs.

Where MPI can survive the loss of a rank (Open MPI 5 under ``mpirun --with-ft ulfm``), every error
that means such a loss becomes a `RankLostError` here, and the communicator is replaced by one of
the survivors (`rebuild`): rank, size and communicator change then, and nobody may keep them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np

from mpipipe.data.errors import MpipipeError
from mpipipe.parallel import injection, leftovers, watch
from mpipipe.parallel.doorbell import Doorbell
from mpipipe.parallel.launcher import Launcher, detect_launcher
from mpipipe.parallel.survival import RankLostError, step
from mpipipe.parallel.watch import Peer
from mpipipe.trace import events, log

T = TypeVar("T")

FINALIZE_TIMEOUT_S = 60.0
"""After this time in MPI_Finalize the process leaves without it."""

START_TIMEOUT_S = 300.0
"""After this time in MPI_Init the process ends: a rank was lost before it could be survived."""

RESUME_ME = 75
"""Exit code of ranks that can not go on, while another start can."""

_MAX_PAUSE_S = 0.001


class World:
    """The ranks of this run, seen from one of them.

    Attributes
    ----------
    rank, size
        This rank, and how many there are; they change when a rank is lost.
    comm
        A communicator of its own (a copy of COMM_WORLD, later of its survivors), or None without
        MPI.
    original_rank
        This rank's number at the start: what its files are named by.
    members
        The original ranks of those that live, ascending.
    host, pid
        Where this rank lives.
    peers
        Where every living rank lives.
    can_survive
        Whether the loss of a rank can be survived.
    generation
        How often the world was rebuilt: the same on all ranks after a step.
    n_lost
        Ranks lost so far.
    in_step
        Whether a `step` is going on.
    id
        Names this start of the ranks, the same on all.
    bell
        Rung by ranks on this host that have sent a message; None before MPI has started.
    silence_s
        How long a rank may be stopped before it is killed.
    left_badly
        Whether MPI_Finalize failed: leave by `os._exit`.
    mpi_error
        What MPI calls raise, for an except clause; `translate` makes the right error of it.
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
        self.original_rank = rank
        self.members: tuple[int, ...] = tuple(range(size))
        self.host = socket.gethostname() if host is None else host
        self.pid = os.getpid() if pid is None else pid
        self.peers: tuple[Peer, ...] = (Peer(self.host, self.pid),)
        self.can_survive = False
        self.generation = 0
        self.n_lost = 0
        self._size_at_start = size
        self.in_step = False
        self.left_badly = False
        self.id = f"{self.host} {self.pid}"
        self.mpi_error: type[BaseException] | tuple[()] = ()
        self._mpi: Any = None
        self.bell: Doorbell | None = None
        self.silence_s = watch.SILENCE_S
        self._watch: watch.Watch | None = None
        self._abandoned: list[Any] = []
        self._must_finalize = False
        self._closed = False

    def seen_by(self, worker: int, n_workers: int) -> World:
        """What one of several workers of this process, which is alone, takes for the world."""
        assert self.size == 1, "other ranks have workers of their own"
        seen = World(worker, n_workers, host=self.host, pid=self.pid)
        seen.peers = self.peers * n_workers
        return seen

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
            # Under ULFM nobody ends the job when a rank dies before this, and the others wait.
            faulthandler.dump_traceback_later(START_TIMEOUT_S, exit=True)
            mpi.Init_thread(mpi.THREAD_FUNNELED)
            faulthandler.cancel_dump_traceback_later()
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
        world = cls(mpi.COMM_WORLD.Get_rank(), size, mpi.COMM_WORLD)
        world._mpi = mpi
        world._must_finalize = must_finalize
        world.mpi_error = mpi.Exception
        world._begin(size > 1 and _has_ulfm(mpi, os.environ if environ is None else environ))
        return world

    def _begin(self, can_survive: bool) -> None:
        """Get a communicator of our own, and get acquainted. Collective."""
        injection.start(self.original_rank)
        if can_survive:
            self.can_survive = True
            self._adopt(self._shrunk())
        else:
            self.comm = self.comm.Dup()
        self.peers = self.step(self._meet)
        self.id = f"{self.peers[0].host} {self.peers[0].pid} {self.peers[0].started}"
        mine = self.peers[self.rank]
        if next(peer for peer in self.peers if peer.is_beside(mine)) is mine:
            leftovers.remove()
        if can_survive:
            self._watch = watch.Watch(self._neighbours, log.get_logger(__name__).warning)

    def _meet(self) -> tuple[Peer, ...]:
        me = watch.introduce(self.host, self.pid)
        if self.bell is None:
            self.bell = Doorbell(me)
        found = self.allgather(f"{me.pid} {me.started} {me.namespace} {me.host}".encode())
        peers = []
        for entry in found:
            pid, started, namespace, host = entry.decode(errors="replace").split(" ", 3)
            peers.append(Peer(host, int(pid), int(started), namespace))
        return tuple(peers)

    def _neighbours(self) -> list[Peer]:
        """The other ranks on this host, from the next one on, round to the first."""
        peers, rank = self.peers, self.rank
        if rank >= len(peers):
            return []
        return [p for p in peers[rank + 1 :] + peers[:rank] if p.is_beside(peers[rank])]

    def limit_silence(self, seconds: float) -> None:
        """Kill a stopped rank on this host after that many seconds."""
        self.silence_s = seconds
        if self._watch is not None:
            self._watch.silence_s = seconds

    @property
    def is_master(self) -> bool:
        """Whether this is rank 0, the lowest of those that live."""
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

    def step(self, function: Callable[[], T], name: str = "agree") -> T:
        """Call `function` on every rank, again when one is lost (`survival.step`). Collective."""
        return step(self, function, name)

    def agree(self, ok: bool) -> bool:
        """Whether all ranks say `ok`. Collective."""
        return bool(ok) if self.comm is None else self.step(lambda: self._agree(ok))

    def broadcast(self, data: bytes | None, root: int = 0) -> bytes:
        """Give every rank the bytes that `root` has (others pass None). Collective.

        If `root` may be lost, call it within a step in which its successor has the bytes, too.
        """
        return data or b"" if self.comm is None else self.step(lambda: self._broadcast(data, root))

    def allgather(self, data: bytes) -> list[bytes]:
        """The bytes of every rank, in the order of ranks, on every rank. Collective."""
        return [data] if self.comm is None else self.step(lambda: self._allgather(data))

    def alltoall(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Give every rank its part (uint8), and get everybody's for this one. Collective.

        Parts must be small enough that what a rank sends or gets stays below 2 GB: `exchange` cuts
        them so.
        """
        return list(parts) if self.comm is None else self.step(lambda: self._alltoall(parts))

    def _agree(self, ok: bool) -> bool:
        mine = np.array([1 if ok else 0], dtype=np.int32)
        everyones = np.empty_like(mine)
        self._wait(self.comm.Iallreduce, mine, everyones, self._mpi.MIN)
        return bool(everyones[0])

    def _broadcast(self, data: bytes | None, root: int) -> bytes:
        length = np.array([len(data or b"")], dtype=np.int64)
        self._wait(self.comm.Ibcast, length, root)
        buffer = np.empty(int(length[0]), dtype=np.uint8)
        if self.rank == root:
            buffer[:] = np.frombuffer(data or b"", dtype=np.uint8)
        self._wait(self.comm.Ibcast, buffer, root)
        return buffer.tobytes()

    def _allgather(self, data: bytes) -> list[bytes]:
        lengths = np.empty(self.size, dtype=np.int64)
        self._wait(self.comm.Iallgather, np.array([len(data)], dtype=np.int64), lengths)
        ends = np.cumsum(lengths)
        buffer = np.empty(int(ends[-1]), dtype=np.uint8)
        mine = np.frombuffer(data, dtype=np.uint8)
        starts = ends - lengths
        parts = [buffer, lengths, starts, self._mpi.BYTE]
        self._wait(self.comm.Iallgatherv, mine, parts)
        return [buffer[a:b].tobytes() for a, b in zip(starts, ends, strict=True)]

    def _alltoall(self, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        lengths = np.array([part.nbytes for part in parts], dtype=np.int64)
        coming = np.empty_like(lengths)
        self._wait(self.comm.Ialltoall, lengths, coming)
        out, back = np.concatenate(parts), np.empty(int(coming.sum()), dtype=np.uint8)
        starts, ends = np.cumsum(lengths) - lengths, np.cumsum(coming)
        sent = [out, lengths, starts, self._mpi.BYTE]
        self._wait(self.comm.Ialltoallv, sent, [back, coming, ends - coming, self._mpi.BYTE])
        return [back[end - length : end] for length, end in zip(coming, ends, strict=True)]

    def _wait(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Start a collective call and wait for it without burning the core."""
        request, begin = None, time.perf_counter()
        try:
            request = call(*arguments)
            pause, last = 0.0, time.perf_counter()
            while not request.Test():
                # Spin for as long as a healthy exchange takes, then get out of the way.
                if time.perf_counter() - last > 0.0001:
                    pause = min(max(pause * 2, 0.00005), _MAX_PAUSE_S)
                    time.sleep(pause)
                    # What waits for a dead rank may never end by itself.
                    if self.can_survive and self._failed():
                        raise RankLostError
            events.record("collective", call.__name__, begin)
        except RankLostError:
            self._abandoned.append((request, arguments))
            raise
        except self.mpi_error as error:
            self._abandoned.append((request, arguments))
            raise self.translate(error) from error

    # -- losses ----------------------------------------------------------------------------------

    def translate(self, error: BaseException) -> BaseException:
        """`RankLostError` if an error of MPI means that a rank is lost, else the error itself."""
        if not self.can_survive:
            return error
        mpi, code = self._mpi, getattr(error, "Get_error_class", int)()
        known = (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED)
        # Some calls give other errors when they meet a dead rank half-way.
        if code in known or self.comm.Is_revoked() or self._failed():
            return RankLostError(f"MPI error {code}")
        return error

    def _failed(self) -> int:
        """How many ranks of the communicator are known to be dead."""
        group = self.comm.Get_failed()
        number: int = group.Get_size()
        group.Free()
        return number

    def acknowledge(self) -> set[int]:
        """All dead ranks of this world; those among them that were unknown are known from now on.

        After that, messages of the others can be taken again.
        """
        group = self.comm.Get_failed()
        own = self.comm.Get_group()
        try:
            self.comm.Ack_failed(group.Get_size())
            places = list(range(group.Get_size()))
            return set(self._mpi.Group.Translate_ranks(group, places, own)) if places else set()
        finally:
            group.Free()
            own.Free()

    def is_revoked(self) -> bool:
        """Whether a rank has given this communicator up."""
        return bool(self.comm.Is_revoked())

    def revoke(self) -> None:
        """Let every call of every rank on this communicator end with an error."""
        with contextlib.suppress(self.mpi_error or OSError):
            self.comm.Revoke()

    def confirm(self, ok: bool, name: str = "agree") -> bool:
        """Whether all ranks say `ok` and none is dead: the same answer on all. Collective."""
        injection.here("agree")
        if name != "agree":
            injection.here(name)
        # This waits politely until all are here; what it says is not the same everywhere.
        if ok:
            try:
                self._agree(True)
            except RankLostError:
                ok = False
                self.revoke()
        try:
            return bool(self.comm.Agree(1 if ok and not self._failed() else 0))
        except self.mpi_error as error:
            if isinstance(self.translate(error), RankLostError):
                return False
            raise

    def rebuild(self) -> None:
        """Go on with the ranks that live. Collective among them."""
        injection.here("shrink")
        # The old communicator is left as it is: requests that never end may hang on it.
        self._abandoned.append(self.comm)
        self._adopt(self._shrunk())
        self.generation += 1

    def _shrunk(self) -> Any:
        """A communicator of those that live, on which all of them agree."""
        comm = self.comm
        for trial in range(100):
            if trial or self.generation or comm is not self._mpi.COMM_WORLD:
                comm.Revoke()
            try:
                new = comm.Shrink()
                new.Set_errhandler(self._mpi.ERRORS_RETURN)
                comm = new
                new.Agree(1)
                return new
            except self.mpi_error as error:
                if not isinstance(self.translate(error), RankLostError):
                    raise
                self._abandoned.append(comm)
        raise RankLostError("the ranks die faster than the survivors can agree")

    def _adopt(self, comm: Any) -> None:
        """Make a communicator of survivors the world."""
        world, group = self._mpi.COMM_WORLD.Get_group(), comm.Get_group()
        size = comm.Get_size()
        members = tuple(self._mpi.Group.Translate_ranks(group, list(range(size)), world))
        peers = dict(zip(self.members, self.peers, strict=False))
        known = len(peers) == len(self.members)
        self.comm, self.rank, self.size, self.members = comm, comm.Get_rank(), size, members
        self.n_lost = self._size_at_start - size
        if known:  # they are acquainted
            self.peers = tuple(peers[member] for member in members)
        world.Free()
        group.Free()

    def kill(self, rank: int) -> bool:
        """SIGKILL a rank on this host that is silent; whether that was possible."""
        peer = self.peers[rank]
        return peer.is_beside(self.peers[self.rank]) and watch.kill(peer)

    def give_up(self, rank: int) -> NoReturn:
        """End the run because of a silent rank that can not be killed. Never returns."""
        peer = self.peers[rank]
        self.abort(
            f"rank {self.members[rank]} (process {peer.pid} on {peer.host}) is silent, and nothing "
            "beside it could end it; what was done is committed: go on with --resume",
            code=RESUME_ME,
        )

    def ranks_beside(self, rank: int) -> list[int]:
        """The other ranks on the host of `rank`, ascending."""
        there = self.peers[rank]
        return [r for r, peer in enumerate(self.peers) if r != rank and peer.is_beside(there)]

    def ring(self, rank: int) -> bool:
        """Wake a rank that has a message; whether that is possible."""
        return self.bell is not None and self.bell.ring(self.peers[rank])

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
        if self.n_lost:
            leftovers.remove_segments_of_lost(self.members)
        injection.here("finalize")
        # A peer that has died in between must not keep us here: this watchdog needs no GIL.
        faulthandler.dump_traceback_later(FINALIZE_TIMEOUT_S, exit=True)
        try:
            if not self.can_survive:  # it would be a collective call more
                self.comm.Free()
            self.comm = None
            if self._must_finalize:
                self._mpi.Finalize()
        except self.mpi_error:
            # A rank that dies in here, or did before, disturbs nothing that counts any more.
            if not self.can_survive:
                raise
            self.left_badly = True
        finally:
            faulthandler.cancel_dump_traceback_later()
            if self._watch is not None:
                self._watch.close()
            if self.bell is not None:
                self.bell.close()

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


def _has_ulfm(mpi: Any, environ: Mapping[str, str]) -> bool:
    """Whether MPI goes on after the loss of a rank, and not only has the functions for it.

    Open MPI 5 has the functions always, but its launcher ends the job unless it was told not to;
    it tells the ranks so by an environment variable.
    """
    if not hasattr(mpi.Comm, "Ack_failed") or not hasattr(mpi, "ERR_REVOKED"):
        return False
    name, version = mpi.get_vendor()
    asked = environ.get("OMPI_MCA_mpi_ft_enable", "").lower() in ("1", "true", "yes")
    return name == "Open MPI" and version >= (5,) and asked


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
