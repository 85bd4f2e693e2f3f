"""Log records → **one JSON object a line on stderr**. Never holds an image's content.

What a call passes as `extra` stands beside the message. Each line that is written while a call is answered also has its
request id and trace id, whoever writes it: `server.transport.rpc_contexts` puts them into `about`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

import grpc

__all__ = ["JsonFormatter", "about", "log_to_stderr"]

ENCODER = json.JSONEncoder(default=str, ensure_ascii=False)
LONGEST = 10_000
"""Characters of a value, which may be a caller's."""
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))
"""What every line of the call at hand says; asyncio hands it on to the call's tasks, and to nobody else's."""


class JsonFormatter(logging.Formatter):
    """Writes a record as JSON: time, level, logger, message, the call at hand, then what the caller added."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= about.get()
        line |= {key: value for key, value in record.__dict__.items() if key not in STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = ENCODER.encode({key: _cut(value) for key, value in line.items()})
        return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _cut(value: object) -> object:
    if not isinstance(value, str) or len(value) <= LONGEST:
        return value
    return f"{value[: LONGEST // 2]} … {value[-LONGEST // 2 :]}"


def _escaped(character: str) -> str:
    """As JSON writes it: a terminal obeys some that JSON leaves as they are, U+009B among them."""
    return json.dumps(character)[1:-1]


def caller_was_there(record: logging.LogRecord) -> bool:
    """A filter: not what grpc.aio logs as an error where its caller went while the status was being sent.

    A batch of operations that was begun and has failed means just this; it is told apart only where the news that the
    caller is gone came first. Nothing is left behind, and the call is counted. What cannot be begun stays an error.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, grpc.aio.InternalError) and str(error).startswith('Failed "execute_batch"'))


def log_to_stderr(level: str) -> None:
    """Sends everything of `level` and above to stderr, other libraries' warnings included."""
    # No line shows a thread, a process or a place in the code ("Optimization" in Python's logging HOWTO).
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging._srcfile = None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("heatward").setLevel(level.upper())
    logging.getLogger("grpc._cython.cygrpc").addFilter(caller_was_there)
