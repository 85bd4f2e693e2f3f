"""The command line, the environment and a TOML file, in this order of precedence → **a validated `ServerConfig`**.

In: `argv`, `HEATWARD_SERVE_…` variables, the file that `--config` names. An unknown key, wherever it stands, is a
`ConfigError` that names its nearest neighbour.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, EnvSettingsSource

from detector.errors import ConfigError
from server.config import PREFIX, ServerConfig

__all__ = ["load_config"]


class _Parser(ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            options = [option for action in self._actions for option in action.option_strings]
            raise ConfigError(f"unknown option {_named(unknown.split()[0], options)}")
        raise ConfigError(message)


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
    _refuse_unknown(
        [name.removeprefix(PREFIX).lower() for name in os.environ if name.startswith(PREFIX)], "environment"
    )
    try:
        return ServerConfig(
            **{
                **file,
                **EnvSettingsSource(ServerConfig, env_parse_none_str="null")(),
                **source(parsed_args=arguments)(),
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{key} = {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    _refuse_unknown(content, str(path))
    return content


def _refuse_unknown(keys: Iterable[str], where: str) -> None:
    for key in keys:
        if key not in ServerConfig.model_fields:
            raise ConfigError(f"unknown key {_named(key, list(ServerConfig.model_fields))} in {where}")


def _named(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)
    return f"{word!r}; did you mean {near[0]!r}?" if near else repr(word)
