"""What a server does not tell a caller is None, and never looks like an answer."""

from __future__ import annotations

from collections.abc import Iterator

import heatward
import pytest
from fake_servicer import FakeServer


@pytest.fixture
def client(server: FakeServer) -> Iterator[heatward.Client]:
    with heatward.Client(server.address) as opened:
        yield opened


@pytest.mark.parametrize("content", [b"image", b"attacked"])
def test_told_nothing_an_image_is_neither_attacked_nor_clean(
    client: heatward.Client, server: FakeServer, content: bytes
) -> None:
    server.detector.disclosure = "none"
    verdict = client.detect(content)
    assert verdict.predicted.name == "dog" and len(verdict.top) == 2
    for name in ("attacked", "false_positive_rate", "p_value", "attack_score", "corrected", "timings", "error_rate"):
        assert getattr(verdict, name) is None, name
    assert verdict.recovered == ()


def test_told_the_verdict_alone_the_numbers_are_missing(client: heatward.Client, server: FakeServer) -> None:
    server.detector.disclosure = "verdict"
    (attacked, clean) = client.detect_batch([b"attacked", b"image"])
    assert isinstance(attacked, heatward.Verdict) and isinstance(clean, heatward.Verdict)
    assert (attacked.attacked, clean.attacked, clean.false_positive_rate) == (True, False, 0.01)
    assert (clean.p_value, clean.attack_score, clean.corrected, clean.timings) == (None,) * 4
    with pytest.raises(ValueError, match="a p-value is None: the server does not tell it"):
        heatward.discoveries([attacked.p_value, clean.p_value], 0.05)
