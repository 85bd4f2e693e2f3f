"""What every protocol asks of a request's options, with the field's path in the caller's message for the error."""

from __future__ import annotations

from detector.scoring.calibration import RATES
from server.access.disclosure import Disclosure
from server.errors import RequestError
from server.models.served_model import ServedModel

__all__ = ["MAX_ID_BYTES", "MAX_TOP_K", "checked_effort", "checked_error_rate", "checked_id", "checked_rate"]

MAX_TOP_K = 5
MAX_ID_BYTES = 128


def checked_id(request_id: str, field: str) -> str:
    """The request's id.

    Raises:
        RequestError: It is too long.
    """
    if len(request_id.encode()) > MAX_ID_BYTES:
        raise RequestError(field, f"at most {MAX_ID_BYTES} bytes")
    return request_id


def checked_rate(
    asked: float | None, model: ServedModel, field: str, disclosure: Disclosure = Disclosure.FULL
) -> float:
    """The false-positive rate that was asked for, or the model's own.

    Whoever may name any rate finds the p-value by halving: a caller who is told the verdict alone gets the next smaller
    of few rates, and one who is told nothing the model's own, so that nobody chooses whether he is found out.

    Raises:
        RequestError: It is out of range, or less than the calibration can promise.
    """
    if asked is None:
        return model.default_rate
    if not 0 < asked < 1:
        raise RequestError(field, f"between 0 and 1 (exclusive), but came {asked}")
    if disclosure is Disclosure.NONE:
        return model.default_rate
    if asked < model.smallest_rate:
        raise RequestError(
            field,
            f"{asked} is less than the detector's calibration can promise; the smallest rate is "
            f"{model.smallest_rate:.3g}",
        )
    if disclosure is Disclosure.VERDICT:
        steps = model.smallest_rate, model.default_rate, *RATES
        return max(rate for rate in steps if model.smallest_rate <= rate <= asked)
    return asked


def checked_effort(
    look_for_patches: bool, model: ServedModel, field: str, disclosure: Disclosure = Disclosure.FULL
) -> ServedModel:
    """The model that does what was asked for; a caller who would not be told of patches has nobody look for them.

    Raises:
        RequestError: It was not made for that.
    """
    if not look_for_patches or disclosure is not Disclosure.FULL:
        return model
    if model.looking_for_patches is None:
        raise RequestError(field, "the detector's bundle was not made to look for patches: leave it out")
    return model.looking_for_patches


def checked_error_rate(
    asked: float | None, model: ServedModel, field: str, disclosure: Disclosure = Disclosure.FULL
) -> float | None:
    """The share of wrong predictions that a caller bears; None where none was named, or no more than a verdict is told.

    Raises:
        RequestError: It is out of range, less than the calibration can promise, or nothing is promised.
    """
    if asked is None:
        return None
    if not 0 < asked < 1:
        raise RequestError(field, f"between 0 and 1 (exclusive), but came {asked}")
    if disclosure is not Disclosure.FULL:
        return None
    smallest = model.smallest_error_rate
    if smallest is None:
        raise RequestError(field, "the detector's bundle promises no error rate of predictions: leave it out")
    if asked < smallest:
        raise RequestError(
            field,
            f"{asked} is less than the detector's calibration can promise; the smallest error rate is {smallest:.3g}",
        )
    return asked
