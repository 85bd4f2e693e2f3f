"""Command lines of examples and benchmarks: words go in, checked values come out, a mistake is one line.

`count`, `rate` and the types here are for `ArgumentParser.add_argument(type=…)`; `run` starts a command, and ends the
process.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import count, rate
from pydantic import ValidationError

from detector.errors import ConfigError
from detector.settings import PatchSettings
from training.command import exit_code

__all__ = ["area", "check_out", "count", "masks", "positive", "rate", "run", "whole"]

T = TypeVar("T", int, float)


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    return 0 if text.strip() == "0" else _number(text, count, "a whole number, 0 or more")


def positive(text: str) -> float:
    """A number above 0."""
    number = _number(text, float, "a number above 0")
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number


def area(text: str) -> float:
    """The share of an image under a patch, as `[patches]` takes it."""
    return _patches("area", _number(text, float, "a share of the image, above 0 and at most 0.25")).area


def masks(text: str) -> int:
    """How many masks, as `[patches]` takes it."""
    return _patches("masks", _number(text, int, "a whole number of masks")).masks


def check_out(file: Path) -> None:
    """Say that a file could not be written, before what it is to hold is made.

    Raises:
        ConfigError: It could not.
        OSError: Its folder cannot be made.
    """
    if file.is_dir():
        raise ConfigError(f"{file} is a folder: name a file in it")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        raise ConfigError(f"{file}: nothing can be written into {file.parent}")


def run(main: Callable[[], None]) -> NoReturn:
    """Start a command; ends with 0, or with what was wrong in one line and the exit code of `heatward` for it."""

    def command() -> int:
        main()
        return ExitCode.OK

    raise SystemExit(exit_code(command))


def _number(text: str, kind: Callable[[str], T], expected: str) -> T:
    try:
        return kind(text)
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"'{text}' is not {expected}") from None


def _patches(name: str, value: float) -> PatchSettings:
    try:
        return PatchSettings.model_validate({name: value})
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise argparse.ArgumentTypeError(f"{value}: {said[0].lower()}{said[1:]}") from None
