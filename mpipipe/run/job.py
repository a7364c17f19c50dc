"""A job for a scheduler: how large, how long, and the script that runs it to its end.

The script is the same everywhere but for its head: variables and the scheduler's directives. What
it does stands in ``job_body.sh`` beside this module: start the ranks, drain before the time limit,
start again on the nodes that live, have itself started again, and believe nothing but
`mpipipe verify`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpipipe.data.errors import ConfigError
from mpipipe.run.predict import Prediction
from mpipipe.run.site import Site
from mpipipe.store.layout import RunLayout, safe_name

_EFFICIENCY = 0.8
"""What ranks are expected to do of the work of as many lone processes."""
_MARGIN, _SPARE_S = 1.5, 900.0
"""The time limit is so much longer than what is expected."""
_BODY = Path(__file__).with_name("job_body.sh")


@dataclass(frozen=True)
class Size:
    """How large a job is.

    Attributes
    ----------
    nodes
        Without spare ones.
    per_node
        Ranks on a node.
    limit_s
        Time limit, seconds.
    memory_gb
        Of a node.
    """

    nodes: int
    per_node: int
    limit_s: int
    memory_gb: int

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.nodes * self.per_node


def size_job(
    predict: Callable[[int], Prediction], site: Site, hours: float, nodes: int | None = None
) -> Size:
    """The smallest job that is expected to be done in so many hours.

    Parameters
    ----------
    predict
        What the plan takes on a number of ranks.
    hours
        Wall time that is wished for; where even all nodes take longer, the job is as large as may
        be, and goes on in further ones.
    nodes
        So many, whatever that takes; None: as many as it needs.

    Raises
    ------
    ConfigError
        If the site does not give so many.
    """
    if nodes is not None and nodes > site.nodes.most:
        raise ConfigError(
            f"{nodes} nodes are more than the {site.nodes.most} that the site gives", key="--nodes"
        )
    alone = predict(1)
    work_s = sum(phase.work_s for phase in alone.phases)
    per_task = alone.memory_bytes / 1e9
    fits = max(int(site.nodes.memory // per_task), 1) if per_task > 0 else site.nodes.cores
    per_node = min(site.nodes.cores, fits)
    wished = work_s / _EFFICIENCY / (hours * 3600)
    widest = max((phase.n_tasks for phase in alone.phases), default=1)
    if nodes is None:
        nodes = min(max(math.ceil(wished / per_node), 1), site.nodes.most)
        nodes = min(nodes, math.ceil(widest / per_node))
        if nodes == 1:
            per_node = min(per_node, max(math.ceil(wished), 1), widest)
    size_s = predict(nodes * per_node).wall_s / _EFFICIENCY
    longest = site.job.longest * 3600
    limit = min(_MARGIN * size_s + _SPARE_S + site.job.lead, longest)
    memory = min(math.ceil(1.2 * per_task * per_node + 1), math.floor(site.nodes.memory))
    return Size(nodes, per_node, int(limit), max(memory, 1))


def job_script(
    site: Site, size: Size, layout: RunLayout, arguments: Sequence[str], script: Path, log: Path
) -> str:
    """The script, for bash.

    Parameters
    ----------
    arguments
        What `mpipipe run` is given at the first start; later ones resume.
    script, log
        Where the script will be, and where the job's output goes.
    """
    name = safe_name(layout.root.name)
    variables: Mapping[str, str | int] = {
        "SCHEDULER": site.job.scheduler,
        "RUN": str(layout.root),
        "PLAN": str(layout.plan),
        "HALT": str(layout.halt),
        "SCRIPT": str(script),
        "RESUMES": int("--resume" in arguments),
        "LIMIT_S": size.limit_s,
        "LEAD_S": site.job.lead,
        "NODES": size.nodes,
        "PER_NODE": size.per_node,
        "STARTS": site.job.starts,
        "TRIES": site.job.tries,
        "MPI": site.launch.mpi,
        "ARCHIVE": site.launch.archive,
        "LOCAL": site.launch.local,
        "STRIPES": site.files.stripes,
    }
    lines = ["#!/bin/bash", *_directives(site, size, name, log), ""]
    lines += [f"{key}={shlex.quote(str(value))}" for key, value in variables.items()]
    lines.append(f"FIRST=({' '.join(map(shlex.quote, arguments))})")
    lines.append(f"OPTIONS=({' '.join(map(shlex.quote, site.launch.options))})")
    lines += ["", "# The site's own lines.", *site.launch.setup, ""]
    return "\n".join(lines) + "\n" + _BODY.read_text(encoding="utf-8")


def _directives(site: Site, size: Size, name: str, log: Path) -> Iterator[str]:
    job = site.job
    if job.scheduler == "slurm":
        asked: dict[str, str | int] = {
            "job-name": name,
            "nodes": size.nodes + job.spare,
            "ntasks-per-node": size.per_node,
            "cpus-per-task": 1,
            "time": _clock(size.limit_s),
            "mem": f"{size.memory_gb}G",
            "signal": f"B:USR1@{job.lead}",
            "output": _quoted(str(log).replace("%", "%%")),
            "open-mode": "append",
            "partition": job.partition,
            "account": job.account,
            "constraint": job.constraint,
        }
        yield from (f"#SBATCH --{key}={value}" for key, value in asked.items() if value != "")
        yield "#SBATCH --requeue"
        yield "#SBATCH --no-kill"
        yield from (f"#SBATCH {line}" for line in job.extra)
    elif job.scheduler == "pbs":
        node = f"ncpus={size.per_node}:mpiprocs={size.per_node}:mem={size.memory_gb}gb"
        if job.constraint:
            node += f":{job.constraint}"
        yield f"#PBS -N {name}"
        yield f"#PBS -l select={size.nodes + job.spare}:{node}"
        yield f"#PBS -l walltime={_clock(size.limit_s)}"
        yield "#PBS -l place=scatter"
        yield "#PBS -j oe"
        yield f"#PBS -o {_quoted(str(log))}"
        yield from (f"#PBS -q {queue}" for queue in (job.partition,) if queue)
        yield from (f"#PBS -A {account}" for account in (job.account,) if account)
        yield from (f"#PBS {line}" for line in job.extra)


def _quoted(text: str) -> str:
    """A path in a directive; schedulers know double quotes, and no escapes in them."""
    return f'"{text}"' if " " in text else text


def _clock(seconds: int) -> str:
    """As schedulers write times."""
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


def submit_command(site: Site, script: Path) -> list[str]:
    """What hands the script to the scheduler, or runs it."""
    command = {"slurm": "sbatch", "pbs": "qsub", "none": "bash"}[site.job.scheduler]
    return [command, str(script)]
