"""A simulated phase: laws that must hold whatever is simulated, and answers known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.parallel.simulated_phase import Load, Machine, simulate_phase
from mpipipe.parallel.tasks import NO_AFFINITY, Policy, SpecTable

FREE = Machine(latency_s=0.0, master_s=0.0)


def load_of(seconds: list[float], n_bytes: float = 0.0, n_keys: int = 0) -> Load:
    n = len(seconds)
    keys = np.arange(n) % n_keys if n_keys else np.full(n, NO_AFFINITY)
    specs = SpecTable(np.arange(n), np.array(seconds), keys, 900.0)
    return Load(specs, np.array(seconds), np.full(n, n_bytes))


def test_by_hand() -> None:
    """Longest first: 3 | 2 + 1. A rank that holds two tasks has the last one waiting behind 3."""
    found = simulate_phase(load_of([1.0, 2.0, 3.0]), 2, FREE, Policy(prefetch=1, batch=1))
    assert found.wall_s == pytest.approx(3.0)
    assert found.efficiency == pytest.approx(1.0)
    assert found.n_ended == 3
    assert simulate_phase(load_of([1.0, 2.0, 3.0]), 2, FREE).wall_s == pytest.approx(4.0)


def test_the_master_limits() -> None:
    """A master that needs a millisecond a task hands out a thousand a second, to any number."""
    seconds = [0.01] * 5000
    found = simulate_phase(load_of(seconds), 1000, Machine(latency_s=0.0, master_s=1e-3))
    assert found.wall_s == pytest.approx(5.0, rel=0.05)
    assert found.master_load > 0.95


def test_prefetch_hides_latency() -> None:
    """With one task at a time a rank waits for two messages after each, with two it does not."""
    machine = Machine(latency_s=0.01, master_s=0.0)
    seconds = [0.1] * 100
    one = simulate_phase(load_of(seconds), 1, machine, Policy(prefetch=1, batch=1))
    two = simulate_phase(load_of(seconds), 1, machine, Policy(prefetch=2, batch=1))
    assert one.wall_s == pytest.approx(100 * 0.12, rel=0.02)
    assert two.wall_s == pytest.approx(100 * 0.1, rel=0.02)


def test_a_file_system_that_is_shared() -> None:
    """Ten ranks that read at once share the bandwidth: the wall time is that of all bytes."""
    machine = Machine(latency_s=0.0, master_s=0.0, bandwidth=1e9, rank_bandwidth=1e9)
    found = simulate_phase(load_of([0.0] * 1000, n_bytes=1e7), 10, machine)
    assert found.wall_s == pytest.approx(10.0, rel=0.1)
    assert found.files_s > 50.0


def test_losses_cost_what_was_running() -> None:
    machine = Machine(latency_s=0.0, master_s=0.0, lifetime_s=200.0, recovery_s=1.0)
    found = simulate_phase(load_of([1.0] * 2000), 20, machine, seed=3)
    assert found.n_ended == 2000
    assert found.work_s == pytest.approx(2000.0)
    expected = 20 * found.wall_s / 200.0
    assert found.n_lost == pytest.approx(expected, abs=4 * math.sqrt(expected))
    assert found.lost_s == pytest.approx(0.5 * found.n_lost, rel=0.5)
    assert simulate_phase(load_of([1.0] * 2000), 20, machine, seed=3) == found, "the same again"


@given(
    st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=120),
    st.integers(1, 40),
    st.integers(0, 5),
    st.floats(0.0, 0.01),
    st.floats(0.0, 0.005),
)
def test_bounds(
    seconds: list[float], n_ranks: int, n_keys: int, latency: float, master: float
) -> None:
    """No faster than the work and the longest task allow; no slower than with all in turn."""
    machine = Machine(latency_s=latency, master_s=master)
    found = simulate_phase(load_of(seconds, n_keys=n_keys), n_ranks, machine)
    assert found.n_ended == len(seconds)
    assert found.work_s == pytest.approx(sum(seconds))
    assert found.wall_s >= max(sum(seconds) / n_ranks, max(seconds)) - 1e-9
    overhead = len(seconds) * (2 * latency + master + 1e-9)
    assert found.wall_s <= sum(seconds) + overhead + 2 * latency + 1e-9
    assert found.idle_s >= 0.0


@given(
    st.lists(st.floats(0.01, 5.0), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 9)
)
def test_losses_leave_nothing_undone(seconds: list[float], n_ranks: int, seed: int) -> None:
    """As long as attempts at a task do not run out, every task ends."""
    machine = Machine(lifetime_s=50.0, recovery_s=0.1)
    policy = Policy(attempts=dict.fromkeys(Policy().attempts, 1000))
    found = simulate_phase(load_of(seconds), n_ranks, machine, policy, seed)
    assert found.n_ended == len(seconds)
    assert found.work_s == pytest.approx(sum(seconds))
