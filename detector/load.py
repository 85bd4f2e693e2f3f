"""Flags, environment variables and a TOML file, in this order of precedence → **validated settings**.

Variables that Kubernetes made of a Service are passed over. Whatever is wrong is a `ConfigError` on one short line: an
unknown key with its nearest neighbour, a value with what was expected of it, and none that may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from detector.errors import ConfigError
from detector.service_variables import service_variables
from detector.text import nearest, printable
from detector.toml import read_toml

__all__ = ["SECRET", "check_variables", "environment", "load_settings"]

S = TypeVar("S", bound=BaseSettings)

SECRET = "secret"
"""Type of a `PydanticCustomError` whose value must not be shown."""
USER = re.compile(r"((?<=//)|^)[^/\s]+(?=@)")
"""What stands before a host may be a password."""
UNREAD = re.compile(r'error parsing value for field "([^"]+)"')
"""What pydantic-settings says of a variable that is no JSON."""
MUCH = 0.75
"""How alike a variable and a setting are where the one is the other, misspelt."""
BRANCH = re.compile(r"(constrained-)?(int|float|str|bool|dict|list)|.*\[.*")
"""What pydantic writes into the place of a value that may be of several types."""


def load_settings(
    kind: type[S], flags: Mapping[str, Any], file: Path | None = None, *, without: Collection[str] = ()
) -> S:
    """Merges flags over the environment over the file.

    Args:
        kind: The settings; its `env_prefix` begins the names of their variables.
        flags: From the command line.
        without: Keys of the file that do not count.
        file: In TOML (`detector.toml`). Where the settings have an `env_parse_none_str`, it stands for None there, too.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or a value is out of range.
    """
    content = {} if file is None else {key: value for key, value in read_toml(file).items() if key not in without}
    null = kind.model_config.get("env_parse_none_str")
    content = {key: None if null is not None and value == null else value for key, value in content.items()}

    class Loaded(kind):  # type: ignore[valid-type,misc]
        __doc__ = kind.__doc__

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_others: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, environment(settings_cls), InitSettingsSource(settings_cls, content)

    try:
        loaded: S = Loaded(**flags)
    except ValidationError as error:
        problems = error.errors()
        spoilt = {problem["loc"][:end] for problem in problems for end in range(len(problem["loc"]))}
        problems = [each for each in problems if each["type"] != "too_short" or each["loc"] not in spoilt]
        lines = [_explain(problem, kind, f"{file}: ", content) for problem in problems]
        raise ConfigError("; ".join(lines)) from None
    except SettingsError as error:
        raise ConfigError(_unread(kind, str(error))) from None
    except RecursionError:
        raise ConfigError("the settings nest too deep") from None
    return loaded


def environment(kind: type[BaseSettings]) -> EnvSettingsSource:
    """The variables of these settings, without those of Services."""
    source = EnvSettingsSource(kind)
    services = {name.lower() for name in service_variables(os.environ, kind.model_config.get("env_prefix", ""))}
    source.env_vars = {name: value for name, value in source.env_vars.items() if name.lower() not in services}
    return source


def check_variables(kind: type[BaseSettings], *, others: Collection[str] | None = None) -> None:
    """See that no variable with the prefix of these settings is a misspelt one, which nobody would read.

    Args:
        kind: The settings.
        others: What follows the prefix in variables that are not of these settings, where they share it: then a name
            is misspelt where it resembles a setting much, or names a table that there is not.

    Raises:
        ConfigError: One is; the nearest name is told.
    """
    prefix, known = kind.model_config.get("env_prefix", "").lower(), list(kind.model_fields)
    for name in environment(kind).env_vars:
        key = name.lower().removeprefix(prefix).partition(kind.model_config.get("env_nested_delimiter") or "\0")
        if not name.lower().startswith(prefix) or key[0] in known:
            continue
        alike = nearest(key[0], known, cutoff=0.0)
        if others is not None:
            of_others = any(key[0] == each or (each.endswith("_") and key[0].startswith(each)) for each in others)
            if of_others or not (key[1] or nearest(key[0], known, cutoff=MUCH)):
                continue
        raise ConfigError(f"unknown key '{printable(key[0])}'{alike} in the environment ({printable(name.upper())})")


def _unread(kind: type[BaseSettings], said: str) -> str:
    """Which variable could not be read as what its setting holds, and how that is written."""
    found = UNREAD.search(said)
    if found is None:
        return f"environment: {printable(said, 300)}"
    name = f"{kind.model_config.get('env_prefix', '')}{found[1]}".upper()
    return f'environment variable {name}: expected JSON, such as \'["a", "b"]\' for a list: mend it, or unset it'


def _explain(problem: Any, kind: type[BaseModel], file: str, content: Mapping[str, Any]) -> str:
    place, value = problem["loc"], problem["input"]
    key = ".".join(printable(str(part)) for part in place if not BRANCH.fullmatch(str(part)))
    missing = problem["type"] == "missing"  # its value is the table that lacks it
    where = file if (place and place[0] in content if missing else _stands_in(content, place, value)) else ""
    if problem["type"] == "extra_forbidden":
        return f"{where}unknown key '{key}'{nearest(str(place[-1]), _known_keys(kind, place[:-1]), cutoff=0.0)}"
    if missing:
        return f"{where}'{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != SECRET and isinstance(value, str | int | float):
        shown = printable(USER.sub("…", value[:1000]) if isinstance(value, str) else str(value))
        key += f" = '{shown}'" if isinstance(value, str) else f" = {shown}"
    return f"{where}{key}: {message[:1].lower()}{message[1:]}" if key else message


def _stands_in(content: Any, place: tuple[int | str, ...], value: object) -> bool:
    """Whether a value that is wrong is the file's, and not that of a flag or a variable, which won over it."""
    found = content
    for part in place:
        inside = part in found if isinstance(found, Mapping) else isinstance(found, list) and part in range(len(found))
        if inside:
            found = found[part]
        elif isinstance(found, str) and isinstance(part, int):
            return str(value) in found
        elif not BRANCH.fullmatch(str(part)):
            return False
    return bool(place) and (found is value or found == value)


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    for part in place:
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
