"""Tells systemd how the process stands (sd_notify protocol; `Type=notify` in deploy/systemd/heatward.service).

In: READY=1, RELOADING=1, STOPPING=1, STATUS=…. Out: a datagram to the socket that NOTIFY_SOCKET names, if it is set.
"""

from __future__ import annotations

import logging
import os
import socket

__all__ = ["notify"]

log = logging.getLogger("heatward.app")


def notify(*states: str) -> None:
    """Sends states, if there is somebody to send them to; an unreachable one is logged and nothing more."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path  # @: Linux' abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto("\n".join(states).encode(), address)
    except OSError as error:
        log.warning("cannot notify systemd", extra={"socket": path, "error": str(error)})
