"""The command line's words, as our commands read them: a wrong one is answered in one line, whatever it holds."""

from __future__ import annotations

import argparse
from typing import NoReturn

from detector.text import printable

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """Escapes what it repeats: words may steer a terminal."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        super().error(printable(message, None))
