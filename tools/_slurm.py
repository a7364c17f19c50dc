"""A real Slurm on the hosts of `_bed`: controller on ctl, a daemon on every node, munge on all."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from _bed import CONTROL, Bed, BedError, address, why_not

_PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client",
             "munged": "munge", "setpriv": "util-linux"}  # fmt: skip
_READY_S, _RELEASE_S = 60.0, 4.0
_MUNGE = "/tmp/munge"
"""On every host: its /tmp is its own."""


def why_no_slurm() -> str:
    """Why there can be no Slurm here; empty if there can."""
    if reason := why_not():
        return reason
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"needs the program {program} (Debian package {package})"
    try:
        pwd.getpwnam("munge")
    except KeyError:
        return "needs the user munge (Debian package munge)"
    return ""


class SlurmBed:
    """Slurm on a bed of its own.

    Parameters
    ----------
    bed
        Not up yet.
    shared
        Folder that all hosts see; a folder ``slurm`` is made in it.
    """

    def __init__(self, bed: Bed, shared: Path) -> None:
        self.bed, self.folder = bed, shared / "slurm"

    def up(self, n_hosts: int, share: Sequence[Path]) -> None:
        """Start hosts and Slurm, and wait until all nodes are idle.

        Raises
        ------
        BedError
            If they do not come up.
        """
        if reason := why_no_slurm():
            raise BedError(reason)
        (self.folder / "state").mkdir(parents=True)
        (self.folder / "slurm.conf").write_text(_configuration(n_hosts, self.folder))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.bed.up(n_hosts, [self.folder.parent, *share], tied=True)
        for host in self.bed.hosts():
            self.start_on(host)
        self._wait_for_idle(n_hosts)

    def start_on(self, host: str) -> None:
        """Start the daemons of a host that has just come up."""
        daemon = "slurmctld" if host == CONTROL else f"slurmd -N {host}"
        script = f"""set -e
install -d -o munge -g munge -m 755 {_MUNGE}
install -o munge -g munge -m 600 {self.folder}/munge.key {_MUNGE}/key
setpriv --reuid munge --regid munge --clear-groups munged --key-file={_MUNGE}/key \\
    --socket={_MUNGE}/socket --pid-file={_MUNGE}/pid --log-file={_MUNGE}/log \\
    --seed-file={_MUNGE}/seed
export SLURM_CONF={self.folder}/slurm.conf
{daemon}"""
        done = subprocess.run(
            self.bed.command(host, ["bash", "-c", script]),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BedError(f"Slurm does not start on {host}: {done.stderr.strip()}")

    def run(self, *words: object, check: bool = True) -> str:
        """What a command on ctl prints.

        Raises
        ------
        BedError
            If it fails.
        """
        command = ["env", f"SLURM_CONF={self.folder}/slurm.conf", *map(str, words)]
        done = subprocess.run(
            self.bed.command(CONTROL, command), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise BedError(f"{words[0]}: {done.stdout.strip()} {done.stderr.strip()}")
        return done.stdout

    def state_of(self, job: int) -> str:
        """State of a job, in Slurm's words."""
        shown = self.run("scontrol", "-o", "show", "job", job)
        return shown.partition("JobState=")[2].split()[0]

    def wait_for(
        self, job: int, states: Sequence[str], seconds: float, *, release: bool = True
    ) -> str:
        """Wait until a job is in one of these states; what it is in at the end.

        Parameters
        ----------
        release
            Let a job that was requeued begin after a few seconds; Slurm holds it back for two
            minutes. (At once is too soon: nodes take its credential for the former start's.)
        """
        limit = time.monotonic() + seconds
        pending_since = 0.0
        while (state := self.state_of(job)) not in states and time.monotonic() < limit:
            now = time.monotonic()
            pending_since = (pending_since or now) if state == "PENDING" else 0.0
            if release and pending_since and now - pending_since > _RELEASE_S:
                self.run("scontrol", "update", f"jobid={job}", "starttime=now", check=False)
            time.sleep(0.5)
        return state

    def _wait_for_idle(self, n_hosts: int) -> None:
        limit = time.monotonic() + _READY_S
        while self.run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() != str(
            n_hosts
        ):
            if time.monotonic() > limit:
                raise BedError(f"nodes do not come up: {self.run('sinfo', '-R', check=False)}")
            time.sleep(0.25)


def _configuration(n_hosts: int, folder: Path) -> str:
    facts = {
        "ClusterName": "bed",
        "SlurmctldHost": f"{CONTROL}({address(CONTROL)})",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "AuthInfo": f"socket={_MUNGE}/socket",
        "MpiDefault": "none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "ReturnToService": 2,
        "SlurmctldPidFile": "/tmp/slurmctld.pid",
        "SlurmdPidFile": "/tmp/slurmd.pid",
        "SlurmdSpoolDir": "/tmp/slurmd",
        "StateSaveLocation": folder / "state",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.%n.log",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "bf_interval=2,sched_min_interval=500000,batch_sched_delay=0",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SlurmdTimeout": 10,
        "MessageTimeout": 5,
        "TCPTimeout": 2,
        "KillWait": 5,
        "BatchStartTimeout": 10,
        "MinJobAge": 3600,
        "JobRequeue": 1,
        "AccountingStorageType": "accounting_storage/none",
        "SlurmdParameters": "config_overrides",
    }
    lines = [f"{key}={value}" for key, value in facts.items()]
    nodes = ",".join(f"n{i}" for i in range(1, n_hosts + 1))
    lines += [
        f"NodeName=n{i} NodeAddr={address(f'n{i}')} CPUs=2 RealMemory=4000 State=UNKNOWN"
        for i in range(1, n_hosts + 1)
    ]
    lines.append(f"PartitionName=debug Nodes={nodes} Default=YES MaxTime=INFINITE State=UP")
    return "\n".join(lines) + "\n"
