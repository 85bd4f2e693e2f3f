"""A loaded detector and the one that answers by default → **nothing, where both guard one classifier, or a refusal**.

Callers were promised verdicts on their classifier's answers, under its class names. A detector trained or calibrated
anew keeps both; with another fingerprint or other classes, its labels are answers to another question.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from detector.classifier import Classifier
from detector.errors import FingerprintMismatchError
from detector.text import printable

__all__ = ["refuse_other"]

NAMED = 3
"""Most classes that the refusal names."""


def refuse_other(bundle: str, new: Classifier, current: Classifier) -> None:
    """Lets a detector of the same classifier pass.

    Args:
        bundle: What the refusal calls it.
        new: Its classifier.
        current: That of the detector that answers by default.

    Raises:
        FingerprintMismatchError: It guards another one, or other classes.
    """
    if new.fingerprint == current.fingerprint and tuple(new.classes) == tuple(current.classes):
        return
    raise FingerprintMismatchError(
        f"{bundle} guards another classifier: the current one has the fingerprint {current.fingerprint}, this one "
        f"{new.fingerprint}; {_difference(current.classes, new.classes)}. Name a bundle for the same classifier, or "
        "set allow_other_classifier"
    )


def _difference(old: Sequence[str], new: Sequence[str]) -> str:
    """In what the classes differ, in few words."""
    if tuple(old) == tuple(new):
        return f"the {len(old)} classes are the same"
    pairs = [(place, was, now) for place, (was, now) in enumerate(zip_longest(old, new)) if was != now]
    named = ", ".join(f"{place}: {_name(was)} → {_name(now)}" for place, was, now in pairs[:NAMED])
    more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    size = f"{len(old)} → {len(new)} classes, " if len(old) != len(new) else ""
    return f"its classes differ ({size}{named}{more})"


def _name(label: str | None) -> str:
    return "none" if label is None else f"'{printable(label, 40)}'"
