"""How many processors this process may use: its affinity or its container's quota, whichever is less.

Kubernetes and `docker run --cpus` limit by quota, which the kernel enforces by putting the whole process to sleep: more
threads than the quota make everything slower. Files read: cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us` and
`cpu.cfs_period_us` (https://docs.kernel.org/admin-guide/cgroup-v2.html).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_cpus"]

CGROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self/cgroup")
PERIOD = "100000"  # microseconds, where only the quota is told


def available_cpus() -> int:
    """Whole processors, at least 1: threads that share a part of one would wait for the kernel together."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(affinity, _quota())))


def _quota() -> float:
    """Processors' worth of time, the least of this process's control groups and those above them; inf: no limit."""
    found = [math.inf]
    for group in _groups():
        found += [_share(group / "cpu.max"), _share(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")]
    return min(found)


def _groups() -> list[Path]:
    """Folders of the control groups that may limit this process's time, those of both versions."""
    # in a container its own group is mounted at the top
    groups = [CGROUPS / name for name in ("", "unified", "cpu", "cpu,cpuacct", "cpuacct,cpu")]
    for line in _read(PROCESS).splitlines():
        _, controllers, inner = (*line.split(":", 2), "", "")[:3]  # "0::/a/b", "4:cpu,cpuacct:/a/b"
        if controllers and "cpu" not in controllers.split(","):
            continue
        tops = [CGROUPS / name for name in ((controllers, "cpu") if controllers else ("", "unified"))]
        parts = [part for part in inner.split("/") if part not in ("", "..")]
        groups += [top.joinpath(*parts[:depth]) for top in tops for depth in range(1, len(parts) + 1)]
    return groups


def _share(*files: Path) -> float:
    words = " ".join(_read(file) for file in files).split()
    try:
        quota, period = (int(word) for word in (words if len(words) != 1 else [*words, PERIOD]))
    except ValueError:  # no such files, or "max 100000"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
