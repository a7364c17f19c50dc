"""Job scripts: their size, their head, and what they do when ranks, nodes or time are lost.

The script runs for real, in bash, with a scheduler, a launcher and an mpipipe that are played by
small scripts: they note what they are asked and do what the test has told them to.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipipe.data.errors import ConfigError
from mpipipe.run.job import Size, job_script, size_job
from mpipipe.run.predict import START_S, PhasePrediction, Prediction
from mpipipe.run.site import Files, Job, Launch, Nodes, Site, load_site
from mpipipe.store.layout import RunLayout

SITES = Path(__file__).resolve().parents[2] / "jobs" / "sites"

PLAYERS = {
    # Runs what comes after "python", and says on which hosts.
    "mpirun": """echo "mpirun $*" >> "$STAGE/log"
trap 'kill -USR1 $child' USR1
while [[ $1 != python ]]; do shift; done
"$@" & child=$!
while wait $child; code=$?; kill -0 $child 2>/dev/null; do :; done
exit $code""",
    # mpipipe: each start does what the next line of $STAGE/acts says.
    "python": """shift 2
if [[ $1 == verify ]]; then [[ -e $RUN_FOLDER/completion.json ]]; exit; fi
act=$(head -1 "$STAGE/acts"); sed -i 1d "$STAGE/acts"
mkdir -p "$RUN_FOLDER"
[[ $act == refuse ]] && exit 1
touch "$RUN_FOLDER/plan.columns"
case $act in
done) touch "$RUN_FOLDER/completion.json" ;;
die) kill -9 $$ ;;
lie) exit 0 ;;
stop) touch "$RUN_FOLDER/halt.json"; exit 75 ;;
drain) trap 'echo drained >> "$STAGE/log"; exit 75' USR1
    touch "$STAGE/works"; while :; do /bin/sleep 0.05; done ;;
esac""",
    "scontrol": """if [[ $* == "show hostnames n[2-3]" ]]; then printf 'n2\\nn3\\n'
elif [[ $* == *"show job 42" ]]; then echo "ReqNodeList=n1 NodeList=n[2-3] BatchHost=n1 NumNodes=2"
elif [[ $1 == show ]]; then printf 'n1\\nn2\\nn3\\n'
else echo "scontrol $*" >> "$STAGE/log"; fi""",
    "srun": """cat > /dev/null  # what is left for it to read is gone
for dead in $(cat "$STAGE/dead" 2>/dev/null); do
    [[ "$*" == *--nodelist=$dead* ]] && exit 1
done
if [[ -e $STAGE/first-is-lost && "$*" == *BatchHost* ]]; then
    while [[ $1 != bash ]]; do shift; done
    exec "$@"
fi
exit 0""",
    "sleep": "exit 0",
}


def site_of(scheduler: str = "slurm", **job: object) -> Site:
    return Site(
        nodes=Nodes(cores=4, memory=16.0, most=8),
        job=Job.model_validate({"scheduler": scheduler} | job),
        launch=Launch(setup=("export FROM_SITE=yes",)),
        files=Files(),
    )


class Theatre:
    """A job on a stage."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run folder's"
        self.words = ["RAW 'quoted'", "-o", str(self.run)]
        (folder / "bin").mkdir()
        for name, text in PLAYERS.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)

    def start(self, acts: str, dead: str = "", restarts: int = 0, **job: object) -> None:
        """Begin a job in which each start of mpipipe does one of these acts."""
        (self.folder / "acts").write_text("\n".join(acts.split()) + "\n")
        (self.folder / "dead").write_text(dead)
        size = Size(nodes=2, per_node=4, limit_s=3600, memory_gb=8)
        path, layout = self.folder / "job.sh", RunLayout.at(self.run)
        path.write_text(
            job_script(site_of(**job), size, layout, self.words, path, self.folder / "out")
        )
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "STAGE": str(self.folder),
            "RUN_FOLDER": str(self.run),
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        self.process = subprocess.Popen(
            ["bash", str(path)], env=environment, stdout=subprocess.PIPE, text=True
        )

    def end(self) -> tuple[int, str]:
        """Its exit code, and what the players have noted."""
        out, _ = self.process.communicate(timeout=40)
        log = self.folder / "log"
        return self.process.returncode, out + (log.read_text() if log.exists() else "")


