"""`heatward label` and `Client.label`, against a server that takes labels and against one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import heatward
import pytest
from either import both, either
from fake_servicer import FakeServer
from heatward import cli
from heatward.v1 import feedback_pb2 as pb
from heatward.v1 import feedback_pb2_grpc as pb_grpc


class Feedback(pb_grpc.FeedbackServiceServicer):
    def __init__(self) -> None:
        self.came: list[pb.FeedbackRequest] = []

    def Feedback(self, request: pb.FeedbackRequest, context: Any) -> pb.FeedbackResponse:
        self.came.append(request)
        if request.id == "never":
            context.abort(grpc.StatusCode.NOT_FOUND, "no image of this id was recorded, or it was removed since")
        return pb.FeedbackResponse(record_id="r1", contradicts=len(self.came) > 1)


@pytest.fixture
def service() -> Feedback:
    return Feedback()


@pytest.fixture
def address(service: Feedback) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    pb_grpc.add_FeedbackServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_command_sends_the_truth_and_says_what_was_labelled(
    address: str, service: Feedback, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["label", "one", "false-alarm", "--address", address]) == 0
    assert cli.main(["label", "one", "true-label=tabby cat", "--address", address]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "r1: false-alarm"
    assert second == "r1: true-label=tabby cat (an earlier label says otherwise; the latest counts)"
    assert [(each.id, each.truth, each.true_label) for each in service.came] == [
        ("one", pb.TRUTH_FALSE_ALARM, ""),
        ("one", pb.TRUTH_TRUE_LABEL, "tabby cat"),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("never", "attack"), "NOT_FOUND: no image of this id was recorded"),
        (("one", "atack"), "truth is one of false-alarm, attack, true-label, not 'atack'"),
        (("one", "true-label"), "true_label is the class that the image shows"),
        (("one", "attack=cat"), "true_label is the class that the image shows"),
        (("", "attack"), "id is empty"),
    ],
)
def test_a_label_that_cannot_be_kept_is_one_line_and_exit_code_2(
    address: str, words: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["label", *words, "--address", address]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_server_that_does_not_record_says_so(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["label", "one", "attack", "--address", server.address]) == 2
    assert "this server does not record" in capsys.readouterr().err


@both
async def test_both_clients_label(kind: str, address: str) -> None:
    async with either(kind, address) as client:
        assert await client.label("one", "attack") == ("r1", False)
        with pytest.raises(heatward.DetectionError, match="NOT_FOUND"):
            await client.label("never", "attack")
        with pytest.raises(TypeError, match="id is a str, not int"):
            await client.label(1, "attack")  # type: ignore[arg-type]
