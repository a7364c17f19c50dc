"""Every way a task can end, in one phase; rank 0 prints the outcomes as JSON.

Called as `outcomes.py [in-process]`. Task 0 to 19 are well; the rest misbehave.
"""

import json
import os
import sys
import time

from mpipipe.parallel.threads import limit_threads

limit_threads()

import numpy as np  # noqa: E402

from mpipipe.data.errors import BadDataError, NoWorkError  # noqa: E402
from mpipipe.data.outcome import Outcome, OutcomeKind  # noqa: E402
from mpipipe.parallel.launch import launch  # noqa: E402
from mpipipe.parallel.taskprocess import note_stage  # noqa: E402
from mpipipe.parallel.tasks import Policy, TaskReport, TaskResult, TaskSpec  # noqa: E402

HUGE = 20_000_000


def segfault():
    import ctypes

    ctypes.string_at(0)


def eat_memory():
    raise MemoryError


def eat_address_space():
    np.ones(1 << 38, dtype=np.uint8)


def loop():
    while True:
        pass


def sleep():
    time.sleep(600)


def bad_data():
    raise BadDataError("no such pixels", file="x.fits", key="BITPIX")


def no_work():
    raise NoWorkError("nothing to see")


def divide():
    return 1 / 0


class Spiteful(Exception):
    def __str__(self):
        raise RuntimeError("not telling")


def spite():
    raise Spiteful


def nonsense():
    return "done"


MISDEEDS = {
    20: divide,
    21: sys.exit,
    22: lambda: os._exit(7),
    23: segfault,
    24: eat_memory,
    25: eat_address_space,
    26: loop,
    27: sleep,
    28: bad_data,
    29: no_work,
    30: spite,
    31: nonsense,
    32: lambda: os.kill(os.getpid(), 9),
    33: os.abort,
}
DEADLINES = {26: 0.3, 27: 0.3}
SAFE = {20, 21, 24, 28, 29, 30, 31}


def execute(phase, task_id, attempt):
    assert phase == "everything"
    note_stage("test.first")
    note_stage("test.second")
    if task_id in MISDEEDS:
        result = MISDEEDS[task_id]()
        if not isinstance(result, TaskReport):
            return result
    if task_id == 5:
        payload = np.random.default_rng(5).bytes(HUGE)
    else:
        payload = f"payload {task_id}".encode()
    if task_id == 6 and attempt == 1:
        raise RuntimeError("works the second time")
    if task_id == 7:
        return TaskReport(Outcome(OutcomeKind.PARTIAL, "half", warnings=("no flat",)), payload)
    return TaskReport(Outcome(OutcomeKind.DONE), payload)


committed = []


def commit(result: TaskResult) -> None:
    if result.task_id == 8:
        raise OSError("disk full")
    if result.task_id == 5:
        assert result.payload == np.random.default_rng(5).bytes(HUGE)
    elif result.outcome.kind in (OutcomeKind.DONE, OutcomeKind.PARTIAL):
        assert result.payload == f"payload {result.task_id}".encode()
    committed.append((result.task_id, result.attempt))


in_process = "in-process" in sys.argv
with launch(execute, in_process=in_process, memory_limit=16 << 30) as ranks:
    ids = [i for i in range(34) if not in_process or i < 20 or i in SAFE]
    tasks = [TaskSpec(i, 1.0 + i % 3, i % 4, DEADLINES.get(i)) for i in ids]
    report = ranks.run_phase("everything", tasks, commit, policy=Policy())
    everyone = ranks.world.allgather(json.dumps(committed).encode())
    all_kinds = ranks.world.allgather(report.kinds.tobytes())
    assert len(set(all_kinds)) == 1, "the ranks do not agree on the outcomes"
    assert not report.interrupted
    if ranks.world.is_master:
        found = {
            s.task_id: {
                "kind": s.outcome.kind.name,
                "reason": s.outcome.reason,
                "stage": s.outcome.stage,
                "traceback": s.outcome.traceback,
                "warnings": s.outcome.warnings,
                "attempts": s.attempts,
                "rank": s.rank,
            }
            for s in report.summaries
        }
        print(json.dumps({"tasks": found, "committed": [json.loads(e) for e in everyone]}))
