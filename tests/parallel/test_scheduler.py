"""Every task ends in exactly one outcome, whatever happens and in whatever order."""

import math
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from mpipipe.data.outcome import RETRYABLE, OutcomeKind
from mpipipe.parallel.scheduler import Assign, Ended, Scheduler
from mpipipe.parallel.tasks import Policy, TaskSpec

KINDS = [kind for kind in OutcomeKind if kind is not OutcomeKind.LOST]

task_lists = st.lists(
    st.tuples(
        st.floats(0, 100, allow_nan=False) | st.sampled_from([0.0, 0.001, 1.0]),
        st.integers(-1, 4),
        st.integers(0, 9),
        st.integers(0, 2),
    ),
    max_size=40,
).map(
    lambda rows: [
        TaskSpec(3 * i, cost, key, memory=memory, priority=priority)
        for i, (cost, key, memory, priority) in enumerate(rows)
    ]
)

policies = st.builds(
    Policy,
    prefetch=st.integers(1, 3),
    batch=st.integers(1, 8),
    prefetch_s=st.sampled_from([0.0, 0.02, 5.0]),
    attempts=st.dictionaries(st.sampled_from(sorted(RETRYABLE)), st.integers(1, 4)),
    node_memory=st.sampled_from([math.inf, 5.0, 12.0, 30.0]),
)


def assigned(actions):
    return [(a.worker, *pair) for a in actions if isinstance(a, Assign) for pair in a.tasks]


def ended(actions):
    return [a for a in actions if isinstance(a, Ended)]


