"""The memory of a host is the least that anybody allows."""

import math

from mpipipe.parallel.host import cores, memory_bytes


def test_the_least_counts(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert memory_bytes(meminfo, cgroup, tmp_path) == math.inf
    meminfo.write_text("MemTotal:       16000000 kB\nMemFree: 1 kB\n")
    assert memory_bytes(meminfo, cgroup, tmp_path) == 16_000_000 * 1024
    cgroup.write_text("1:x:/old\n0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    (tmp_path / "job" / "memory.max").write_text("4000000000\n")
    assert memory_bytes(meminfo, cgroup, tmp_path) == 4e9
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1000")
    assert memory_bytes(meminfo, cgroup, tmp_path) == 1000 * 2**20
    for text in ("", "MemTotal:\n", "MemTotal: x kB\n"):
        meminfo.write_text(text)
        assert memory_bytes(meminfo, cgroup, tmp_path) == 1000 * 2**20


def test_this_host():
    assert 1e8 < memory_bytes() < 1e14


def test_cores_are_those_of_the_control_group(tmp_path):
    here = cores(tmp_path / "none", tmp_path)
    assert here >= 1
    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert cores(cgroup, tmp_path) == here
    (tmp_path / "job" / "cpu.max").write_text("50000 100000\n")
    assert cores(cgroup, tmp_path) == 1, "half a core counts as one"
