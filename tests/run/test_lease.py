"""Nobody starts a run that goes on; one that died is taken over, as soon as that is safe."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from mpipipe.data.errors import ConfigError
from mpipipe.parallel.watch import Peer, introduce
from mpipipe.run import lease
from mpipipe.run.halt import beat
from mpipipe.store.layout import RunLayout


@pytest.fixture
def layout(tmp_path):
    return RunLayout.at(tmp_path)


@pytest.fixture
def other():
    """A living process that is not this one."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def peer_of(process):
    return introduce(lease.myself().host, process.pid)


def test_taken_and_given_back(layout):
    lease.take(layout, "a", [lease.myself()])
    lease.take(layout, "a", [lease.myself()])
    assert lease.is_held_by(layout, "a")
    lease.release(layout, "b")
    assert lease.is_held_by(layout, "a")
    lease.release(layout, "a")
    assert not layout.lease.exists()
    assert os.listdir(layout.root) == []


def test_refused_while_the_holder_lives(layout, other):
    lease.take(layout, "a", [Peer("h", 1, 5), peer_of(other)])
    with pytest.raises(ConfigError, match=f"process {other.pid} .*works on it"):
        lease.take(layout, "b", [lease.myself()])


def test_taken_over_from_the_dead_of_this_host(layout, other):
    lease.take(layout, "a", [peer_of(other)])
    other.kill()
    other.wait()
    lease.take(layout, "b", [lease.myself()])
    assert lease.is_held_by(layout, "b")


def test_another_process_with_the_number_is_not_the_holder(layout, other):
    peer = peer_of(other)
    lease.take(layout, "a", [Peer(peer.host, peer.pid, peer.started - 7, peer.namespace)])
    lease.take(layout, "b", [lease.myself()])


def test_who_lived_before_the_host_was_started_again_is_dead(layout, other, monkeypatch):
    monkeypatch.setattr(lease, "boot_id", lambda: "before")
    lease.take(layout, "a", [peer_of(other)])
    monkeypatch.setattr(lease, "boot_id", lambda: "after")
    lease.take(layout, "b", [lease.myself()])


def test_other_hosts_are_known_by_their_heartbeat(layout, monkeypatch):
    monkeypatch.setattr(lease, "SILENT_S", 1.0)
    monkeypatch.setattr(lease, "_LOOK_EVERY_S", 0.05)
    elsewhere = [Peer("host-of-rank-0", 1, 5), Peer("another", 1, 5)]
    lease.take(layout, "a", elsewhere)
    # No sign of life was ever given: it died before the first.
    lease.take(layout, "b", elsewhere)
    beat(layout)
    said = []
    begun = time.monotonic()
    lease.take(layout, "c", elsewhere, said.append)
    assert 0.5 < time.monotonic() - begun < 10
    assert "waiting" in said[0] and len(said) == 1
    beat(layout)
    end = threading.Event()

    def live():
        while not end.wait(0.1):
            beat(layout)

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(ConfigError, match="signs of life come from host-of-rank-0 or another"):
        lease.take(layout, "d", elsewhere)
    end.set()
    thread.join()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"id": 3, "peers": 5}', "\0"])
def test_a_damaged_lease_is_nobodys(layout, content):
    layout.lease.write_text(content)
    lease.take(layout, "a", [lease.myself()])
    assert lease.is_held_by(layout, "a")


def test_of_many_at_once_one_wins(layout, other):
    """Also when all of them find a lease of the dead."""
    layout.lease.write_text(json.dumps({"id": "dead", "user": "", "boot": "", "peers": []}))
    program = (
        "import sys; from mpipipe.run import lease; from mpipipe.store.layout import RunLayout\n"
        "from mpipipe.data.errors import ConfigError\n"
        "sys.stdin.readline()\n"
        "try:\n    lease.take(RunLayout.at(sys.argv[1]), sys.argv[2], [lease.myself()])\n"
        "    print('won', flush=True)\n"
        "except ConfigError:\n    print('lost', flush=True)\n"
        "sys.stdin.readline()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(layout.root), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("\n", timeout=20)
    assert sorted(found) == ["lost", "lost", "lost", "won"]
