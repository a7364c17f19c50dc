"""Tasks that take a while: `drain.py FOLDER TASK_SECONDS GRACE_SECONDS`; made to be interrupted.

Every rank writes FOLDER/RANK.pids (MPI process, zygote, task process) and appends what it commits
to FOLDER/RANK.done. At the end rank 0 writes FOLDER/report.json.
"""

import json
import os
import sys
import time
from pathlib import Path

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.launch import launch
from mpipipe.parallel.tasks import Policy, TaskReport, TaskSpec

folder, task_s, grace_s = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])


def execute(phase, task_id, attempt):
    time.sleep(task_s)
    return TaskReport(Outcome(OutcomeKind.DONE), str(os.getpid()).encode())


with launch(execute) as ranks:
    rank = ranks.world.rank

    def commit(result):
        pids = [os.getpid(), ranks.executors[0]._zygote.pid, int(result.payload)]
        aside = folder / f"{rank}.part"
        aside.write_text(" ".join(map(str, pids)))
        aside.rename(folder / f"{rank}.pids")
        with open(folder / f"{rank}.done", "a") as done:
            done.write(f"{result.task_id}\n")

    tasks = [TaskSpec(i) for i in range(1000)]
    report = ranks.run_phase("slow", tasks, commit, policy=Policy(grace_s=grace_s))
    again = ranks.run_phase("next", tasks, commit)
    verdicts = ranks.world.allgather(bytes([report.interrupted, again.interrupted]))
    if ranks.world.is_master:
        facts = {
            "interrupted": [list(verdict) for verdict in verdicts],
            "done": [s.task_id for s in report.summaries],
            "left": report.n_left,
            "next_done": len(again.summaries),
        }
        (folder / "report.json").write_text(json.dumps(facts))
