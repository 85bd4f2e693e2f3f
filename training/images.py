"""What a training job is told of its images: the table `[images]`, as frozen pydantic models without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from training.settings import Settings

__all__ = ["SPLITS", "ImagesConfig", "Split", "Splits"]

Split = Literal["fit", "calibrate", "test", "tune"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Splits(Settings):
    """How many source images each split gets: an integer counts images, a float is a share of the source.

    Where `images.grows`, all are shares: an image's split is drawn from a hash of its pixels.
    """

    fit: int | float | None = None
    """For training the heatmap network. Default: all that the others leave."""
    calibrate: int | float | None = None
    """Clean images that set the thresholds. 1 % false positives need at least 99 of them, 0.1 % need 999. Default: all
    of `calibrate_source`, or 0.2 of `source` when there is none."""
    test: int | float | None = None
    """For the evaluation. Default: all of `test_source`, or 0.2 of `source` when there is none."""
    tune: int | float = 0
    """Clean images held out, from what the others leave, for what is chosen after the fit: attacked and attributed like
    the others, but nothing uses them yet."""


class ImagesConfig(Settings):
    """Where images come from."""

    source: str
    """A folder of class folders, the URL of one (`s3://bucket/photos`), or `torchvision:NAME` with `root`."""
    test_source: str | None = None
    """The same for the test split. Default: a part of `source`. A torchvision data set is read with `train=False`."""
    calibrate_source: str | None = None
    """The same for the calibrate split, such as recent traffic that nobody attacked. Default: a part of `source`."""
    fit_sources: tuple[str, ...] = ()
    """More of the same for the fit split, beside its part of `source`."""
    root: Path = Path("data")
    """Where torchvision data sets lie, and copies of what URLs name."""
    labelled: bool = True
    """False: folders mean nothing, truths are unknown, every image below `source` is used."""
    first: int | None = Field(default=None, ge=1)
    """Use only the first so many images of each class of `source` (by file name)."""
    last: int | None = Field(default=None, ge=1)
    """Use only the last so many images of each class of `source`."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most so many images of `source`, classes in turn."""
    splits: Splits = Splits()
    grows: bool = False
    """True, for folders that images are added to: an image keeps its split for life, and new images make new shards and
    nothing else (docs/retraining.md). False, for a fixed data set: splits and shards are dealt anew when it changes."""
    near_copies: int = Field(default=0, ge=0, le=32)
    """Copies of one photograph stay in one split. 0: images of the same pixels are copies. More: also those whose
    difference hashes (64 bits) differ in at most so many bits; 4 finds most that were saved again or scaled."""
    skip_unreadable: bool = False
    """True: leave out images that cannot be read, and count them. False: stop with an error that names the file."""

    @model_validator(mode="after")
    def _one_end(self) -> ImagesConfig:
        if self.first is not None and self.last is not None:
            raise ValueError("give `first` or `last`, not both")
        return self

    @model_validator(mode="after")
    def _grows_by_shares(self) -> ImagesConfig:
        if not self.grows:
            return self
        if self.limit is not None:
            raise ValueError("limit: images that grow are not dealt in turns, so there are no first ones; leave it out")
        for name, value in self.splits:
            if isinstance(value, int) and value > 0:
                raise ValueError(f"splits.{name}: {value} is a count; where images.grows, give a share such as 0.2")
        for name, given in (("test", self.test_source), ("calibrate", self.calibrate_source)):
            if given is not None and getattr(self.splits, name) is not None:
                raise ValueError(f"splits.{name}: all of {name}_source is used where images.grows; leave it out")
        if min(self.shares.values()) < 0 or sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"splits: shares must lie in [0, 1] and add up to 1 at most, got {self.shares}")
        return self

    @property
    def shares(self) -> dict[Split, float]:
        """Shares of `source`, where images grow."""
        given = self.splits
        test = 0.0 if self.test_source else 0.2 if given.test is None else given.test
        calibrate = 0.0 if self.calibrate_source else 0.2 if given.calibrate is None else given.calibrate
        fit = max(0.0, 1 - test - calibrate - given.tune) if given.fit is None else given.fit
        return {"test": test, "calibrate": calibrate, "tune": given.tune, "fit": fit}
