"""What our commands share: words from a shell → **arguments, or one line**; what a command raises → **an exit code**.

0: done. 1: the job failed, the message says why. 2: the command line or the configuration is wrong. 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

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
        self.exit(2, f"{self.prog}: error: {printable(message, LONGEST)} ({self.prog} --help)\n")


def exit_code(command: Callable[[], int]) -> int:
    """What the command returns, or its error said on stderr."""
    try:
        return command()
    except HeatwardError as error:
        print(f"error: {printable(str(error), None)}", file=sys.stderr)
        return 2 if isinstance(error, WRITTEN) else 1
    except OSError as error:  # a full disk, a folder that cannot be written
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {printable(f'{place}{error.strerror or error}', None)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
