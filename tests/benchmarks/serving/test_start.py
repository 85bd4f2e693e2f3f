"""How the benchmarks start a server."""

from __future__ import annotations

from benchmarks.serving.measures import Cost
from benchmarks.serving.start import command


def test_settings_take_the_place_of_defaults_however_they_are_spelt() -> None:
    words = command("stand-in", Cost(0.1, 0.2), bundle="some.heatward", metrics_port=0, **{"queue-items": 7})
    assert words[3:7] == ["stand-in", "0.1", "0.2", "some.heatward"]
    settings = dict(zip(words[7::2], words[8::2], strict=True))
    assert settings == {"--port": "0", "--metrics-port": "0", "--threads": "1", "--queue-items": "7"}


def test_a_bare_server_has_no_settings() -> None:
    assert command("bare", port=1)[3:] == ["bare"]
