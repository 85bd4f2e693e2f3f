"""What our commands share: words from a shell → **arguments, or one line**; what one raises → **an exit code**."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from heatward.cli.exit_codes import ExitCode

from detector.errors import ClassifierSpecError, ConfigError, HeatwardError, LayerNotFoundError
from detector.text import nearest, printable

__all__ = ["Parser", "exit_code"]

WRITTEN = (ConfigError, ClassifierSpecError, LayerNotFoundError)
"""Errors in what the user wrote."""


LONGEST = 500
"""Characters of a complaint."""


class Parser(argparse.ArgumentParser):
    """Escapes and shortens what it repeats: words may be long and steer a terminal. Names the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong on one line, and exit with 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        word = unknown.split(" ")[0].partition("=")[0]
        if unknown != message and word.startswith("-"):
            message = f"there is no option '{printable(word)}'{nearest(word, self._option_string_actions)}"
        self.exit(ExitCode.MISTAKE, f"{self.prog}: error: {printable(message, LONGEST)} ({self.prog} --help)\n")


def exit_code(command: Callable[[], int]) -> int:
    """What the command returns, or its error said on stderr."""
    try:
        return command()
    except HeatwardError as error:
        print(f"error: {printable(str(error), None)}", file=sys.stderr)
        return ExitCode.MISTAKE if isinstance(error, WRITTEN) else ExitCode.FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return ExitCode.INTERRUPTED
