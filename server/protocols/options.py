"""What every protocol asks of a request's options, with the field's path in the caller's message for the error."""

from __future__ import annotations

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


def checked_rate(asked: float | None, model: ServedModel, field: str) -> float:
    """The false-positive rate that was asked for, or the model's own.

    Raises:
        RequestError: It is out of range, or less than the calibration can promise.
    """
    if asked is None:
        return model.default_rate
    if not 0 < asked < 1:
        raise RequestError(field, f"between 0 and 1 (exclusive), but came {asked}")
    if asked < model.smallest_rate:
        raise RequestError(
            field,
            f"{asked} is less than the detector's calibration can promise; the smallest rate is "
            f"{model.smallest_rate:.3g}",
        )
    return asked


def checked_effort(look_for_patches: bool, model: ServedModel, field: str) -> ServedModel:
    """The model that does what was asked for.

    Raises:
        RequestError: It was not made for that.
    """
    if not look_for_patches:
        return model
    if model.looking_for_patches is None:
        raise RequestError(field, "the detector's bundle was not made to look for patches: leave it out")
    return model.looking_for_patches


def checked_error_rate(asked: float | None, model: ServedModel, field: str) -> float | None:
    """The share of wrong predictions that a caller bears; None where none was named.

    Raises:
        RequestError: It is out of range, less than the calibration can promise, or nothing is promised.
    """
    if asked is None:
        return None
    if not 0 < asked < 1:
        raise RequestError(field, f"between 0 and 1 (exclusive), but came {asked}")
    smallest = model.smallest_error_rate
    if smallest is None:
        raise RequestError(field, "the detector's bundle promises no error rate of predictions: leave it out")
    if asked < smallest:
        raise RequestError(
            field,
            f"{asked} is less than the detector's calibration can promise; the smallest error rate is {smallest:.3g}",
        )
    return asked
