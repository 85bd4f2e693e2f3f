"""The client: images go out to heatward servers, verdicts come back. `heatward` exports what callers use of it.

`sync.py` and `aio.py` hold the two clients; `base.py` holds what they share. This file imports nothing: gRPC is loaded
only when a client is asked for.
"""
