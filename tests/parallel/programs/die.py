"""A rank that fails outside a task: `die.py MODE`. The others must not wait for it."""

import os
import sys

from mpipipe.data.errors import ConfigError
from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.launch import launch
from mpipipe.parallel.tasks import TaskReport, TaskSpec
from mpipipe.parallel.world import World

mode = sys.argv[1]


def execute(phase, task_id, attempt):
    return TaskReport(Outcome(OutcomeKind.DONE))


def commit(result):
    if mode == "in-commit" and result.task_id == 5:
        raise SystemExit(3)


if mode == "wrong-size":
    with World.start({**os.environ, "OMPI_COMM_WORLD_SIZE": "7"}):
        sys.exit("started all the same")
with launch(execute) as ranks:
    last = ranks.world.rank == ranks.world.size - 1
    if mode == "before" and last:
        raise RuntimeError("lost my way")
    if mode == "config" and last:
        raise ConfigError("makes no sense", key="isr.flat")
    if mode == "sys.exit" and last:
        sys.exit(3)
    ranks.run_phase("any", [TaskSpec(i) for i in range(10)], commit)
    ranks.world.agree(True)
print("left as if nothing had been")
