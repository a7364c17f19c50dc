"""Two phases of short tasks whose ranks may be lost: `survive.py FOLDER [COST]`.

COST is what the scheduler is told that a task takes, in seconds; of small ones it gives many.

Every rank commits to FOLDER/RANK.records; the last thing is FOLDER/report.json by rank 0.
"""

import json
import os
import sys
import time
from pathlib import Path

from mpipipe.data.outcome import Outcome, OutcomeKind
from mpipipe.parallel.launch import launch
from mpipipe.parallel.tasks import Policy, TaskReport, TaskSpec
from mpipipe.parallel.together import on_master
from mpipipe.store.recordfile import RecordWriter, read_records

folder = Path(sys.argv[1])
N = 24
COST = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
SILENCE_S = 1.5


def execute(phase, task_id, attempt):
    time.sleep(0.05)
    return TaskReport(Outcome(OutcomeKind.DONE), f"{phase} {task_id}".encode())


def committed():
    files = sorted(folder.glob("*.records"))
    return {r.task_id: Outcome.from_json(r.meta) for f in files for r in read_records(f)[0]}


with launch(execute) as ranks:
    world = ranks.world
    world.limit_silence(SILENCE_S)
    writer = RecordWriter(folder / f"{world.original_rank}.records")

    def commit(result):
        meta = result.outcome.to_json()
        kind = int(result.outcome.kind)
        writer.append(result.phase, result.task_id, result.attempt, kind, result.payload, meta)

    kinds = []
    for number, phase in enumerate(("first", "second")):
        tasks = [TaskSpec(number * N + i, COST) for i in range(N)]
        policy = Policy(silence_s=SILENCE_S)
        report = ranks.run_phase(phase, tasks, commit, policy=policy, committed=committed)
        kinds += report.kinds.tolist()
    names = world.allgather(str(world.original_rank).encode())

    def complete():
        facts = {
            "kinds": kinds,
            "members": [int(name) for name in names],
            "lost": world.n_lost,
            "can_survive": world.can_survive,
        }
        (folder / "report.json").write_text(json.dumps(facts))
        return 0

    on_master(world, complete, "final")
if world.can_survive:
    os._exit(0)
