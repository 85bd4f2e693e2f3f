"""Freed memory is kept: counted in page faults and heaps, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the settings are glibc's")

SCRIPT = """
import ctypes, os, resource, sys, threading
from detector.malloc import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "keep" else None)
import torch

def work():
    for _ in range(10):
        torch.ones(10_000_000)  # 40 MB
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def run(how: str, **environment: str) -> tuple[str, int, int]:
    """What `keep_freed_memory` said; page faults of two threads that take and free 20 tensors each; heaps."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    command = [sys.executable, "-u", "-c", SCRIPT, how]
    ran = subprocess.run(command, env=plain | environment, stdout=subprocess.PIPE, text=True, check=True)
    said, first, second, *heaps = ran.stdout.splitlines()
    return said, int(first) + int(second), sum("<heap nr" in line for line in heaps)


def test_freed_memory_is_used_again_by_any_thread():
    said, kept, heaps = run("keep")
    assert (said, heaps) == ("True", 1)
    _, given_back, heaps = run("leave")
    assert kept < 0.2 * given_back  # how many there are depends on the size of a page
    assert heaps > 1


def test_settings_of_the_environment_stand():
    said, faults, heaps = run("keep", MALLOC_MMAP_THRESHOLD_="131072")
    assert said == "False"
    assert heaps > 1
    assert faults > 5 * run("keep")[1]
