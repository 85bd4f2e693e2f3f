"""8-bit images on the host → **a batch in [0, 1] on the engine's device**, in a stream of its own.

Bytes travel, a quarter of the floats that the device makes of them. For a GPU they are put together in page-locked
memory, from which a copy need not wait (NVIDIA, "CUDA C++ Best Practices Guide", on asynchronous transfers). The stream
keeps what an engine computes apart from a detector that is loaded and warmed up beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.classifier.preprocessing import to_images

__all__ = ["Staging"]


class Staging:
    """Of one engine; only its thread may use it.

    Args:
        device: "cpu", "cuda:1", …
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._locked = torch.empty(0, dtype=torch.uint8)

    def stream(self) -> AbstractContextManager[object]:
        """Within it, this thread computes on the device in a stream of its own."""
        if self._device.type != "cuda":
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]

    def batch(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images (H, W, 3) → (B, 3, H, W) in [0, 1] on the device.

        The page-locked memory is used again by the next batch: until then this one must have been computed. `detect`
        ends with copies to the host, which wait for that.
        """
        if self._device.type != "cuda":
            return to_images(torch.from_numpy(np.array(images)))
        shape = (len(images), *images[0].shape)
        if self._locked.shape[0] < shape[0] or self._locked.shape[1:] != shape[1:]:
            self._locked = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        staged = self._locked[: shape[0]]
        np.stack(images, out=staged.numpy())
        return to_images(staged.to(self._device, non_blocking=True))
