"""Silent ranks, and what dead ones leave behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mpipipe.parallel import leftovers, watch
from mpipipe.parallel.watch import Peer, Pulse, Watch

HOST = "here"


@pytest.fixture
def sleeper():
    """A process that sleeps."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def peer_of(process):
    _, started = watch._look(process.pid)
    return Peer(HOST, process.pid, started)


def test_a_stopped_neighbour_is_killed(sleeper):
    said = []
    peer = peer_of(sleeper)
    guard = Watch(lambda: [peer], said.append, silence_s=0.4)
    try:
        time.sleep(0.8)
        assert sleeper.poll() is None, "one that runs is left alone"
        os.kill(sleeper.pid, signal.SIGSTOP)
        assert sleeper.wait(10) == -signal.SIGKILL
        time.sleep(0.2)
        assert f"process {sleeper.pid} was stopped" in said[0]
    finally:
        guard.close()


def test_one_that_goes_on_in_time_lives(sleeper):
    peer = peer_of(sleeper)
    guard = Watch(lambda: [peer], print, silence_s=2.0)
    try:
        for _ in range(3):
            os.kill(sleeper.pid, signal.SIGSTOP)
            time.sleep(0.8)
            os.kill(sleeper.pid, signal.SIGCONT)
            time.sleep(0.8)
        assert sleeper.poll() is None
    finally:
        guard.close()


def test_another_process_of_that_number_is_spared(sleeper):
    _, started = watch._look(sleeper.pid)
    for wrong in (started + 1, -1):
        assert not watch.kill(Peer(HOST, sleeper.pid, wrong))
    assert sleeper.poll() is None
    assert watch.state_of(Peer(HOST, sleeper.pid, started)) != ""
    assert watch.kill(peer_of(sleeper))
    sleeper.wait(5)


def test_introduction():
    me = watch.introduce(HOST, os.getpid())
    assert me.started > 0
    assert me.is_beside(watch.introduce(HOST, os.getppid()))
    assert not me.is_beside(Peer("there", 1, 1, me.namespace))
    assert not me.is_beside(Peer(HOST, 1, 1, "pid:[another]"))


# -- signs of life ---------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    return clock


def pass_time(clock, pulse, seconds, speaking=()):
    beats = 0
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        beats += pulse.must_beat()
        for rank in speaking:
            pulse.heard(rank)
    return beats


def test_the_silent_are_named_once(clock):
    pulse = Pulse([1, 2, 3], 6.0)
    assert pass_time(clock, pulse, 5, speaking=[2]) in (4, 5)
    assert pulse.silent() == []
    pulse.forget(3)
    pass_time(clock, pulse, 2, speaking=[2])
    assert pulse.silent() == [1]
    assert pulse.silent() == []
    assert pulse.hopeless() is None
    pass_time(clock, pulse, 9, speaking=[2])
    assert pulse.hopeless() == 1


def test_who_slept_accuses_nobody(clock):
    """A whole job that was stopped (Ctrl-Z) goes on as if nothing had been."""
    pulse = Pulse([1], 6.0)
    clock.now += 1000
    pulse.must_beat()
    assert pulse.silent() == []


def test_no_bound(clock):
    pulse = Pulse([1], float("inf"))
    assert pass_time(clock, pulse, 100) == 0
    assert pulse.silent() == [] and pulse.hopeless() is None


# -- leftovers -------------------------------------------------------------------------------------


def test_only_dead_and_own_leftovers_go(tmp_path, sleeper):
    shared, temporary = tmp_path / "shm", tmp_path / "tmp"
    shared.mkdir()
    temporary.mkdir()
    uid = os.geteuid()
    old = shared / f"sm_segment.host.{uid}.28ef0000.0"
    young = shared / f"sm_segment.host.{uid}.28ef0000.1"
    foreign = shared / f"sm_segment.host.{uid + 1}.28ef0000.1"
    other = shared / "important"
    for path in (old, young, foreign, other):
        path.write_bytes(b"x")
    for path in (old, foreign, other):
        os.utime(path, (1, 1))
    with subprocess.Popen(["true"]) as dead:
        pass
    for name in (f"ompi.{dead.pid}", f"ompi.{sleeper.pid}", f"ompi.host.{uid}", f"x.{dead.pid}"):
        (temporary / name / "inner").mkdir(parents=True)
    removed = leftovers.remove(shared, temporary)
    assert removed == [old, temporary / f"ompi.{dead.pid}"]
    assert {p.name for p in shared.iterdir()} == {young.name, foreign.name, other.name}
    assert len(list(temporary.iterdir())) == 3
