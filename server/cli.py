"""`heatward serve`: command line → settings → a running server → exit status."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

from heatward.cli.exit_codes import ExitCode

from detector.errors import ConfigError
from detector.malloc import keep_freed_memory
from server.load import load_config
from server.surroundings import pass_over

__all__ = ["serve"]


def serve(argv: Sequence[str]) -> int:
    """Runs `heatward serve` with what follows it on the command line."""
    try:
        config = load_config(argv)
    except ConfigError as error:
        print(f"heatward serve: {error}", file=sys.stderr)
        return ExitCode.MISTAKE
    keep_freed_memory()
    passed_over = pass_over(os.environ)
    from server import app  # torch takes seconds to import: not before the settings are known to be good

    return _ended(app.run(config, passed_over=passed_over))


def _ended(status: int) -> int:
    """The exit status; where a thread still computes, as one that loads a bundle, the process ends here and now.

    Python's own end would stop such a thread in the middle of torch, which answers that with SIGABRT.
    """
    if any(each.daemon and each.name.startswith("heatward-") for each in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