@pytest.fixture
def theatre(tmp_path: Path) -> Theatre:
    return Theatre(tmp_path)


pytestmark = pytest.mark.timeout(60)


def test_a_run_that_ends_well(theatre: Theatre) -> None:
    theatre.start("done")
    code, told = theatre.end()
    assert code == 0
    assert "--with-ft ulfm" in told
    assert "--host n1:4,n2:4 " in told, "as many nodes as were sized, the third is spare"
    assert "-n 8 " in told
    assert "RAW 'quoted' -o" in told, "words of the user reach mpipipe as they are"


def test_a_lost_node_is_left_out_and_the_run_resumed(theatre: Theatre) -> None:
    theatre.start("die done", dead="n1", spare=1)  # n2 and n3 are found by the same loop
    code, told = theatre.end()
    assert code == 0
    assert "n1 is lost" in told
    assert "--host n2:4,n3:4 " in told
    assert "run --resume" in told


def test_a_launcher_that_lies_is_not_believed(theatre: Theatre) -> None:
    theatre.start("lie lie done")
    code, told = theatre.end()
    assert code == 0
    assert told.count("mpirun ") == 3


def test_the_time_limit(theatre: Theatre) -> None:
    """USR1 drains, and the job asks to be started again."""
    theatre.start("drain")
    deadline = time.monotonic() + 20
    while not (theatre.folder / "works").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    theatre.process.send_signal(signal.SIGUSR1)
    code, told = theatre.end()
    assert code == 75
    assert "drained" in told
    assert "scontrol requeue 42" in told


def test_a_job_that_is_cancelled_stays_so(theatre: Theatre) -> None:
    """TERM drains, too, but nothing is started again."""
    theatre.start("drain")
    deadline = time.monotonic() + 20
    while not (theatre.folder / "works").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    theatre.process.send_signal(signal.SIGTERM)
    code, told = theatre.end()
    assert code == 75
    assert "drained" in told
    assert "requeue" not in told
    assert "was ended" in told


def test_a_run_that_is_stopped_stays_so(theatre: Theatre) -> None:
    """`mpipipe stop` ends the job, too."""
    theatre.start("stop done")
    code, told = theatre.end()
    assert code == 75
    assert told.count("mpirun ") == 1
    assert "requeue" not in told
    assert "was stopped" in told


def test_options_of_a_resume_reach_the_first_start(theatre: Theatre) -> None:
    theatre.run.mkdir()
    (theatre.run / "plan.columns").touch()
    theatre.words = ["--resume", str(theatre.run), "--set", "sfm.x=1"]
    theatre.start("die done")
    code, told = theatre.end()
    assert code == 0
    first, second = (line for line in told.splitlines() if line.startswith("mpirun"))
    assert first.endswith("--set sfm.x=1")
    assert "--set" not in second, "what was asked for is in the run's configuration by then"


def test_it_is_not_started_for_ever(theatre: Theatre) -> None:
    theatre.start("die die die", restarts=4, starts=5)
    code, told = theatre.end()
    assert code == 75
    assert "scontrol requeue" not in told
    assert "mpipipe submit --resume" in told
    theatre.start("done", restarts=5, starts=5)  # by the scheduler, which does not count
    code, told = theatre.end()
    assert code == 75 and told.count("mpirun ") == 3


def test_another_node_sees_that_the_first_one_is_lost(theatre: Theatre) -> None:
    """Slurm itself leaves such a job as it is until its time limit."""
    (theatre.folder / "first-is-lost").touch()
    theatre.start("drain")
    log = theatre.folder / "log"
    while not log.exists() or "scontrol requeue 42" not in log.read_text():
        time.sleep(0.05)
    while not (theatre.folder / "works").exists():
        time.sleep(0.05)
    theatre.process.send_signal(signal.SIGTERM)
    code, told = theatre.end()
    assert code == 75 and "srun" not in told
    before = log.stat().st_size
    time.sleep(0.3)
    assert log.stat().st_size == before, "nobody watches when the job has ended"


