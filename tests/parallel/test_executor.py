"""The task process: replaced whatever happens to it, and never in the way."""

import os
import signal
import time
from pathlib import Path

import pytest

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.executor import InProcessExecutor, ProcessExecutor, Submitted, wait_for
from mpipipe.parallel.tasks import TaskReport


def execute(phase, task_id, attempt):
    if task_id == 1:
        os._exit(9)
    if task_id == 2:
        time.sleep(60)
    if task_id == 3:
        child = os.fork()  # a child of the task holds the connection open
        if child == 0:
            time.sleep(60)
        return TaskReport(Outcome(OutcomeKind.DONE), str(child).encode())
    if task_id == 4:
        os.kill(os.getpid(), signal.SIGSTOP)
    if 100 <= task_id < 200:  # plainly done
        time.sleep(0.001 * (task_id % 2))
        return TaskReport(Outcome(OutcomeKind.DONE))
    if task_id == 5:
        time.sleep(0.3)
    return TaskReport(Outcome(OutcomeKind.DONE), f"{phase} {os.getpid()}".encode())


@pytest.fixture
def executor():
    made = ProcessExecutor(execute)
    made.begin_phase("test")
    yield made
    made.close()


def result_of(executor, task_id, deadline_s=None, seconds=10.0):
    (result,) = results_of(executor, [(task_id, 1, deadline_s)], seconds)
    return result


def results_of(executor, tasks, seconds=10.0):
    """Submit tasks together; their results, in the order they came."""
    executor.submit([Submitted(*task) for task in tasks])
    limit, found = time.monotonic() + seconds, []
    while time.monotonic() < limit:
        found += executor.poll()
        if executor.n_held == 0:
            return found
        wait_for([executor], 0.1)
    raise AssertionError("no result")


def pid_of(result):
    return int(result.payload.split()[1])


def test_tasks_run_in_one_other_process(executor):
    pids = {pid_of(result_of(executor, 10 + i)) for i in range(5)}
    assert len(pids) == 1 and os.getpid() not in pids
    assert executor.n_replaced == 0


def test_a_lost_process_is_replaced(executor):
    before = pid_of(result_of(executor, 10))
    lost = result_of(executor, 1)
    assert lost.outcome.kind is OutcomeKind.FAILED
    assert "exit code 9" in lost.outcome.reason
    after = result_of(executor, 10)
    assert after.payload.startswith(b"test ") and pid_of(after) != before
    assert not Path(f"/proc/{before}").exists()


def test_many_small_tasks_come_back_in_order(executor):
    """Those that are plainly done, those with a payload, and one that fails."""
    ids = [100, 101, 10, 102, 11, 103, 104]
    found = results_of(executor, [(i, 3) for i in ids])
    assert [(r.task_id, r.attempt) for r in found] == [(i, 3) for i in ids]
    assert {r.outcome.kind for r in found} == {OutcomeKind.DONE}
    assert [bool(r.payload) for r in found] == [i < 100 for i in ids]
    assert all(r.wall_s > 0 for r in found)


@pytest.mark.parametrize("killer", [1, 2])
def test_the_right_one_of_many_is_blamed(executor, killer):
    """Those before it have ended, those behind it run in the next process."""
    ids = [100, 101, 102, killer, 103, 104, 10]
    found = results_of(executor, [(i, 1, 0.5) for i in ids])
    by_id = {r.task_id: r.outcome.kind for r in found}
    assert len(found) == len(ids)
    expected = OutcomeKind.FAILED if killer == 1 else OutcomeKind.TIMED_OUT
    assert by_id.pop(killer) is expected
    assert set(by_id.values()) == {OutcomeKind.DONE}
    assert executor.n_replaced == 1


