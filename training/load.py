"""Reads a configuration: a TOML file, environment variables and flags in, one frozen `TrainingConfig` out.

Flags win over the environment (`HEATWARD_FIT__EPOCHS=5`), the environment over the file. An unknown key is an error
that names its nearest neighbour.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from detector import text
from detector.errors import ConfigError
from detector.service_variables import service_variables
from training.config import TrainingConfig

__all__ = ["load_config", "nearest"]

PREFIX = str(TrainingConfig.model_config.get("env_prefix"))


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
    content = {} if path is None else _read(path)

    class Loaded(TrainingConfig):
        __doc__ = TrainingConfig.__doc__

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            environment = EnvSettingsSource(settings_cls)
            services = {name.lower() for name in service_variables(os.environ, PREFIX)}
            environment.env_vars = {
                name: value for name, value in environment.env_vars.items() if name.lower() not in services
            }
            return init_settings, environment, InitSettingsSource(settings_cls, content)

    try:
        return Loaded(**(overrides or {}))
    except ValidationError as error:
        raise ConfigError(f"{path or 'configuration'}: {_explain(error)}") from error
    except SettingsError as error:
        raise ConfigError(f"environment: {text.printable(str(error), 300)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text.plain(path.read_bytes()).decode())
    except FileNotFoundError as error:
        raise ConfigError(f"configuration {path} does not exist") from error
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {text.printable(str(error), 300)}") from error


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"][:-1])
            lines.append(f"unknown key '{text.printable(where)}'{nearest(str(problem['loc'][-1]), known)}")
        elif problem["type"] == "missing":
            lines.append(f"{where!r} is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = problem["input"]
            shown = text.printable(repr(value[:1000] if isinstance(value, str) else value))
            got = "" if problem["type"] == "value_error" else f" (got {shown})"
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