def test_tries_within_a_job_are_counted(theatre: Theatre) -> None:
    theatre.start("die die done", tries=2)
    code, told = theatre.end()
    assert code == 75
    assert told.count("mpirun ") == 2
    assert "scontrol requeue 42" in told


def test_a_run_that_can_not_start_is_not_repeated(theatre: Theatre) -> None:
    theatre.start("refuse refuse")
    code, told = theatre.end()
    assert code == 1
    assert told.count("mpirun ") == 1
    assert "requeue" not in told


@pytest.mark.parametrize("name", sorted(path.name for path in SITES.glob("*.toml")))
def test_sites_that_come_along(name: str, tmp_path: Path) -> None:
    """They are read, and give a script that bash, and shellcheck if it is there, understand."""
    site = load_site(SITES / name)
    size = Size(nodes=3, per_node=8, limit_s=7300, memory_gb=30)
    path, layout = tmp_path / "job.sh", RunLayout.at(tmp_path / "run")
    text = job_script(site, size, layout, ["RAW"], path, tmp_path / "a log 50%")
    path.write_text(text)
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        command = ["shellcheck", "-e", "SC1090,SC1091,SC2034", str(path)]
        subprocess.run(command, check=True)
    head = text.split("SCHEDULER=")[0]
    if site.job.scheduler == "slurm":
        assert "#SBATCH --time=02:01:40\n" in head
        assert f"#SBATCH --nodes={3 + site.job.spare}\n" in head
        assert "--signal=B:USR1@300" in head
        assert f'#SBATCH --output="{tmp_path}/a log 50%%"\n' in head
        assert "account" not in head, "what is not set is not asked for"
    elif site.job.scheduler == "pbs":
        assert "#PBS -l select=3:ncpus=8:mpiprocs=8:mem=30gb\n" in head
    else:
        assert head.strip() == "#!/bin/bash"


def test_site_files_are_strict(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('[nodes]\ncores = 4\nmemory = 8\n[job]\nscheduler = "slurm"\nlongst = 3\n')
    with pytest.raises(ConfigError, match=r"longst.*longest"):
        load_site(path)
    with pytest.raises(ConfigError, match="can not be read"):
        load_site(tmp_path / "nowhere.toml")


def plan_like(n_tasks: int, cost_s: float, memory_gb: float) -> Callable[[int], Prediction]:
    """A plan of equal tasks."""

    def predict(ranks: int) -> Prediction:
        busy = min(ranks, n_tasks)
        wall, memory = n_tasks * cost_s / busy, int(memory_gb * 1e9 * busy)
        phase = PhasePrediction("calibrate", n_tasks, n_tasks * cost_s, wall, memory, 0, 0)
        return Prediction(ranks, (phase,))

    return predict


def test_nodes_that_the_user_wants() -> None:
    """The time limit is that of so many; what the site does not give is refused."""
    plan, site = plan_like(1000, 100.0, 1.0), site_of()
    own, few = size_job(plan, site, 1.0), size_job(plan, site, 1.0, nodes=2)
    assert few.nodes == 2
    assert few.limit_s > 2 * own.limit_s
    with pytest.raises(ConfigError, match="9 nodes"):
        size_job(plan, site, 1.0, nodes=9)


@given(st.integers(1, 100_000), st.floats(0.1, 500.0), st.floats(0.1, 6.0), st.floats(0.1, 20.0))
def test_sizes_fit(n_tasks: int, cost_s: float, memory_gb: float, hours: float) -> None:
    """Within a node's cores and memory, the site's nodes and time; no rank without a task."""
    site = site_of()
    size = size_job(plan_like(n_tasks, cost_s, memory_gb), site, hours)
    assert 1 <= size.per_node <= site.nodes.cores
    assert 1 <= size.nodes <= site.nodes.most
    assert size.ranks - size.per_node < n_tasks
    assert size.memory_gb <= site.nodes.memory
    assert size.per_node == 1 or size.per_node * memory_gb <= site.nodes.memory
    assert START_S < size.limit_s <= site.job.longest * 3600
    expected = n_tasks * cost_s / 0.8
    if size.nodes < site.nodes.most and size.ranks < n_tasks and memory_gb * 4 <= 16:
        assert expected / size.ranks <= 1.001 * hours * 3600, "as fast as was wished for"
