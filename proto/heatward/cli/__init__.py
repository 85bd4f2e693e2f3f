"""The `heatward` command: words from a shell go in, lines and an exit code come out.

`app.py` picks a command. Those that need nothing but the client stand here, each a function (argv) -> exit code.
"""

from heatward.cli.app import main as main

__all__ = ["main"]
