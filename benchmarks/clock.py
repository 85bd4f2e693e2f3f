"""How long work takes: *a function* → **seconds**."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["cpu_seconds", "seconds"]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Until the device is done with it."""
    _wait_for(device)
    started_s = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - started_s


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, whatever else the machine does."""
    started_s = time.process_time()
    work()
    return time.process_time() - started_s


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
