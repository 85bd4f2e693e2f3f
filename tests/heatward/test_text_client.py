"""Words from outside, as they stand in a message."""

from __future__ import annotations

import pytest
from heatward.cli.text import nearest, printable

from detector.text import printable as detectors


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.png", "a.png"),
        ("café 猫.png", "café 猫.png"),
        ("a\n\x1b[2K.png", "a\\n\\x1b[2K.png"),
        ("b\udce9.png", "b\\xe9.png"),
        ("\u202egnp.a", "\\u202egnp.a"),
        ("\x9b2K", "\\x9b2K"),
        ("x" * 200, "x" * 128 + "…"),
    ],
)
def test_what_cannot_be_shown_is_escaped_as_the_detector_does(text: str, shown: str) -> None:
    assert printable(text) == shown == detectors(text)


def test_all_of_a_text_is_kept_where_that_is_asked_for() -> None:
    assert printable("x" * 200, None) == "x" * 200


def test_the_nearest_word_is_named_and_a_long_one_has_none() -> None:
    assert nearest("tarin", ["train", "serve"]) == "; did you mean 'train'?"
    assert nearest("qqq", ["train", "serve"]) == ""
    assert nearest("train" * 10**6, ["train"]) == ""
