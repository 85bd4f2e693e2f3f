"""What the commands outside the wheel share: what one raises goes in, a line and an exit code come out."""

from __future__ import annotations

import sys
from collections.abc import Callable

from heatward.cli.exit_codes import ExitCode

from detector.errors import BusyError, ClassifierSpecError, ConfigError, HeatwardError, LayerNotFoundError
from detector.text import printable

__all__ = ["exit_code"]

WRITTEN = (ConfigError, ClassifierSpecError, LayerNotFoundError)
"""Errors in what the user wrote."""


def exit_code(command: Callable[[], int]) -> int:
    """What the command returns, or its error said on stderr."""
    try:
        return command()
    except HeatwardError as error:
        print(f"error: {printable(str(error), None)}", file=sys.stderr)
        if isinstance(error, BusyError):
            return ExitCode.BUSY
        return ExitCode.MISTAKE if isinstance(error, WRITTEN) else ExitCode.FAILED
    except BrokenPipeError:  # heatward.cli knows what to do
        raise
    except OSError as error:  # a full disk, a folder that cannot be written
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {printable(f'{place}{error.strerror or error}', None)}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return ExitCode.INTERRUPTED
