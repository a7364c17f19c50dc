"""Tasks whose results depend on their id alone, committed to record files: `bits.py FOLDER [MODE]`.

MODE: `in-process`, or `stumble` (first attempts fail in various ways).
"""

import os
import sys
from pathlib import Path

import numpy as np

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.launch import launch
from mpipipe.parallel.tasks import TaskReport, TaskSpec
from mpipipe.store.columns import encode_columns
from mpipipe.store.recordfile import RecordWriter

folder, mode = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
prepared = None


def prepare(phase, context):
    global prepared
    prepared = (phase, context)


def execute(phase, task_id, attempt):
    assert prepared == (phase, b"seed 7")
    if mode == "stumble" and attempt == 1 and task_id % 4 == 0:
        os._exit(3)
    if mode == "stumble" and attempt == 1 and task_id % 4 == 1:
        raise RuntimeError("stumbled")
    rng = np.random.default_rng([7, task_id])
    rows = {"flux": rng.normal(size=100 + task_id), "id": np.arange(task_id)}
    return TaskReport(Outcome(OutcomeKind.DONE), encode_columns(rows, {"task": task_id}))


with launch(execute, prepare, in_process=mode == "in-process") as ranks:
    rank = ranks.world.rank
    with RecordWriter(folder / f"{rank}.rec", {"rank": rank}) as writer:

        def commit(result):
            outcome = result.outcome
            writer.append(
                result.phase,
                result.task_id,
                result.attempt,
                outcome.kind,
                result.payload,
                outcome.to_json(),
            )

        tasks = [TaskSpec(i, 1.0 + i % 5, i % 3) for i in range(60)]
        report = ranks.run_phase("bits", tasks, commit, context=b"seed 7")
    assert report.all_well, report.counts
