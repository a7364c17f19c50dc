"""The master by itself: what it makes of messages, in whatever order they come."""

import math

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel import messages
from mpipipe.parallel.master import Master
from mpipipe.parallel.messages import Tag
from mpipipe.parallel.progress import Progress
from mpipipe.parallel.summaries import SummaryTable
from mpipipe.parallel.tasks import Policy, TaskResult, TaskSpec
from mpipipe.parallel.world import World

EPOCH = 1


class Post:
    """A mailbox that keeps what is posted."""

    def __init__(self, n_ranks):
        self.world = World(0, n_ranks)
        self.world.peers *= n_ranks
        self.posted = []

    def post(self, rank, tag, message):
        self.posted.append((rank, tag, message))

    def assigned(self):
        """(rank, task id, attempt) of all that was handed out."""
        return [
            (rank, int(row["task_id"]), int(row["attempt"]))
            for rank, tag, rows in self.posted
            if tag == Tag.ASSIGN
            for row in rows
        ]


def make(n_ranks, n_tasks, committed=None):
    post = Post(n_ranks)
    tasks = [TaskSpec(i) for i in range(n_tasks)]
    policy = Policy(prefetch=1)
    ended = SummaryTable(tasks)
    master = Master(post, EPOCH, tasks, policy, math.inf, Progress(), committed, ended)
    return post, master


def hello(master, rank, held=()):
    for message in messages.hello(EPOCH, list(held), 0):
        master.handle(rank, Tag.HELLO, message)


def outcome(master, rank, task_id, attempt=1, kind=OutcomeKind.DONE):
    result = TaskResult("p", task_id, attempt, Outcome(kind))
    master.handle(rank, Tag.OUTCOME, messages.outcomes(EPOCH, [result]))


def test_nothing_is_handed_out_before_all_have_told():
    post, master = make(3, 3)
    hello(master, 0)
    hello(master, 2, [(1, 1)])
    master.step()
    assert post.posted == []
    hello(master, 1)
    assert {task for _, task, _ in post.assigned()} == {0, 2}
    assert {rank for rank, _, _ in post.assigned()} == {0, 1}


def test_an_outcome_may_come_before_the_last_hello():
    """A worker goes on while the new master still waits for another one."""
    post, master = make(2, 2)
    hello(master, 0, [(0, 1)])
    outcome(master, 0, 0, kind=OutcomeKind.FAILED)
    hello(master, 1, [(1, 1)])
    assert post.assigned() == [(0, 0, 2)], "the failed task is tried again"
    outcome(master, 0, 0, attempt=2)
    outcome(master, 1, 1)
    master.step()
    assert [tag for _, tag, _ in post.posted][-2:] == [Tag.STOP, Tag.STOP]
    assert {s.outcome.kind for s in master.summaries.in_order()} == {OutcomeKind.DONE}


def test_one_that_dies_before_its_hello_is_not_waited_for():
    post, master = make(2, 2)
    hello(master, 0)
    master.lost(1)
    assert [task for _, task, _ in post.assigned()] == [0]
    master.lost(1)
    outcome(master, 0, 0)
    outcome(master, 0, 1)
    master.step()
    assert post.posted[-1][:2] == (0, Tag.STOP)


def test_what_the_dead_have_committed_counts():
    known = {1: Outcome(OutcomeKind.PARTIAL), 2: Outcome(OutcomeKind.FAILED)}
    post, master = make(3, 3, committed=lambda: known)
    for rank in range(3):
        hello(master, rank)
    assert sorted(post.assigned()) == [(0, 0, 1), (1, 1, 1), (2, 2, 1)]
    master.lost(1)
    assert master.summaries[1].outcome.kind is OutcomeKind.PARTIAL
    master.lost(2)
    outcome(master, 2, 2)
    assert 2 not in master.summaries, "a message of a dead rank changes nothing"
    outcome(master, 0, 0)
    assert post.assigned()[-1] == (0, 2, 2), "what only failed is tried again"


def test_many_held_tasks_take_several_messages():
    held = [(i, 2) for i in range(150)]
    found = messages.hello(EPOCH, held, 1)
    assert [len(part) for part in found] == [64, 64, 22]
    assert [int(part["more"][0]) for part in found] == [1, 1, 0]
    assert np.concatenate(found)["task_id"].tolist() == list(range(150))
    post, master = make(1, 150)
    for part in messages.hello(EPOCH, held, 0):
        master.handle(0, Tag.HELLO, part)
    assert post.assigned() == []
    for task_id, attempt in held:
        outcome(master, 0, task_id, attempt)
    master.step()
    assert len(master.summaries) == 150 and post.posted[-1][1] == Tag.STOP


def test_a_task_that_takes_every_rank_along_is_lost():
    post, master = make(4, 2)
    for rank in range(4):
        hello(master, rank)
    for attempt in (1, 2, 3):
        assert (attempt, 1, attempt) in post.assigned()
        master.lost(attempt)
    assert master.summaries[1].outcome.kind is OutcomeKind.LOST
    outcome(master, 0, 0)
    master.step()
    assert post.posted[-1][1] == Tag.STOP


def test_a_worker_that_does_not_hear_the_order_to_stop_is_given_up(monkeypatch):
    """A rank 0 that is cut off from the others must end when it is told to, at once."""
    now = [1000.0]
    monkeypatch.setattr("mpipipe.parallel.master.time.monotonic", lambda: now[0])
    post, master = make(3, 6)
    given_up = []
    post.world.give_up = given_up.append
    for rank in range(3):
        hello(master, rank)
    master.drain(1)
    now[0] += 100.0
    master.step()
    assert not given_up and (2, Tag.DRAIN) in [(rank, tag) for rank, tag, _ in post.posted]
    for rank in (0, 2):
        master.handle(rank, Tag.GIVEN_BACK, messages.level(EPOCH, 0))
    now[0] += 29.0
    master.step()
    assert not given_up
    now[0] += 2.0
    master.step()
    assert given_up == [1]
