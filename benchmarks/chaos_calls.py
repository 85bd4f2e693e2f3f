"""Well-formed traffic and the ledger that watches it: *calls* → **what was answered, and what should not have been**.

Each image has an id of its own and a label known beforehand. A call that ends with a status has answered all its images
that had no answer yet; a call that ends well must have answered each, exactly once, with its own label.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.rpc import code_pb2
from heatward.inference import grpc_service_pb2 as v2
from heatward.inference import grpc_service_pb2_grpc as v2_grpc
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc as pb_grpc

T = TypeVar("T")

LOAD = frozenset({"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})
"""What a good image may be answered with while there is too much to do."""
BAD = LOAD - {"OK"} | {"INVALID_ARGUMENT"}
HANG_S = 15.0
"""A call open so long after its deadline hangs: the server may be stopped for 2 s, and the machine is shared."""
SERVER_DEADLINE_S = 10.0
RENAMED = {
    "the detector was exchanged during the call: send it again": "EXCHANGED",
    # grpc.aio's own, where a stream's client writes to a call that is over and has not read its status yet
    "Internal error from Core": "OVER",
}

Answer = tuple[str, str, int]  # request id, code, label


class NoMessage(Exception):
    """A call ended well, with nothing.

    Args:
        late: Its deadline had passed: then gRPC drops a message that has arrived, but not the status OK behind it
            (https://github.com/grpc/grpc/issues/23559). Our client makes DEADLINE_EXCEEDED of that.
    """

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late


@dataclass
class Ledger:
    """What was asked and answered."""

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)  # images, by kind of call and code
    violations: Counter[str] = field(default_factory=Counter)
    open: int = 0

    async def follow(
        self,
        kind: str,
        expected: dict[str, int],
        answers: AsyncIterator[Answer],
        allowed: frozenset[str],
        limit_s: float,
    ) -> None:
        """Reads a call to its end and checks its answers; `expected` holds a label for each id."""
        seen: Counter[str] = Counter()
        ended = "OK"
        self.open += 1
        try:
            async with asyncio.timeout(limit_s + HANG_S):
                async for request_id, code, label in answers:
                    seen[request_id] += 1
                    self._count(kind, code, allowed)
                    if request_id not in expected:
                        self.violations[f"{kind}: answered {request_id!r}, which was not asked"] += 1
                    elif code == "OK" and label != expected[request_id]:
                        self.violations[f"{kind}: label {label} in place of {expected[request_id]}"] += 1
        except grpc.aio.AioRpcError as error:
            ended = RENAMED.get(error.details() or "", error.code().name)
            if ended not in allowed:
                self.violations[f"{kind}: {ended}: {error.details()}"[:300]] += 1
        except NoMessage as nothing:
            ended = "DEADLINE_EXCEEDED" if nothing.late else "NO MESSAGE"  # the latter is allowed nowhere
        except asyncio.CancelledError:  # only calls are cancelled here, never the tasks that wait for them
            # Not by us: grpc.aio cancels a stream that is over before all its requests are written.
            ended = "CANCELLED" if "CANCELLED" in allowed else "OVER"
        except TimeoutError:
            ended = "HANGS"
        finally:
            self.open -= 1
        for _ in expected.keys() - seen:
            self._count(kind, "LOST" if ended == "OK" else ended, allowed)
        if doubled := [request_id for request_id, count in seen.items() if count > 1]:
            self.violations[f"{kind}: answered more than once: {doubled[:3]}"] += 1

    def _count(self, kind: str, code: str, allowed: frozenset[str]) -> None:
        self.codes[kind, code] += 1
        if code not in allowed:
            self.violations[f"{kind}: an image got {code}"] += 1


class Caller:
    """Sends good images with one token over one connection.

    Args:
        address: Of the server.
        token: Sent with each call.
        images: Encoded files.
        ledger: Watches.
        seed: Of what is random.
    """

    numbers = itertools.count()

    def __init__(self, address: str, token: str, images: list[bytes], ledger: Ledger, seed: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.stub = pb_grpc.DetectionServiceStub(self.channel)
        self.infer_stub = v2_grpc.GRPCInferenceServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.images, self.ledger, self.rng = images, ledger, random.Random(seed)
        self.truth: list[int] = []

    async def learn(self) -> list[int]:
        """Asks for each image while all is calm."""
        for image in self.images:
            request = pb.DetectRequest(image=pb.Image(encoded=image))
            verdict = await self.stub.Detect(request, metadata=self.metadata, timeout=60, wait_for_ready=True)
            self.truth.append(verdict.predicted.index)
        return self.truth

    def requests(self, count: int) -> tuple[list[pb.DetectRequest], dict[str, int]]:
        """Requests, and the label of each by its id."""
        requests, expected = [], {}
        for _ in range(count):
            which = self.rng.randrange(len(self.images))
            request_id = str(next(self.numbers))
            expected[request_id] = self.truth[which]
            request = pb.DetectRequest(request_id=request_id, image=pb.Image(encoded=self.images[which]))
            request.priority = self.rng.choice((0, 0, 0, 1, 3))
            request.options.heatmap = self.rng.choice((0, 0, 1, 2))
            requests.append(request)
        return requests, expected

    async def any(self, kind: str = "", timeout_s: float | None = 5.0, **how: object) -> None:
        """A call of a random shape."""
        shape, count = self.rng.choice(
            ((self.unary, 1), (self.unary, 1), (self.batch, 8), (self.stream, 24), (self.infer, 4))
        )
        await shape(count, kind or shape.__name__, timeout_s, **how)

    async def unary(self, count: int, kind: str, timeout_s: float | None, **how: object) -> None:
        requests, expected = self.requests(1)
        call = self.stub.Detect(requests[0], metadata=self.metadata, timeout=timeout_s)

        async def answers() -> AsyncIterator[Answer]:
            verdict = await _message(call)
            yield verdict.request_id, "OK", verdict.predicted.index

        await self._follow(kind, expected, call, answers(), timeout_s, **how)

    async def batch(self, count: int, kind: str, timeout_s: float | None, **how: object) -> None:
        requests, expected = self.requests(count)
        call = self.stub.DetectBatch(
            pb.DetectBatchRequest(requests=requests), metadata=self.metadata, timeout=timeout_s
        )

        async def answers() -> AsyncIterator[Answer]:
            for result in (await _message(call)).results:
                yield _item(result)

        await self._follow(kind, expected, call, answers(), timeout_s, **how)

    async def stream(self, count: int, kind: str, timeout_s: float | None, pause_s: float = 0.0, **how: object) -> None:
        requests, expected = self.requests(count)
        call = self.stub.DetectStream(iter(requests), metadata=self.metadata, timeout=timeout_s)

        async def answers() -> AsyncIterator[Answer]:
            async for result in call:
                yield _item(result)
                await asyncio.sleep(pause_s)

        await self._follow(kind, expected, call, answers(), timeout_s, also=frozenset({"OVER"}), **how)

    async def infer(self, count: int, kind: str, timeout_s: float | None, **how: object) -> None:
        """The same by the KServe v2 protocol."""
        request = v2.ModelInferRequest(model_name="heatward", id=str(next(self.numbers)))
        image = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[count])
        chosen = [self.rng.randrange(len(self.images)) for _ in range(count)]
        image.contents.bytes_contents.extend(self.images[which] for which in chosen)
        expected = {f"{request.id}.{place}": self.truth[which] for place, which in enumerate(chosen)}
        call = self.infer_stub.ModelInfer(request, metadata=self.metadata, timeout=timeout_s)

        async def answers() -> AsyncIterator[Answer]:
            response = await _message(call)
            (labels,) = (output.contents.int_contents for output in response.outputs if output.name == "label")
            for place, label in enumerate(labels):
                yield f"{response.id}.{place}", "OK", label

        await self._follow(kind, expected, call, answers(), timeout_s, also=frozenset({"EXCHANGED"}), **how)

    async def _follow(
        self,
        kind: str,
        expected: dict[str, int],
        call: grpc.aio.Call,
        answers: AsyncIterator[Answer],
        timeout_s: float | None,
        *,
        allowed: frozenset[str] = LOAD,
        also: frozenset[str] = frozenset(),
        cancel_after_s: float | None = None,
    ) -> None:
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, call.cancel)
            allowed |= {"CANCELLED"}
        limit_s = SERVER_DEADLINE_S if timeout_s is None else timeout_s
        await self.ledger.follow(kind, expected, answers, allowed | also, limit_s)

    async def spoiled(self, images: list[pb.Image]) -> None:
        """Images that cannot be answered, alone and among good ones."""
        for image in images:
            request = pb.DetectRequest(request_id=str(next(self.numbers)), image=image)
            call = self.stub.Detect(request, metadata=self.metadata, timeout=5)

            async def answers(call: grpc.aio.UnaryUnaryCall = call) -> AsyncIterator[Answer]:
                yield (await call).request_id, "OK", -1

            await self._follow("spoiled", {request.request_id: -1}, call, answers(), 5, allowed=BAD)

    async def bytes(self, data: bytes, method: str) -> None:
        """A message that is none."""
        call = self.channel.unary_unary(f"/{method}")(data, metadata=self.metadata, timeout=5)

        async def answers() -> AsyncIterator[Answer]:
            await call
            yield "bytes", "OK", 0

        await self._follow("bytes", {"bytes": 0}, call, answers(), 5, allowed=BAD | {"NOT_FOUND", "UNIMPLEMENTED"})


async def _message(call: grpc.aio.UnaryUnaryCall[Any, T]) -> T:
    message: T | None = await call
    if message is None:
        raise NoMessage(late=call.time_remaining() == 0)
    return message


def _item(result: pb.DetectResult) -> Answer:
    if result.HasField("verdict"):
        return result.request_id, "OK", result.verdict.predicted.index
    return result.request_id, code_pb2.Code.Name(result.status.code), -1
