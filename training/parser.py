"""The command line's words, as our commands read them: a wrong one is answered in one line, whatever it holds."""

from __future__ import annotations

import argparse
from typing import NoReturn

from detector.text import nearest, printable

__all__ = ["Parser"]

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
