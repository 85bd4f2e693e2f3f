"""Forks: what gRPC needs to survive one, and an error in place of a hang where it cannot.

gRPC's threads do not exist in a forked process. It can start anew there, if it was told before it was loaded that there
will be forks; but not where an asyncio channel was open, whose thread it cannot stop. Import this before grpc.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any
from weakref import WeakSet

__all__ = ["asyncio_clients", "check_fit", "open_calls", "open_streams", "starting"]

VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"

if "grpc" not in sys.modules:
    os.environ.setdefault(VARIABLE, "1")
SUPPORTED = os.environ.get(VARIABLE, "0").lower() in ("1", "true", "yes", "on", "t", "y")

asyncio_clients: WeakSet[Any] = WeakSet()
"""Those that are open."""
open_calls: set[object] = set()
"""Calls that some thread waits for."""
open_streams: WeakSet[Any] = WeakSet()
"""The calls of those that are open, of either client."""

_unfit = ""


def _in_child() -> None:
    global _unfit
    if asyncio_clients:
        _unfit = "an AsyncClient was open when this process was forked: fork before it opens"
    elif (open_calls or open_streams) and not SUPPORTED:
        what = "a stream" if open_streams else "a call"
        _unfit = f"{what} was open when this process was forked: import heatward before grpc, or set {VARIABLE}=1"
    asyncio_clients.clear()
    open_calls.clear()
    open_streams.clear()


starting = threading.RLock()
"""Held while a call is begun, which a fork waits for."""

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=starting.acquire, after_in_parent=starting.release, after_in_child=starting.release)
    os.register_at_fork(after_in_child=_in_child)


def check_fit() -> None:
    """Before a client opens.

    Raises:
        RuntimeError: It would hang in this process.
    """
    if _unfit:
        raise RuntimeError(f"gRPC cannot be used in this process, because {_unfit}; or use multiprocessing's spawn")
