"""matplotlib, for drawing into files: no window, no backend, and no setting of whoever started this process.

A notebook names its own backend in MPLBACKEND, a module that lies in its environment only; a user's matplotlibrc may
ask for TeX. Whoever has imported matplotlib before keeps what they set.
"""

from __future__ import annotations

import os
import sys

if "matplotlib" not in sys.modules:
    _inherited = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
    finally:
        if _inherited is not None:
            os.environ["MPLBACKEND"] = _inherited
    mpl.rcdefaults()
import matplotlib as mpl
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

__all__ = [
    "Axes",
    "FancyBboxPatch",
    "Figure",
    "FigureCanvasAgg",
    "LinearSegmentedColormap",
    "Rectangle",
    "colormaps",
    "mpl",
]
