"""Photographs: folders or data sets in, the splits of a job out; copies of one photograph stay together."""

from training.data.splits import Images, SplitImages, open_splits

__all__ = ["Images", "SplitImages", "open_splits"]
