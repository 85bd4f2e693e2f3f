"""The settings `record_…` → **a recorder**, where the extra `record` is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detector.errors import ConfigError
from server.config import ServerConfig
from server.observers.metrics import Metrics

if TYPE_CHECKING:
    from server.observers.recorder import Recorder

__all__ = ["open_recorder"]


def open_recorder(config: ServerConfig, metrics: Metrics) -> Recorder | None:
    """A recorder that tells the metrics; None where nothing is to be recorded.

    Raises:
        ConfigError: The extra `record` is not installed.
    """
    if config.record_folder is None:
        return None
    try:
        from server.observers.recorder import Recorder
    except ImportError as error:
        raise ConfigError(
            f"record_folder = {str(config.record_folder)!r} needs pyarrow ({error}): pip install -e '.[serve,record]', "
            "or leave record_folder out"
        ) from error
    return Recorder(config, metrics.recorded, metrics.not_recorded)
