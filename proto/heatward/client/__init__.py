"""The client: images go out to heatward servers, verdicts come back. `heatward` exports what callers use of it.

`sync.py` and `aio.py` hold the two clients; `base.py` holds what they share. gRPC is loaded only when a client is asked
for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heatward.client.aio import AsyncClient
    from heatward.client.sync import Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import heatward

    return getattr(heatward, name)
