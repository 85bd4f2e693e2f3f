"""Processors that may be used: the affinity or the quota of a control group, whichever is less."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detector import cpus
from detector.cpus import available_cpus


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 processors whose control groups lie in the folder."""
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path)
    monkeypatch.setattr(cpus, "PROCESS", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu.max": "damaged\n"}, 64),
        ({"cpu.max": "300000"}, 3),
        ({"unified/cpu.max": "300000 100000"}, 3),  # both versions at once
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 3),
        ({"cpu.max": "200000 0\n"}, 64),
        # a container without a name space of its own sees its own group at the top, under a path from outside
        (
            {
                "self": "4:cpu,cpuacct:/docker/0f3\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "150000",
                "cpu,cpuacct/cpu.cfs_period_us": "50000",
            },
            3,
        ),
        ({"self": "0::/../../elsewhere\n", "cpu.max": "200000 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        # groups below the mounted one (no name space of its own), and those above them
        ({"self": "0::/system.slice/heatward.service\n", "system.slice/heatward.service/cpu.max": "400000 100000"}, 4),
        ({"self": "0::/a/b\n", "a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        (
            {
                "self": "5:memory:/x\n4:cpu,cpuacct:/a\n",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "500000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                "memory/x/cpu.max": "100000 100000",
            },
            5,
        ),
    ],
)
def test_the_quota_of_a_control_group_counts(machine: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text)
    assert available_cpus() == expected


def test_the_affinity_counts_where_it_is_less(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "cpu.max").write_text("800000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert available_cpus() == 2
