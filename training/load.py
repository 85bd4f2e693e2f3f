"""Reads a configuration: a TOML file, environment variables and flags in, one frozen `TrainingConfig` out.

Flags win over the environment (`HEATWARD_FIT__EPOCHS=5`), the environment over the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from detector import text
from detector.load import check_variables, load_settings
from training.config import TrainingConfig

__all__ = ["load_config", "nearest"]

OTHERS = ("image", "redteam_", "serve_", "token")
"""What variables of others begin with behind HEATWARD_: of the compose file, red team, server and client."""


def nearest(word: str, choices: list[str]) -> str:
    """`; did you mean 'batch_size'?` and the other choices, for an error message."""
    return f"{text.nearest(word, choices)} (known: {', '.join(sorted(choices))})"


def load_config(
    path: Path | None, overrides: Mapping[str, Any] | None = None, *, without: Collection[str] = ()
) -> TrainingConfig:
    """Read a configuration.

    Args:
        path: A TOML file, or None.
        overrides: Flags: nested settings that win over the environment and the file.
        without: Keys of the file that do not count.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or a value is out of range.
    """
    check_variables(TrainingConfig, others=OTHERS)
    return load_settings(TrainingConfig, overrides or {}, path, without=without)
