"""Every error heatward raises, with the canonical gRPC code a service answers with.

HeatwardError                     INTERNAL
├── ImageError                    INVALID_ARGUMENT     the caller's image
│   ├── ImageDecodeError                               not an image, truncated, format not allowed
│   ├── ImageTooLargeError                             over the limit of bytes or pixels
│   └── ImageShapeError                                raw tensor: length, shape or range does not fit
├── ClassifierError               FAILED_PRECONDITION  the model under guard
│   ├── ClassifierSpecError                            source, weights or preprocessing cannot be used
│   ├── LayerNotFoundError                             no such layer (names the near ones)
│   ├── NoGradientError                                a gradient method on a model without gradients
│   ├── NonFiniteLogitsError                           the model answered NaN or infinity
│   ├── BlackBoxError                                  the callable failed, or answered no probabilities
│   └── ClassifierUnavailableError UNAVAILABLE         the server of a remote model does not answer
├── HeatmapError                  INVALID_ARGUMENT     a method's settings are out of range
├── BundleError                   FAILED_PRECONDITION  the artefact
│   ├── BundleDamagedError                             a file is missing or its sha256 differs
│   ├── BundleForeignError                             not a heatward bundle
│   ├── BundleVersionError                             written by another schema version
│   ├── FingerprintMismatchError                       made for another classifier
│   └── SignatureError                                 not signed by a trusted key
├── CalibrationError              INVALID_ARGUMENT     too few clean scores, rate out of range
├── ConfigError                   INVALID_ARGUMENT     unknown key, value out of range
├── DataError                     FAILED_PRECONDITION  images, shards or folders that training cannot use
│   └── BusyError                                      another job uses them: try again later
├── StoreError                    UNAVAILABLE          an object store did not give or take what it was asked
└── ClusterError                  UNAVAILABLE          the machines that training was to use
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BlackBoxError",
    "BundleDamagedError",
    "BundleError",
    "BundleForeignError",
    "BundleVersionError",
    "BusyError",
    "CalibrationError",
    "ClassifierError",
    "ClassifierSpecError",
    "ClassifierUnavailableError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "FingerprintMismatchError",
    "HeatmapError",
    "HeatwardError",
    "ImageDecodeError",
    "ImageError",
    "ImageShapeError",
    "ImageTooLargeError",
    "LayerNotFoundError",
    "NoGradientError",
    "NonFiniteLogitsError",
    "SignatureError",
    "StoreError",
]


class HeatwardError(Exception):
    """Base of all our errors. The message names the thing, what was expected, what came and how to mend it."""

    code: ClassVar[str] = "INTERNAL"
    """Name of the canonical gRPC status code."""


class ImageError(HeatwardError):
    """The caller's image cannot be used."""

    code = "INVALID_ARGUMENT"


class ImageDecodeError(ImageError):
    """Not an image, truncated, or in a format that is not allowed."""


class ImageTooLargeError(ImageError):
    """More bytes or pixels than the limit."""


class ImageShapeError(ImageError):
    """A raw tensor whose length, shape or range does not fit."""


class ClassifierError(HeatwardError):
    """The model under guard cannot be used."""

    code = "FAILED_PRECONDITION"


class ClassifierSpecError(ClassifierError):
    """The source, the weights or the preprocessing of a classifier cannot be used."""


class LayerNotFoundError(ClassifierError):
    """No layer of that name."""


class NoGradientError(ClassifierError):
    """A gradient method was asked of a classifier without gradients."""


class NonFiniteLogitsError(ClassifierError):
    """The classifier answered NaN or infinity."""


class BlackBoxError(ClassifierError):
    """A black box raised, or what it answered are not probabilities."""


class HeatmapError(HeatwardError):
    """A heatmap method's settings are out of range."""

    code = "INVALID_ARGUMENT"


class ClassifierUnavailableError(ClassifierError):
    """The server that computes the classifier does not answer: ask again later."""

    code = "UNAVAILABLE"


class BundleError(HeatwardError):
    """The bundle cannot be used."""

    code = "FAILED_PRECONDITION"


class BundleDamagedError(BundleError):
    """A file of the bundle is missing or differs from its sha256."""


class BundleForeignError(BundleError):
    """Not a heatward bundle."""


class BundleVersionError(BundleError):
    """Written by another schema version than this one reads."""


class FingerprintMismatchError(BundleError):
    """The bundle was made for another classifier."""


class SignatureError(BundleError):
    """No trusted key signed the bundle."""


class CalibrationError(HeatwardError):
    """Too few clean scores, or a rate out of range."""

    code = "INVALID_ARGUMENT"


class ConfigError(HeatwardError):
    """A configuration has an unknown key or a value out of range."""

    code = "INVALID_ARGUMENT"


class DataError(HeatwardError):
    """Images, shards or folders that training cannot use."""

    code = "FAILED_PRECONDITION"


class BusyError(DataError):
    """Another job uses a folder: the same command may do later."""


class StoreError(HeatwardError):
    """An object store did not give or take what it was asked."""

    code = "UNAVAILABLE"


class ClusterError(HeatwardError):
    """The cluster that training was to use cannot be reached, has no room, or was lost."""

    code = "UNAVAILABLE"
