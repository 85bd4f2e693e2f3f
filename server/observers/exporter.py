"""The setting `otlp_endpoint` → **where traces go**."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from detector.errors import ConfigError

if TYPE_CHECKING:
    from server.observers.otel import Traces

__all__ = ["open_traces"]

HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+\s*=[ !#-+\-.-:<-\[\]-~/]*", re.ASCII)  # as OpenTelemetry reads them


def open_traces(endpoint: str) -> Traces | None:
    """Traces that go to the OTLP collector at `endpoint`, http://host:4317 or https://…; "": None.

    Raises:
        ConfigError: The extra `trace` is not installed, or a header cannot be sent.
    """
    if not endpoint:
        return None
    _check_headers()
    try:
        from server.observers.otel import Traces, provider
    except ImportError as error:
        raise ConfigError(
            f"otlp_endpoint = {endpoint!r} needs OpenTelemetry ({error}): pip install -e '.[serve,trace]', or leave "
            "otlp_endpoint out"
        ) from error
    return Traces(provider(endpoint))


def _check_headers() -> None:
    """OpenTelemetry and gRPC would write what they cannot send, which may be a token, into the log."""
    for variable in HEADERS:
        for number, header in enumerate(os.environ.get(variable, "").strip().split(","), 1):
            value = unquote(header.partition("=")[2]).strip()
            if header.strip() and not (HEADER.fullmatch(header.strip()) and value.isascii() and value.isprintable()):
                raise ConfigError(
                    f"{variable}: header {number} is not name=value in ASCII without line breaks (it is not shown here,"
                    " for it may be a token)"
                )
