"""The oracle that is a server: it may go away and come back, and must be the right one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from fake_servicer import FakeServer
from heatward.client.values import Failure
from heatward.errors import DetectionError

from detector.errors import ConfigError, DataError, FingerprintMismatchError
from training.progress import SilentProgress
from training.redteam.blackbox import Goal
from training.redteam.remote import ServerOracle, open_client

FINGERPRINT = "f" * 64


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class FakeClient:
    """Answers by an image's first value; `troubles` come first."""

    def __init__(self, *troubles: str, fingerprint: str = FINGERPRINT, told: str = "full") -> None:
        self.told = told
        self.troubles: Iterator[str] = iter(troubles)
        self.fingerprint, self.version, self.batches = fingerprint, "v1", []  # type: ignore[var-annotated]

    def describe(self) -> Any:
        classifier = SimpleNamespace(fingerprint=self.fingerprint, classes=("a", "b", "c"))
        return SimpleNamespace(
            classifier=classifier,
            version=self.version,
            default_false_positive_rate=0.0 if self.told == "none" else 0.01,
            calibration_size=199 if self.told == "full" else 0,
        )

    def detect_batch(self, images: list[Any], *, false_positive_rate: float) -> list[Any]:
        self.batches.append(len(images))
        trouble = next(self.troubles, "")
        if trouble == "half":
            failed = Failure("UNAVAILABLE", "gone")
            return [self.verdict(image) if at % 2 else failed for at, image in enumerate(images)]
        if trouble:
            raise DetectionError(trouble, "it says\nso")
        return [self.verdict(image) for image in images]

    def verdict(self, image: Any) -> Any:
        index = int(image[0, 0, 0]) % 3
        label = SimpleNamespace(index=index, probability=0.75)
        return SimpleNamespace(
            predicted=label,
            top=(label,),
            p_value=0.25 if self.told == "full" else None,
            attacked=None if self.told == "none" else index == 1,
            detector_version=self.version,
        )


def oracle(client: FakeClient, progress: Notes | None = None, patience_s: float = 60.0) -> ServerOracle:
    said = progress or Notes()
    return ServerOracle(client, 0.05, FINGERPRINT, said, patience_s=patience_s, sleep=lambda seconds: None)  # type: ignore[arg-type]


IMAGES = torch.arange(5).view(5, 1, 1, 1).expand(5, 3, tiny.SIDE, tiny.SIDE) / 255


def test_answers_are_the_servers() -> None:
    asked = oracle(FakeClient())
    said = asked.ask(IMAGES)
    assert said.label.tolist() == [0, 1, 2, 0, 1] and said.flagged.tolist() == [False, True, False, False, True]
    assert said.probability.shape == (5, 3) and said.p_value.tolist() == [0.25] * 5 and asked.asked == 5


@pytest.mark.parametrize(
    ("told", "flagged", "note"),
    [("verdict", [False, True, False, False, True], "no p-value"), ("none", [False] * 5, "a wrong label alone")],
)
def test_what_a_server_does_not_tell_the_attacker_does_not_see(told: str, flagged: list[bool], note: str) -> None:
    progress = Notes()
    asked = oracle(FakeClient(told=told), progress)
    said = asked.ask(IMAGES)
    assert asked.told == told and said.label.tolist() == [0, 1, 2, 0, 1]
    assert said.p_value.isnan().all() and said.flagged.tolist() == flagged
    assert len(progress.notes) == 1 and note in progress.notes[0]
    assert Goal(asked, torch.ones(5, dtype=torch.long), 0.05).reached(IMAGES, torch.arange(5)).tolist() == [
        True, False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("trouble", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
def test_a_server_that_is_gone_is_waited_for(trouble: str) -> None:
    progress, client = Notes(), FakeClient(trouble, trouble, trouble)
    assert oracle(client, progress).ask(IMAGES).label.tolist() == [0, 1, 2, 0, 1]
    why = f"the server does not answer ({trouble}: it says so): waiting for it, at most 60 s (patience_s)"
    assert progress.notes == [why, "the server is back"]


def test_only_images_without_an_answer_are_asked_about_again() -> None:
    client = FakeClient("half")
    assert oracle(client).ask(IMAGES).label.tolist() == [0, 1, 2, 0, 1]
    assert client.batches == [5, 3]


def test_patience_ends() -> None:
    with pytest.raises(DataError, match="the same command goes on from here"):
        oracle(FakeClient(*["UNAVAILABLE"] * 50), patience_s=5).ask(IMAGES)


@pytest.mark.parametrize(
    ("trouble", "said"), [("UNAUTHENTICATED", "--token-file"), ("INVALID_ARGUMENT", "INVALID_ARGUMENT: it says so")]
)
def test_who_refuses_is_not_waited_for(trouble: str, said: str) -> None:
    client = FakeClient(trouble)
    with pytest.raises(DataError, match=said):
        oracle(client).ask(IMAGES)
    assert client.batches == [5]


def test_another_classifier_or_detector_is_refused() -> None:
    with pytest.raises(FingerprintMismatchError, match="the same bundle"):
        oracle(FakeClient(fingerprint="0" * 64))
    client = FakeClient()
    asked = oracle(client)
    client.version = "v2"
    with pytest.raises(DataError, match="another detector"):
        asked.ask(IMAGES)


def test_a_client_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--token-file"):
        open_client("localhost:1", tmp_path / "none", None)
    with pytest.raises(ConfigError, match="--server"):
        open_client("localhost:99999", None, None)


def test_over_grpc_a_server_that_is_gone_in_the_middle_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" secret\n")
    server, progress = FakeServer(), Notes()
    pauses: list[float] = []
    try:
        with open_client(server.address, tmp_path / "token", None) as client:
            asked = ServerOracle(client, 0.05, "ab12", progress, patience_s=60, sleep=pauses.append)
            server.detector.calls, server.detector.fail_first, server.detector.pushback_ms = 0, 2, "-1"  # "not again"
            said = asked.ask(IMAGES)
    finally:
        server.stop()
    assert said.label.tolist() == [1] * 5 and said.p_value.tolist() == [0.5] * 5 and not said.flagged.any()
    assert said.probability[0].tolist() == pytest.approx([0.25, 0.75, 0.25])
    assert server.detector.metadata["authorization"] == "Bearer secret"
    assert pauses == [0.5, 1.0] and progress.notes[-1] == "the server is back"


@pytest.mark.parametrize("told", ["full", "verdict", "none"])
def test_over_grpc_it_is_known_how_much_a_server_tells(told: str) -> None:
    server = FakeServer()
    server.detector.disclosure = told
    try:
        with open_client(server.address, None, None) as client:
            asked = ServerOracle(client, 0.05, "ab12", Notes(), patience_s=60)
            said = asked.ask(IMAGES)
    finally:
        server.stop()
    assert asked.told == told and said.label.tolist() == [1] * 5 and not said.flagged.any()
    assert said.p_value.isnan().all() == (told != "full")
