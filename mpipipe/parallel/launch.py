"""Starting and leaving in the right order: threads, zygote, MPI; and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mpipipe.parallel import phase as phases
from mpipipe.parallel.executor import Executor, InProcessExecutor, ProcessExecutor
from mpipipe.parallel.progress import Progress
from mpipipe.parallel.signals import StopRequest, listen_for_stop
from mpipipe.parallel.tasks import (
    Commit,
    Committed,
    Execute,
    PhaseReport,
    Policy,
    Prepare,
    TaskSpec,
)
from mpipipe.parallel.threads import count_threads
from mpipipe.parallel.world import World
from mpipipe.trace import events, log


@dataclass(frozen=True)
class Ranks:
    """The world, this rank's executors, and whether somebody asked to stop."""

    world: World
    executors: Sequence[Executor]
    stop: StopRequest

    def run_phase(
        self,
        phase: str,
        tasks: Sequence[TaskSpec],
        commit: Commit,
        progress: Progress | None = None,
        *,
        context: bytes = b"",
        policy: Policy | None = None,
        committed: Committed | None = None,
    ) -> PhaseReport:
        """`run_phase` with this world and executors. Collective."""
        return phases.run_phase(
            self.world,
            self.executors,
            phase,
            tasks,
            commit,
            progress,
            context=context,
            policy=policy,
            committed=committed,
        )


@contextmanager
def launch(
    execute: Execute,
    prepare: Prepare | None = None,
    *,
    in_process: bool = False,
    n_workers: int = 1,
    memory_limit: int | None = None,
    on_error: Callable[[BaseException], object] | None = None,
) -> Iterator[Ranks]:
    """Start the task process, then MPI; leave them in order. Collective.

    Parameters
    ----------
    execute, prepare
        What runs in the task process. Import what they need before: every replacement of the task
        process is a copy of this one as it is now.
    in_process
        Run tasks in this process instead, without deadlines and protection: for a debugger.
    n_workers
        Task processes; more than one only where this process is alone.
    memory_limit
        Bytes of address space of a task process.
    on_error
        With `in_process`: called with every exception that a task lets out.

    Notes
    -----
    Stop signals are caught from here on. An exception that leaves the block ends all ranks at
    once, naming the first that failed; alone, it is simply passed on.
    """
    with listen_for_stop() as stop:
        executors: list[Executor] = []
        n_threads = count_threads()
        try:
            for _ in range(n_workers):
                executors.append(
                    InProcessExecutor(execute, prepare, on_error)
                    if in_process
                    else ProcessExecutor(execute, prepare, memory_limit)
                )
            with World.start() as world:
                if not in_process and n_threads > 1:
                    log.get_logger(__name__).warning(
                        "%d threads ran before the task process was forked; a fork copies only "
                        "one of them, and locks that others held stay shut",
                        n_threads,
                    )
                yield Ranks(world, executors, stop)
                if world.can_survive:
                    for executor in executors:
                        executor.guard(world.silence_s)
        finally:
            # A later zygote holds the sockets that lead to the earlier ones.
            for executor in reversed(executors):
                executor.close()
            events.stop()
