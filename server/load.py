"""The command line, the environment and a TOML file, in this order of precedence → **a validated `ServerConfig`**.

In: `argv`, `HEATWARD_SERVE_…` variables, the file that `--config` names. An unknown key, wherever it stands, is a
`ConfigError` that names its nearest neighbour.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic_settings import CliSettingsSource

from detector.errors import ConfigError
from detector.load import check_variables, load_settings
from detector.text import nearest, printable
from server.config import PREFIX, ServerConfig

__all__ = ["load_config"]


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
    check_variables(ServerConfig)
    return load_settings(ServerConfig, source(parsed_args=arguments)(), arguments.config)


def _named(word: str, known: list[str]) -> str:
    return f"'{printable(word)}'{nearest(word, known, cutoff=0.0)}"
