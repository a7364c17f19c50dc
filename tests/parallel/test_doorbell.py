"""The bell: who is rung wakes, and a bell that is not there is no error."""

from __future__ import annotations

import os
import select
import socket
import time
from dataclasses import replace

import pytest

from mpipipe.parallel.doorbell import Doorbell
from mpipipe.parallel.executor import InProcessExecutor, wait_for
from mpipipe.parallel.taskprocess import DONE
from mpipipe.parallel.tasks import TaskReport
from mpipipe.parallel.watch import Peer, introduce


@pytest.fixture
def peers() -> tuple[Peer, Peer]:
    """Two ranks on this host."""
    me = introduce(socket.gethostname(), os.getpid())
    return replace(me, started=me.started + 10_000_001), replace(
        me, started=me.started + 10_000_002
    )


def rung(bell: Doorbell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_a_ring_wakes_the_one_it_is_for(peers: tuple[Peer, Peer]) -> None:
    one, two = (Doorbell(peer) for peer in peers)
    assert one.ring(peers[1])
    assert rung(two)
    assert not rung(one)
    two.clear()
    assert not rung(two)


def test_ringing_without_end_never_waits(peers: tuple[Peer, Peer]) -> None:
    """A rank that is stopped must not hold up the one that sends to it."""
    one, two = (Doorbell(peer) for peer in peers)
    assert all(one.ring(peers[1]) for _ in range(5000))
    two.clear()
    assert not rung(two)


def test_who_is_gone_or_elsewhere_can_not_be_rung(peers: tuple[Peer, Peer]) -> None:
    one, two = (Doorbell(peer) for peer in peers)
    assert not one.ring(replace(peers[1], host="another"))
    two.close()
    assert not one.ring(peers[1])
    assert two.fileno() == -1
    assert not two.ring(peers[0])


def test_a_name_that_is_taken_means_no_bell(peers: tuple[Peer, Peer]) -> None:
    one, again = Doorbell(peers[0]), Doorbell(peers[0])
    assert one.fileno() >= 0
    assert again.fileno() == -1
    again.clear()


def test_an_executor_sleeps_until_the_bell_rings(peers: tuple[Peer, Peer]) -> None:
    one, two = (Doorbell(peer) for peer in peers)
    executor = InProcessExecutor(lambda *_: TaskReport(DONE))
    assert one.ring(peers[1])
    begin = time.monotonic()
    wait_for([executor], 60.0, two)
    assert time.monotonic() - begin < 30
    assert not rung(two), "the ring is forgotten, else the next sleep would end at once"
