"""The settings `record_…`, `quarantine…` and `events…` → **who writes down what was answered**.

Records and the quarantine need the extra `record`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detector.errors import ConfigError
from server.config import ServerConfig
from server.observers.background import Background
from server.observers.events import Events
from server.observers.metrics import Metrics

if TYPE_CHECKING:
    from server.observers.recorder import Recorder

__all__ = ["open_flagged", "open_recorder"]


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
        raise _missing("record_folder", config, error) from error
    return Recorder(config, metrics.recorded, metrics.not_recorded)


def open_flagged(config: ServerConfig, metrics: Metrics) -> list[Background]:
    """Who writes down what was flagged: events, the quarantine, both or none.

    Raises:
        ConfigError: The extra `record` is not installed.
    """
    opened: list[Background] = []
    if config.quarantine is not None:
        try:
            from server.observers.quarantine import Quarantine
        except ImportError as error:
            raise _missing("quarantine", config, error) from error
        opened.append(Quarantine(config.quarantine, config, metrics.quarantined, metrics.not_quarantined))
    if config.events is not None:
        opened.append(Events(config.events, config, metrics.event_written, metrics.event_dropped))
    return opened


def _missing(setting: str, config: ServerConfig, error: ImportError) -> ConfigError:
    return ConfigError(
        f"{setting} = {str(getattr(config, setting))!r} needs pyarrow ({error}): pip install -e '.[serve,record]', "
        f"or leave {setting} out"
    )
