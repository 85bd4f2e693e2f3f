"""The setting `otlp_endpoint` → **where traces go**."""

from __future__ import annotations

from detector.errors import ConfigError
from server.telemetry.traces import Traces

__all__ = ["open_traces"]


def open_traces(endpoint: str) -> Traces:
    """Traces that go to the OTLP collector at `endpoint`, http://host:4317 or https://…; "" traces nothing.

    Raises:
        ConfigError: The extra `trace` is not installed.
    """
    if not endpoint:
        return Traces()
    try:
        from server.telemetry.otel import OtelTraces, provider
    except ImportError as error:
        raise ConfigError(
            f"otlp_endpoint = {endpoint!r} needs OpenTelemetry ({error}): pip install -e '.[serve,trace]', or leave "
            "otlp_endpoint out"
        ) from error
    return OtelTraces(provider(endpoint))
