"""Three task processes of one process: `desks.py FOLDER`; which of them ran what."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.launch import launch
from mpipipe.parallel.tasks import TaskReport, TaskSpec

folder = Path(sys.argv[1])


def execute(phase, task_id, attempt):
    time.sleep(0.05)
    if task_id == 5 and attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return TaskReport(Outcome(OutcomeKind.DONE), f"{os.getpid()}".encode())


found = {}
with launch(execute, n_workers=3) as ranks:
    for phase in ("first", "second"):
        ran = {}
        tasks = [TaskSpec(i, 1.0 + i % 3) for i in range(30)]

        def commit(result, ran=ran):
            ran[result.task_id] = result.payload.decode()

        report = ranks.run_phase(phase, tasks, commit)
        workers = sorted({summary.rank for summary in report.summaries})
        found[phase] = [report.kinds.tolist(), workers, len(set(ran.values()) - {""})]
(folder / "found.json").write_text(json.dumps(found))
