"""What somebody knows about an image that was judged → **a `FeedbackRequest`**; its answer → `Labelled`."""

from __future__ import annotations

from typing import NamedTuple

from heatward.v1 import feedback_pb2 as pb

__all__ = ["TRUTHS", "Labelled", "feedback_request", "labelled"]

TRUTHS = {
    "false-alarm": pb.TRUTH_FALSE_ALARM,
    "attack": pb.TRUTH_ATTACK,
    "true-label": pb.TRUTH_TRUE_LABEL,
}


class Labelled(NamedTuple):
    """A label that the server keeps."""

    record_id: str
    contradicts: bool
    """Whether an earlier label of the same image says otherwise; the latest counts."""


def feedback_request(name: str, truth: str, true_label: str) -> pb.FeedbackRequest:
    """Checks the arguments.

    Raises:
        TypeError, ValueError: One makes no sense.
    """
    for what, value in (("id", name), ("truth", truth), ("true_label", true_label)):
        if not isinstance(value, str):
            raise TypeError(f"{what} is a str, not {type(value).__name__}")
    if not name:
        raise ValueError("id is empty: give a request id or a record id")
    if truth not in TRUTHS:
        raise ValueError(f"truth is one of {', '.join(TRUTHS)}, not {truth!r}")
    if (truth == "true-label") != bool(true_label):
        raise ValueError("true_label is the class that the image shows, for the truth true-label, and only there")
    return pb.FeedbackRequest(id=name, truth=TRUTHS[truth], true_label=true_label)


def labelled(response: pb.FeedbackResponse) -> Labelled:
    return Labelled(response.record_id, response.contradicts)
