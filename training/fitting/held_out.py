"""Which photographs of the fit split a fit leaves out, so that something can be chosen on them afterwards.

The glance networks of a cascade leave them out; its threshold is chosen on them (`training.fitting.glance`). They are
neither calibration nor test images.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ONE_OF", "is_held_out"]

ONE_OF = 8
"""One photograph of so many is left out."""
FACTOR = 2654435761  # 2^32 / golden ratio (Knuth, "The Art of Computer Programming" 3, section 6.4)


def is_held_out(index: Tensor) -> Tensor:
    """Which source images (n,) are left out: by their number alone, with all that is made from them."""
    mixed = (torch.remainder(index, 2**31) * FACTOR) >> 16  # neighbours may be of one class, or every tenth may be
    return torch.remainder(mixed, ONE_OF) == 0