class Ranks(RuleBasedStateMachine):
    """Workers that die, come back, repeat themselves, answer late, and run out of memory."""

    late = Bundle("late")

    @initialize(tasks=task_lists, policy=policies, n_workers=st.integers(1, 5))
    def begin(self, tasks, policy, n_workers):
        self.policy = policy
        self.ids = {task.id for task in tasks}
        self.memory = {task.id: task.memory for task in tasks}
        self.starved = set()  # tasks whose next attempt has to be alone
        self.scheduler = Scheduler(tasks, policy)
        self.holding = {}  # (worker, task, attempt) the worker believes it has
        self.outcomes = {}
        self.drained = False
        self.alive = set(range(n_workers))
        self.take(self.scheduler.on_join(range(n_workers), None, self.nodes))

    nodes = {worker: worker // 3 for worker in range(10)}

    def take(self, actions):
        for worker, task, attempt in assigned(actions):
            assert worker in self.alive
            assert not self.drained
            held_by = [w for (w, t, _) in self.holding if t == task]
            assert not held_by, f"task {task} is with two workers"
            assert task not in self.outcomes
            self.holding[worker, task, attempt] = True
            if task in self.starved:
                self.starved.remove(task)
                node = self.nodes[worker]
                beside = [t for w, t, _ in self.holding if self.nodes[w] == node]
                assert beside == [task], "it died of memory, and is not alone"
        for action in ended(actions):
            assert action.task_id in self.ids
            assert action.task_id not in self.outcomes, "a task ended twice"
            self.outcomes[action.task_id] = action.kind

    @precondition(lambda self: self.holding)
    @rule(target=late, data=st.data(), kind=st.sampled_from(KINDS))
    def outcome(self, data, kind):
        worker, task, attempt = data.draw(st.sampled_from(sorted(self.holding)))
        del self.holding[worker, task, attempt]
        self.take(self.scheduler.on_outcome(worker, task, attempt, kind))
        return worker, task, attempt, kind

    @precondition(lambda self: self.holding)
    @rule(data=st.data())
    def starve(self, data):
        worker, task, attempt = data.draw(st.sampled_from(sorted(self.holding)))
        del self.holding[worker, task, attempt]
        self.starved.add(task)
        kind = OutcomeKind.FAILED
        self.take(self.scheduler.on_outcome(worker, task, attempt, kind, starved=True))
        if task in self.outcomes:
            self.starved.remove(task)

    @rule(message=consumes(late))
    def repeated(self, message):
        before = self.scheduler.n_ignored
        assert self.scheduler.on_outcome(*message) == []
        assert self.scheduler.n_ignored == before + 1

    @rule(task=st.integers(-5, 200), worker=st.integers(0, 9), attempt=st.integers(0, 3))
    def invented(self, task, worker, attempt):
        if (worker, task, attempt) not in self.holding:
            assert self.scheduler.on_outcome(worker, task, attempt, OutcomeKind.DONE) == []

    @precondition(lambda self: len(self.alive) > 1)
    @rule(target=late, data=st.data())
    def lost(self, data):
        worker = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.remove(worker)
        gone = [held for held in self.holding if held[0] == worker]
        for held in gone:
            del self.holding[held]
        if gone:
            self.starved -= {task for _, task, _ in gone}
        self.take(self.scheduler.on_lost(worker))
        assert self.scheduler.on_lost(worker) == []
        return multiple(*((*held, OutcomeKind.DONE) for held in gone))

    @rule(worker=st.integers(0, 9))
    def joined(self, worker):
        if worker not in self.alive:
            self.alive.add(worker)
            self.take(self.scheduler.on_join([worker], None, self.nodes))

    @rule()
    def drain(self):
        if len(self.outcomes) > len(self.ids) // 2:
            self.drained = True
            self.take(self.scheduler.on_drain())

    @precondition(lambda self: self.drained)
    @rule(target=late, data=st.data())
    def given_back(self, data):
        worker = data.draw(st.sampled_from(sorted(self.alive)))
        gone = [held for held in self.holding if held[0] == worker]
        for held in gone:
            del self.holding[held]
        self.take(self.scheduler.on_given_back(worker))
        return multiple(*((*held, OutcomeKind.DONE) for held in gone))

    @invariant()
    def books_balance(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        assert scheduler.n_ended == len(self.outcomes)
        assert scheduler.n_held == len(self.holding)
        n_waiting = scheduler.n_waiting + scheduler.n_waiting_alone
        assert scheduler.n_ended + scheduler.n_held + n_waiting == len(self.ids)
        busy = {worker for worker, _, _ in self.holding}
        if n_waiting and not self.drained:
            assert busy, "tasks wait, and nobody does anything"
        if n_waiting and not self.drained and not self.memory_is_short():
            assert busy == self.alive, "a task waits although a worker has nothing to do"
        for worker in self.alive:
            n_held = len(scheduler.held_by(worker))
            assert n_held <= max(self.policy.prefetch, 2 * self.policy.batch)

    def memory_is_short(self):
        """Whether a worker may have to wait for memory; checks that nobody has too much."""
        limit = self.policy.node_memory
        for node in set(self.nodes.values()):
            needs = {}
            for worker, task, _ in self.holding:
                if self.nodes[worker] == node:
                    needs[worker] = max(needs.get(worker, 0), self.memory[task])
            assert len(needs) <= 1 or sum(needs.values()) <= limit, "more than the node has"
        return limit < math.inf or self.scheduler.is_tight

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10 * len(self.ids) + 10):
            if not self.holding:
                break
            worker, task, attempt = min(self.holding)
            del self.holding[worker, task, attempt]
            self.take(self.scheduler.on_outcome(worker, task, attempt, OutcomeKind.FAILED))
        assert self.scheduler.finished, "something waits for ever"
        if not self.drained:
            assert set(self.outcomes) == self.ids


TestRanks = Ranks.TestCase
TestRanks.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def run_all(tasks, n_workers, policy=None, seed=0, kind=OutcomeKind.DONE):
    """Run to the end in random order; who ran what, in order."""
    scheduler = Scheduler(tasks, policy)
    order = random.Random(seed)
    held = assigned(scheduler.on_join(range(n_workers)))
    ran = []
    while held:
        # A worker works in the order it was given tasks.
        worker = order.choice(sorted({entry[0] for entry in held}))
        entry = next(entry for entry in held if entry[0] == worker)
        held.remove(entry)
        ran.append(entry)
        held += assigned(scheduler.on_outcome(*entry, kind))
    assert scheduler.finished
    return scheduler, ran


def test_longest_first():
    tasks = [TaskSpec(i, cost) for i, cost in enumerate([3.0, 9.0, 1.0, 5.0])]
    _, ran = run_all(tasks, 1)
    assert [task for _, task, _ in ran] == [1, 3, 0, 2]


@given(st.integers(1, 4), st.integers(0, 99))
def test_a_key_stays_with_its_worker(n_workers, seed):
    """Only in the tail may a worker take a task of a key that another one owns."""
    tasks = [TaskSpec(i, 1.0, i % 8) for i in range(160)]
    _, ran = run_all(tasks, n_workers, seed=seed)
    users = {}
    for worker, task, _ in ran:
        users.setdefault(task % 8, set()).add(worker)
    loads = sum(len(workers) for workers in users.values())
    # Each worker may once take over in the tail from each of the others.
    assert loads <= 8 + n_workers * (n_workers - 1)


def test_long_task_is_not_left_for_the_end_by_affinity():
    tasks = [TaskSpec(i, 1.0, 0) for i in range(10)] + [TaskSpec(99, 30.0, 1)]
    _, ran = run_all(tasks, 1)
    assert ran[0][1] == 99


@pytest.mark.parametrize("kind", list(OutcomeKind))
def test_limits_of_attempts(kind):
    """Bad data is never tried again; failures are, up to the limit of their kind."""
    policy = Policy(attempts={OutcomeKind.FAILED: 3, OutcomeKind.TIMED_OUT: 2})
    expected = {OutcomeKind.FAILED: 3, OutcomeKind.TIMED_OUT: 2}.get(kind, 1)
    _, ran = run_all([TaskSpec(7)], 2, policy, kind=kind)
    assert [attempt for _, _, attempt in ran] == list(range(1, expected + 1))


def test_small_tasks_go_in_batches():
    tasks = [TaskSpec(i, 0.0001) for i in range(1000)]
    actions = Scheduler(tasks, Policy(batch=64)).on_join(range(2))
    assert [len(action.tasks) for action in actions] == [128, 128]
    actions = Scheduler([TaskSpec(i, 1.0) for i in range(1000)]).on_join(range(2))
    assert [len(action.tasks) for action in actions] == [2, 2]


def test_first_tasks_are_spread():
    """With as many tasks as workers nobody gets two."""
    actions = Scheduler([TaskSpec(i, 5.0) for i in range(4)]).on_join(range(4))
    assert sorted(worker for worker, _, _ in assigned(actions)) == [0, 1, 2, 3]


def test_a_task_that_comes_back_goes_to_an_idle_worker():
    scheduler = Scheduler([TaskSpec(0, 9.0), TaskSpec(1, 2.0), TaskSpec(2, 1.0)])
    held = assigned(scheduler.on_join([0, 1]))
    assert held == [(0, 0, 1), (0, 2, 1), (1, 1, 1)]
    scheduler.on_outcome(1, 1, 1, OutcomeKind.DONE)
    actions = scheduler.on_outcome(0, 0, 1, OutcomeKind.FAILED)
    assert assigned(actions) == [(1, 0, 2)]


def test_an_old_attempt_does_not_count_for_a_new_one():
    """The worker is lost, comes back under its number, and its old answer arrives late."""
    scheduler = Scheduler([TaskSpec(5)])
    assert assigned(scheduler.on_join([0])) == [(0, 5, 1)]
    scheduler.on_lost(0)
    assert assigned(scheduler.on_join([0])) == [(0, 5, 2)]
    assert scheduler.on_outcome(0, 5, 1, OutcomeKind.DONE) == []
    assert scheduler.n_ignored == 1 and not scheduler.finished
    assert ended(scheduler.on_outcome(0, 5, 2, OutcomeKind.DONE))


def test_keys_of_a_lost_worker_are_free():
    """A new worker takes them over instead of taking a little of everybody's."""
    tasks = [TaskSpec(i, 1.0 + i % 2 / 2, i % 2) for i in range(40)]
    scheduler = Scheduler(tasks)
    scheduler.on_join([0, 1])
    key_of = {worker: scheduler.held_by(worker)[0][0] % 2 for worker in (0, 1)}
    assert key_of == {0: 1, 1: 0}
    scheduler.on_lost(1)
    found = assigned(scheduler.on_join([2]))
    assert {task % 2 for _, task, _ in found} == {0}


def test_only_what_had_begun_is_to_blame():
    """What merely waited beside a rank that died has not used up an attempt."""
    policy = Policy(attempts={OutcomeKind.LOST: 2})
    scheduler = Scheduler([TaskSpec(i) for i in range(2)], policy)
    for worker in (0, 1):
        scheduler.on_join([worker])
        assert [task for task, _ in scheduler.held_by(worker)] == [0, 1]
        actions = scheduler.on_lost(worker)
    assert [(e.task_id, e.kind) for e in actions] == [(0, OutcomeKind.LOST)]
    assert assigned(scheduler.on_join([2]))[0][:2] == (2, 1)


def test_losses_and_failures_are_counted_apart():
    scheduler = Scheduler(
        [TaskSpec(0)], Policy(attempts={OutcomeKind.FAILED: 2, OutcomeKind.LOST: 2})
    )
    scheduler.on_join([0])
    scheduler.on_lost(0)
    scheduler.on_join([1])
    assert assigned(scheduler.on_outcome(1, 0, 2, OutcomeKind.FAILED)) == [(1, 0, 3)]
    assert ended(scheduler.on_outcome(1, 0, 3, OutcomeKind.FAILED))


def test_another_master_goes_on():
    """Done tasks are done, and workers keep what they hold."""
    scheduler = Scheduler([TaskSpec(i) for i in range(6)], Policy(prefetch=2))
    assert scheduler.on_committed([0, 5, 99]) == [0, 5]
    held = {0: [(2, 3)], 1: [(2, 1), (0, 1), (4, 1)]}
    actions = scheduler.on_join([0, 1], held)
    assert sorted(assigned(actions)) == [(0, 1, 1), (1, 3, 1)]
    assert scheduler.held_by(0)[0] == (2, 3)
    assert scheduler.on_outcome(1, 2, 1, OutcomeKind.DONE) == []
    assert scheduler.on_outcome(0, 2, 2, OutcomeKind.DONE) == []
    for worker, task, attempt in ((0, 2, 3), (0, 1, 1), (1, 4, 1), (1, 3, 1)):
        assert scheduler.on_outcome(worker, task, attempt, OutcomeKind.DONE)
    assert scheduler.finished and scheduler.n_ended == 6


def test_a_task_that_died_of_memory_is_tried_again_alone():
    tasks = [TaskSpec(i, 9.0 - i) for i in range(8)]
    scheduler = Scheduler(tasks, Policy(prefetch=1))
    nodes = {0: 0, 1: 0, 2: 1}
    assert assigned(scheduler.on_join([0, 1, 2], None, nodes)) == [(0, 0, 1), (1, 1, 1), (2, 2, 1)]
    failed = OutcomeKind.FAILED
    assert scheduler.on_outcome(1, 1, 1, failed, starved=True) == [], "its neighbour is at work"
    assert assigned(scheduler.on_outcome(2, 2, 1, OutcomeKind.DONE)) == [(2, 3, 1)]
    assert assigned(scheduler.on_outcome(0, 0, 1, OutcomeKind.DONE)) == [(0, 1, 2)]
    # Only the other node goes on until it has ended.
    assert assigned(scheduler.on_outcome(2, 3, 1, OutcomeKind.DONE)) == [(2, 4, 1)]
    found = assigned(scheduler.on_outcome(0, 1, 2, OutcomeKind.DONE))
    assert sorted(found) == [(0, 6, 1), (1, 5, 1)]


def test_a_node_has_so_much_memory():
    tasks = [TaskSpec(i, memory=4) for i in range(6)]
    scheduler = Scheduler(tasks, Policy(prefetch=1, node_memory=10))
    found = assigned(scheduler.on_join(range(3), None, dict.fromkeys(range(3), 0)))
    assert found == [(0, 0, 1), (1, 1, 1)]
    assert assigned(scheduler.on_lost(0)) == [(2, 0, 2)]
    # What needs more than there is runs all the same, by itself.
    scheduler = Scheduler([TaskSpec(0, memory=40), TaskSpec(1)], Policy(node_memory=10))
    assert {worker for worker, _, _ in assigned(scheduler.on_join([0, 1]))} == {0}
    scheduler.on_outcome(0, 0, 1, OutcomeKind.DONE)
    scheduler.on_outcome(0, 1, 1, OutcomeKind.DONE)
    assert scheduler.finished


def test_priority_goes_before_length():
    tasks = [TaskSpec(i, 10.0 - i, i % 2, priority=i // 3) for i in range(6)]
    _, ran = run_all(tasks, 1)
    assert {task for _, task, _ in ran[:3]} == {3, 4, 5}


def test_ids_must_differ():
    with pytest.raises(ValueError, match="task id 4 occurs twice"):
        Scheduler([TaskSpec(4), TaskSpec(5), TaskSpec(4)])


def test_no_tasks():
    scheduler = Scheduler([])
    assert scheduler.on_join([0]) == []
    assert scheduler.finished
