"""Images from outside: a file's bytes or raw pixels in, (H, W, 3) uint8 RGB out, within limits. Needs no torch."""

from detector.images.decoding import DEFAULT_LIMITS, ImageLimits, decode, from_raw

__all__ = ["DEFAULT_LIMITS", "ImageLimits", "decode", "from_raw"]
