from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import grpc
import pytest
from heatward.v1 import detection_pb2 as pb
from sample_requests import encoded, picture, png, raw
from test_service import settle

from server.logs import JsonFormatter, about

TRACE = "0af7651916cd43dd8448eb211c80319c"
METADATA = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"), ("authorization", "Bearer a-secret-token"))


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the server's log would hold."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("heatward")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield stream
    log.removeHandler(handler)
    log.setLevel(level)


def test_a_record_is_one_json_line_with_its_extras_and_traceback():
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.getLogger("heatward.test").makeRecord(
            "heatward.test",
            logging.ERROR,
            __file__,
            1,
            "it %s",
            ("failed",),
            (type(error), error, error.__traceback__),
            extra={"request_id": "r-1"},
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    content = json.loads(line)
    assert (content["message"], content["level"], content["request_id"]) == ("it failed", "error", "r-1")
    assert "two\nlines" in content["traceback"]


async def test_every_line_of_a_call_has_its_ids_and_nothing_of_its_image_or_token(serving, written: io.StringIO):
    image, broken = png(picture(77)), b"this-is-no-image"
    async with serving(otlp_endpoint="http://127.0.0.1:1") as served:
        begun = len(written.getvalue())
        await served.stub.Detect(encoded(image, "id-1"), metadata=METADATA)
        requests = [raw(picture(3), "id-2"), encoded(broken, "id-3"), encoded(broken)]
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=requests), metadata=METADATA)
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.Detect(encoded(broken, "id-4"), metadata=METADATA)
        await settle(lambda: '"id-4"' in written.getvalue())  # written once the answer has gone
        text = written.getvalue()[begun:]
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) >= 5
    assert all(line["request_id"] and line["trace_id"] == TRACE for line in lines)
    assert {"id-1", "id-3", "id-4"} <= {line["request_id"] for line in lines}
    assert "a-secret-token" not in text and broken.decode() not in text and "PNG" not in text


async def test_a_request_id_without_end_does_not_fill_the_log(serving, written: io.StringIO):
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.Detect(raw(picture(), "x" * 100_000))
    assert len(written.getvalue()) < 5000


async def test_calls_at_the_same_time_keep_their_ids_apart():
    seen = {}

    async def call(request_id: str) -> None:
        about.set({"request_id": request_id})
        await asyncio.sleep(0)
        seen[request_id] = json.loads(JsonFormatter().format(logging.makeLogRecord({})))["request_id"]

    await asyncio.gather(call("a"), call("b"))
    assert seen == {"a": "a", "b": "b"}
    assert "request_id" not in json.loads(JsonFormatter().format(logging.makeLogRecord({})))


def test_a_long_value_is_cut_and_what_steers_a_terminal_is_escaped(written: io.StringIO):
    logging.getLogger("heatward.test").error("x" * 10**6, extra={"request_id": "a\x9b2K\u202e\x7f\n"})
    line = written.getvalue()
    assert len(line) < 12_000 and line.rstrip("\n").isprintable()
    told = json.loads(line)
    assert told["request_id"] == "a\x9b2K\u202e\x7f\n"
    assert told["message"].startswith("xxx") and " … " in told["message"]
