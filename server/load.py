"""The command line, the environment and a TOML file, in this order of precedence → **a validated `ServerConfig`**.

In: `argv`, `HEATWARD_SERVE_…` variables, the file that `--config` names. An unknown key, wherever it stands, is a
`ConfigError` that names its nearest neighbour. Variables that Kubernetes made of a Service are passed over.
"""

from __future__ import annotations

import os
import re
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, EnvSettingsSource, SettingsError

from detector.errors import ConfigError
from detector.service_variables import service_variables
from detector.text import nearest, plain, printable
from server.config import PREFIX, ServerConfig

__all__ = ["load_config"]

USER = re.compile(r"((?<=//)|^)[^/\s]+(?=@)")
"""What stands before a host may be a password."""


class _Parser(ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise ConfigError(printable(message, 300))
        word = unknown.split()[0]
        if not word.startswith("-"):
            raise ConfigError(f"unexpected word '{printable(word)}': one bundle, everything else is an option")
        if word.partition("=")[0] == "--bundle":
            raise ConfigError("unknown option '--bundle': the bundle stands alone, heatward serve BUNDLE")
        name = word.partition("=")[0]  # what follows may be a secret
        options = [option for action in self._actions for option in action.option_strings]
        raise ConfigError(f"unknown option {_named(name, options)}")


def load_config(argv: Sequence[str]) -> ServerConfig:
    """Merges the command line over the environment over the TOML file.

    Args:
        argv: What follows `heatward serve`.

    Raises:
        ConfigError: A key is unknown (names the nearest one) or a value is out of range.
        SystemExit: `--help` was asked for.
    """
    parser = _Parser(
        prog="heatward serve",
        description="Serves a detector over gRPC: images in, verdicts out.",
        epilog=f"Every option may also stand in the environment ({PREFIX}MAX_BATCH=8) or in the TOML file"
        " (max_batch = 8). The command line wins over the environment, the environment over the file.",
        allow_abbrev=False,
    )
    # pydantic-settings takes the class itself for the type of its settings; the stub is narrower than the code
    source: CliSettingsSource[Any] = CliSettingsSource(ServerConfig, root_parser=parser, cli_hide_none_type=True)
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with any of these settings")
    arguments = parser.parse_args(list(argv))
    file = _read_toml(arguments.config) if arguments.config else {}
    try:
        return ServerConfig(**{**file, **_environment(), **source(parsed_args=arguments)()})
    except SettingsError as error:
        raise ConfigError(printable(str(error), 300)) from None
    except ValidationError as error:
        raise ConfigError(_said(error)) from None


def _said(error: ValidationError) -> str:
    """The first fault, on one line."""
    first = error.errors()[0]
    key = ".".join(printable(str(part)) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    if value is None or "what a file may hold" in message:
        return f"{key}: {message}"
    shown = USER.sub("…", value[:1000]) if isinstance(value, str) else str(value)
    quote = "'" * isinstance(value, str)
    return f"{key} = {quote}{printable(shown)}{quote}: {message[:1].lower()}{message[1:]}"


def _environment() -> dict[str, Any]:
    made_by_services = {name.lower() for name in service_variables(os.environ, PREFIX)}
    source = EnvSettingsSource(ServerConfig, env_parse_none_str="null")
    source.env_vars = {name: value for name, value in source.env_vars.items() if name.lower() not in made_by_services}
    prefix = PREFIX.lower()
    known = [name.lower().removeprefix(prefix) for name in source.env_vars if name.lower().startswith(prefix)]
    _refuse_unknown(known, "the environment")
    return source()


def _read_toml(path: Path) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(plain(path.read_bytes()).decode())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the configuration {path} is no TOML: {printable(str(error), 300)}") from error
    _refuse_unknown(content, str(path))
    return {name: None if value == "null" else value for name, value in content.items()}


def _refuse_unknown(keys: Iterable[str], where: str) -> None:
    for key in keys:
        if key not in ServerConfig.model_fields:
            raise ConfigError(f"unknown key {_named(key, list(ServerConfig.model_fields))} in {where}")


def _named(word: str, known: list[str]) -> str:
    return f"'{printable(word)}'{nearest(word, known, cutoff=0.0)}"
