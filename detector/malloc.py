"""What is freed stays with the process, for the next tensor.

By default glibc gives large blocks back to the system as soon as they are freed, and gives each thread a heap ("arena")
of its own. Inference takes and frees the same large blocks again and again, so that up to a third of its time goes into
pages that come and go, and each thread's heap keeps what another could use. See mallopt(3).
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = -1


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory, in one heap for all threads. Call it before there are others.

    Returns:
        Whether it could be told: not where the environment has settings of its own (`MALLOC_…`, `GLIBC_TUNABLES`, or
        another allocator in `LD_PRELOAD`), nor where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return False
    settings = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