def test_what_has_not_begun_can_be_dropped(executor):
    executor.submit([Submitted(5, 1), Submitted(100, 1), Submitted(101, 1)])
    limit = time.monotonic() + 5
    while not executor._bulletin.n_begun and time.monotonic() < limit:
        time.sleep(0.01)
    executor.drop_waiting()
    found = []
    limit = time.monotonic() + 5
    while executor.n_held and time.monotonic() < limit:
        found += executor.poll()
        wait_for([executor], 0.05)
    assert [r.task_id for r in found] == [5]
    assert executor.n_replaced == 0
    assert [r.task_id for r in results_of(executor, [(100, 1), (101, 1)])] == [100, 101]


def test_dropping_too_late_does_no_harm(executor):
    """The task process has run all of it before it hears that it need not."""
    for _ in range(20):
        executor.submit([Submitted(100, 1), Submitted(102, 1)])
        time.sleep(0.002)
        executor.drop_waiting()
        found = []
        while executor.n_held:
            found += executor.poll()
        assert [r.task_id for r in results_of(executor, [(104, 1), (106, 1)])] == [104, 106]


def test_killed_while_idle(executor):
    """Nobody's task: the process is replaced without a result."""
    os.kill(pid_of(result_of(executor, 10)), signal.SIGKILL)
    limit = time.monotonic() + 5
    while executor.n_replaced == 0 and time.monotonic() < limit:
        assert executor.poll() == []
        wait_for([executor], 0.05)
    assert result_of(executor, 11).outcome.kind is OutcomeKind.DONE


@pytest.mark.parametrize("task_id", [2, 4], ids=["sleeping", "stopped"])
def test_deadline(executor, task_id):
    begin = time.monotonic()
    result = result_of(executor, task_id, 0.2)
    assert result.outcome.kind is OutcomeKind.TIMED_OUT
    assert 0.2 <= time.monotonic() - begin < 2
    assert result_of(executor, 10).outcome.kind is OutcomeKind.DONE


def test_drop(executor):
    executor.submit([Submitted(2, 1)])
    executor.drop()
    assert executor.n_held == 0
    assert result_of(executor, 10).outcome.kind is OutcomeKind.DONE


def test_children_of_a_task_end_with_it(executor):
    """A process that a task has started does not outlive the task process."""
    child = int(result_of(executor, 3).payload)
    executor.submit([Submitted(2, 1)])
    executor.drop()
    limit = time.monotonic() + 5
    while _runs(child) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_close_leaves_nothing():
    executor = ProcessExecutor(execute)
    executor.begin_phase("test")
    pid = pid_of(result_of(executor, 10))
    zygote = executor._zygote.pid
    executor.close()
    limit = time.monotonic() + 5
    while (_runs(pid) or _runs(zygote)) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not _runs(pid) and not _runs(zygote)


def test_memory_limit():
    def grab(phase, task_id, attempt):
        return TaskReport(Outcome(OutcomeKind.DONE), b"x" * task_id)

    executor = ProcessExecutor(grab, memory_limit=4 << 30)
    executor.begin_phase("test")
    result = result_of(executor, 6 << 30)
    assert result.outcome.reason == "the task ran out of memory"
    assert result_of(executor, 1000).outcome.kind is OutcomeKind.DONE
    assert executor.n_replaced == 1, "after lack of memory the process is a new one"
    executor.close()


def test_failing_preparation_fails_the_tasks():
    def prepare(phase, context):
        raise RuntimeError(f"no {context.decode()}")

    for made in (ProcessExecutor(execute, prepare), InProcessExecutor(execute, prepare)):
        made.begin_phase("test", b"masters")
        result = result_of(made, 10)
        assert result.outcome.kind is OutcomeKind.FAILED
        assert result.outcome.reason == "RuntimeError: no masters"
        made.close()


def test_in_process_calls_the_debugger():
    seen = []

    def fail(phase, task_id, attempt):
        raise LookupError("here")

    executor = InProcessExecutor(fail, on_error=seen.append)
    executor.begin_phase("test")
    assert result_of(executor, 1).outcome.kind is OutcomeKind.FAILED
    assert isinstance(seen[0], LookupError) and seen[0].__traceback__ is not None
