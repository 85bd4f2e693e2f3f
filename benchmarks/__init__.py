"""Measurements side by side, each a ratio within one run; README.md says which question which one answers.

Run one from the checkout's root: `python -m benchmarks.serving.load`. Fakes are borrowed from `tests/support`.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
