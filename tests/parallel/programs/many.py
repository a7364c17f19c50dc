"""Many empty tasks: `many.py N [COST]`; rank 0 prints how fast they went as JSON."""

import json
import sys

from mpipipe.parallel.threads import limit_threads

limit_threads()

from mpipipe.data.outcome import Outcome, OutcomeKind  # noqa: E402
from mpipipe.parallel.launch import launch  # noqa: E402
from mpipipe.parallel.tasks import TaskReport, TaskSpec  # noqa: E402


def execute(phase, task_id, attempt):
    return TaskReport(Outcome(OutcomeKind.DONE), task_id.to_bytes(8, "little"))


seen = []


def commit(result):
    assert result.payload == result.task_id.to_bytes(8, "little")
    seen.append(result.task_id)


n_tasks = int(sys.argv[1])
cost = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0001
with launch(execute) as ranks:
    tasks = [TaskSpec(i, cost, i % 50) for i in range(n_tasks)]
    reports = [ranks.run_phase(name, tasks, commit) for name in ("first", "second")]
    everyones = [json.loads(raw) for raw in ranks.world.allgather(json.dumps(seen).encode())]
    if ranks.world.is_master:
        ids = sorted(i for ids in everyones for i in ids)
        print(
            json.dumps(
                {
                    "complete": ids == sorted([*range(n_tasks), *range(n_tasks)]),
                    "well": all(report.all_well for report in reports),
                    "ids_in_order": [s.task_id for s in reports[1].summaries]
                    == list(range(n_tasks)),
                    "share": [len(ids) for ids in everyones],
                    "per_second": n_tasks / reports[1].wall_s,
                }
            )
        )
