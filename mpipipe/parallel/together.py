"""Errors before and between phases, where all ranks must hear of them to leave together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from mpipipe.data.errors import MpipipeError
from mpipipe.parallel.launch import Ranks, launch
from mpipipe.parallel.survival import AgreedError
from mpipipe.parallel.tasks import Execute, Prepare
from mpipipe.parallel.world import World
from mpipipe.trace import events


class FailedOnMasterError(MpipipeError):
    """Rank 0 has failed and says why; the other ranks end with it, silently."""


def on_master(world: World, function: Callable[[], int], name: str = "agree") -> int:
    """Call `function` on rank 0 and give its number to all. Collective, inside `together`.

    An `MpipipeError` that it raises ends `together` on every rank. If rank 0 is lost meanwhile its
    successor calls the function again.
    """
    return world.step(lambda: _on_master(world, function), name)


def _on_master(world: World, function: Callable[[], int]) -> int:
    failure: MpipipeError | None = None
    answer: bytes | None = None
    if world.is_master:
        try:
            with events.span("serial", "rank 0"):
                answer = str(function()).encode()
        except MpipipeError as error:
            failure, answer = error, b""
    answer = world.broadcast(answer)
    if not answer:
        raise AgreedError(failure or FailedOnMasterError("rank 0 has ended the run"))
    return int(answer)


def fail_together(error: MpipipeError) -> NoReturn:
    """End `together` with an error that every rank has met at the same place."""
    raise AgreedError(error) from error


@contextmanager
def all_or_none(world: World) -> Iterator[None]:
    """Let every rank know whether the block, which has no collective call, went well on all.

    Collective.

    Raises
    ------
    MpipipeError
        On every rank, if one was raised on any: its own, or that another one has failed.
    """
    failure: MpipipeError | None = None
    try:
        yield
    except MpipipeError as error:
        failure = error
    if not world.agree(failure is None):
        raise failure or MpipipeError("another rank could not do its part, and says why")


@contextmanager
def together(
    execute: Execute, prepare: Prepare | None = None, n_workers: int = 1
) -> Iterator[Ranks]:
    """`launch`, left in order by all ranks when `on_master` has failed. Collective.

    Raises
    ------
    MpipipeError
        On rank 0 with the reason, on the others as `FailedOnMasterError`, after MPI has ended:
        nothing hangs, and no rank is aborted.
    """
    failure: MpipipeError | None = None
    with launch(execute, prepare, n_workers=n_workers) as ranks:
        try:
            yield ranks
        except AgreedError as error:
            failure = error.cause
    if failure is not None:
        raise failure
