"""What our commands share: words from a shell → **arguments, or one line**; what a command raises → **an exit code**.

0: done. 1: the job failed, the message says why. 2: the command line or the configuration is wrong. 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from detector.errors import ClassifierSpecError, ConfigError, HeatwardError, LayerNotFoundError
from detector.text import printable

__all__ = ["Parser", "exit_code"]

WRITTEN = (ConfigError, ClassifierSpecError, LayerNotFoundError)
"""Errors in what the user wrote."""


class Parser(argparse.ArgumentParser):
    """Escapes what it repeats: words may steer a terminal."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        super().error(printable(message, None))


def exit_code(command: Callable[[], int]) -> int:
    """What the command returns, or its error said on stderr."""
    try:
        return command()
    except HeatwardError as error:
        print(f"error: {printable(str(error), None)}", file=sys.stderr)
        return 2 if isinstance(error, WRITTEN) else 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
