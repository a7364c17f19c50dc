"""Tasks one of which dies of memory at first: `alone.py FOLDER HOW`; when each attempt ran."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.launch import launch
from mpipipe.parallel.tasks import TaskReport, TaskSpec

folder, how = Path(sys.argv[1]), sys.argv[2]


def execute(phase, task_id, attempt):
    begun = time.time()
    time.sleep(0.1)
    if task_id == 3 and attempt == 1:
        if how == "kernel":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError
    (folder / f"{task_id}-{attempt}.json").write_text(json.dumps([begun, time.time()]))
    return TaskReport(Outcome(OutcomeKind.DONE))


with launch(execute) as ranks:
    tasks = [TaskSpec(i, 1.0 + i % 3) for i in range(12)]
    report = ranks.run_phase("alone", tasks, lambda result: None)
    if ranks.world.is_master:
        print(report.kinds.tolist())
