"""An image as it came, a file or 8-bit pixels → **an `ImageSource`**: what it weighs, and how it is read later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.errors import ImageError
from detector.images import ImageLimits, decode, from_raw
from server.errors import RequestError

__all__ = ["ImageSource", "encoded", "raw"]


@dataclass(slots=True)
class ImageSource:
    """An image that has not been decoded yet."""

    field: str
    """Its path in the caller's message, for errors."""
    size_bytes: int
    """As it came."""
    read: Callable[[ImageLimits], NDArray[np.uint8]]
    """Gives (H, W, 3) pixels."""
    raw_size: tuple[int, int] | None = None
    """(H, W), where it is read by no more than a copy."""
    file: bytes | None = None
    """As it came, where it came as a file."""

    def decode(self, limits: ImageLimits) -> NDArray[np.uint8]:
        """Reads it.

        Raises:
            RequestError: The image cannot be used.
        """
        try:
            return self.read(limits)
        except ImageError as error:
            raise RequestError(self.field, str(error)) from error

    def content(self, limits: ImageLimits) -> bytes:
        """The file as it came, or its pixels (H, W, 3) where it came as pixels."""
        return self.decode(limits).tobytes() if self.file is None else self.file


def encoded(data: bytes, field: str) -> ImageSource:
    """A JPEG, PNG or WebP file."""
    return ImageSource(field, len(data), lambda limits: decode(data, limits), file=data)


def raw(pixels: bytes, height: int, width: int, channels: int, field: str) -> ImageSource:
    """Pixels, row by row, as many as the shape says."""
    return ImageSource(
        field,
        len(pixels),
        lambda limits: from_raw(pixels, height, width, channels, limits),
        (height, width),
    )
