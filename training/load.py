"""Reads a configuration: a TOML file, environment variables and flags in, one frozen `TrainingConfig` out.

Flags win over the environment (`HEATWARD_FIT__EPOCHS=5`), the environment over the file. An unknown key is an error
that names its nearest neighbour.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsConfigDict

from detector import text
from detector.errors import ConfigError
from training.config import TrainingConfig

__all__ = ["load_config", "nearest"]


def nearest(word: str, choices: list[str]) -> str:
    """`; did you mean 'batch_size'?` and the other choices, for an error message."""
    return f"{text.nearest(word, choices)} (known: {', '.join(sorted(choices))})"


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a configuration.

    Args:
        path: A TOML file, or None.
        overrides: Flags: nested settings that win over the environment and the file.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or a value is out of range.
    """
    if path is not None and not path.is_file():
        raise ConfigError(f"configuration {path} does not exist")
    # pydantic-settings takes the file's name from the class
    loaded = type(
        "TrainingConfig",
        (TrainingConfig,),
        {"model_config": SettingsConfigDict(toml_file=path), "__module__": __name__, "__doc__": TrainingConfig.__doc__},
    )
    try:
        config: TrainingConfig = loaded(**(overrides or {}))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path or 'configuration'}: {_explain(error)}") from error
    return config


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"][:-1])
            lines.append(f"unknown key {where!r}{nearest(str(problem['loc'][-1]), known)}")
        elif problem["type"] == "missing":
            lines.append(f"{where!r} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            got = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
            lines.append(f"{where}: {message}{got}" if where else f"{message}{got}")
    return "; ".join(lines)


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = TrainingConfig
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        candidates = [model.model_fields[part].annotation]
        while candidates:
            candidate = candidates.pop()
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
                break
            candidates.extend(get_args(candidate))
    return list(model.model_fields)
