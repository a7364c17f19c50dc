"""Going on without ranks that have died: a run is a sequence of steps that all survivors agree on.

A step (`step`) is a function that every rank calls: a phase, a broadcast, the publication of the
tables. After it all ranks agree that it went well on all of them; a rank that meets the loss of
another one in the middle revokes the communicator, so that nobody waits for ever, and comes to
that agreement, too. The agreement is uniform (ULFM): either every rank goes on to the next step,
or every rank takes part in shrinking the communicator to the survivors, the lowest of which is
the master from then on, and does the step again. So a step must bear being done again, by other
ranks: what it writes it writes aside and renames.

Within a phase a dead worker needs none of this: the master acknowledges the loss and hands out
its tasks again. Only a dead master, or a loss in a collective call, does.

Tried with 2 to 4 ranks on 2 cores (Open MPI 5.0.11), what does not work: `Ishrink` (its request
ends with an internal error) and `Iagree` (hung in 1 of 10 trials). So both calls block; the
thread of `parallel.watch` ends a rank that is stopped in there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mpipipe.data.errors import MpipipeError
from mpipipe.trace import log

if TYPE_CHECKING:
    from mpipipe.parallel.world import World

T = TypeVar("T")

MOST_IN_VAIN = 5
"""So often in a row a step may fail without the loss of a rank; then it is a defect."""


class RankLostError(Exception):
    """A rank has died, or another one has noticed that: the communicator is of no use any more."""


class AgreedError(Exception):
    """An error that every rank has met at the same place; passes through a step."""

    def __init__(self, cause: MpipipeError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def step(world: World, function: Callable[[], T], name: str = "agree") -> T:
    """Call `function` on every rank until all living ones have gone through it. Collective.

    Parameters
    ----------
    function
        Must look up the world's rank and size when it is called: they change after a loss. Within
        another step it is simply called: the outer one does everything again.
    name
        Of the agreement, for trials of survival.
    """
    if not world.can_survive or world.in_step:
        return function()
    world.in_step = True
    try:
        n_in_vain = 0
        while n_in_vain < MOST_IN_VAIN:
            failure: AgreedError | None = None
            value: T
            ok = True
            try:
                value = function()
            except RankLostError:
                ok = False
                world.revoke()
            except AgreedError as error:
                failure = error
            if world.confirm(ok, name):
                if failure is not None:
                    raise failure
                return value
            before = world.size
            _go_on_without(world)
            n_in_vain = n_in_vain + 1 if world.size == before else 0
    finally:
        world.in_step = False
    world.abort("the ranks come to no agreement, though none is lost any more", code=75)


def _go_on_without(world: World) -> None:
    """Shrink the world to the survivors, and say who is gone."""
    before = dict(zip(world.members, world.peers, strict=False))
    world.rebuild()
    logger = log.get_logger(__name__)
    for rank in sorted(set(before) - set(world.members)):
        peer = before[rank]
        logger.warning("rank %d (%s, process %d) was lost", rank, peer.host, peer.pid)
    master = world.members[0]
    logger.warning("%d ranks go on; rank %d is the master", world.size, master)
