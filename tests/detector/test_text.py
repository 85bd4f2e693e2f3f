"""Words from outside in messages: cut, escaped, and beside the known word they resemble."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from detector.text import LONGEST, briefly, first_line, nearest, plain, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat.jpg", "cat.jpg"),
        ("Überraschung 猫.jpg", "Überraschung 猫.jpg"),
        ("a\n\x1b[2Kb", "a\\n\\x1b[2Kb"),
        ("b\udce9.png", "b\\xe9.png"),  # a file name that is no UTF-8
        ("left\u202eright", "left\\u202eright"),  # turns what follows around
        ("next\u2028line\x85\x9b", "next\\u2028line\\x85\\x9b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_steers_a_terminal_is_shown_and_not_sent(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()  # always text


def test_of_an_error_the_first_line_is_told_or_its_kind() -> None:
    assert first_line(ValueError("no \x1b such\nTraceback: …")) == "no \\x1b such"
    assert first_line(KeyError()) == "KeyError"


def test_a_long_word_is_cut() -> None:
    assert printable("x" * 10**6) == "x" * LONGEST + "…"
    assert printable("x" * 500, longest=None) == "x" * 500


def test_nearest_names_the_word_that_was_meant() -> None:
    assert nearest("batchsize", ["batch_size", "seed"]) == "; did you mean 'batch_size'?"
    assert nearest("PDG", ["PGD", "FGSM"]) == "; did you mean 'PGD'?"
    assert nearest("zzz", ["batch_size"]) == ""


def test_nearest_compares_no_long_word() -> None:
    assert nearest("images" * 10**6, ["images"], cutoff=0.0) == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_text(encoding: str) -> None:
    assert plain("größe = 1\r\n".encode(encoding)).decode() == "größe = 1\r\n"


def test_what_is_no_utf_16_after_all_is_refused() -> None:
    with pytest.raises(ValueError, match="utf-16"):
        plain(b"\xff\xfea")


def test_of_a_programs_traceback_the_last_line_is_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), torch.rand(1, 3, 8, 8))
    with pytest.raises(RuntimeError, match="TorchScript interpreter") as raised:
        program(torch.rand(1, 3, 3, 3))
    assert briefly(raised.value).startswith("Given input size: (4x1x1)")
    assert briefly(ValueError("two\n lines \x1b[31m")) == r"two lines \x1b[31m"
