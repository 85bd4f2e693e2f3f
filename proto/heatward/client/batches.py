"""A batch of any size: images go in, calls of DetectBatch that the server takes go out, an answer per image comes back.

    images ─▶ requests ─▶ parts (at most 64 images, 16 MiB, and the server's limits) ─▶ two calls at a time ─▶ answers

At the deadline, what has no answer is a `Failure`, and the rest is kept: each image carries a deadline of its own that
lies a little before the call's, so that a part comes back with what is ready.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from heatward.client.limits import SMALL_BYTES, too_large
from heatward.client.messages import pack, result, timeout_ms
from heatward.client.values import Failure, Verdict
from heatward.errors import DetectionError, arrived
from heatward.images import ImageInput
from heatward.v1 import detection_pb2 as pb

__all__ = ["Plan", "async_batch", "batch"]

Answer: TypeAlias = Verdict | Failure

PART_IMAGES = 64
PART_BYTES = 16 * 2**20
AT_ONCE = 2
FEW = 8
"""So many small images are sent without asking for the server's limits."""
ITEM_BYTES = 8
"""What a request costs in a batch beside itself, at most."""
SHARE = 0.9
"""Of the time that is left: the images' own deadline. The rest is for the way back."""


@dataclass
class Part:
    """One call."""

    places: list[int] = field(default_factory=list)
    request: pb.DetectBatchRequest = field(default_factory=pb.DetectBatchRequest)
    bytes: int = 0


class Plan:
    """Which image goes into which call, and what became of it.

    Args:
        template: A request without its image.
        timeout_s: For all calls together.
    """

    def __init__(self, template: pb.DetectRequest, timeout_s: float) -> None:
        self._template = template
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._part = Part()
        self._answers: list[Answer | None] = []
        self._answered = 0
        self._error: DetectionError | None = None
        self.limits: pb.Limits | None = None

    def left_s(self) -> float:
        return self._deadline_s - time.monotonic()

    def pack(self, image: ImageInput) -> pb.DetectRequest | Failure:
        """The image's request, or why there is none."""
        return self._late() if self.left_s() <= 0 else pack(image, self._template)

    def wants_limits(self, packed: pb.DetectRequest | Failure) -> bool:
        """Whether the limits matter from here on, and are not known."""
        if self.limits is not None or isinstance(packed, Failure):
            return False
        return len(self._answers) >= FEW or self._part.bytes + packed.ByteSize() + ITEM_BYTES > SMALL_BYTES

    def add(self, packed: pb.DetectRequest | Failure) -> Part | None:
        """Takes the next image; returns a part that is full without it."""
        limits = self.limits or pb.Limits()
        if isinstance(packed, pb.DetectRequest):
            packed = too_large(packed, limits, ITEM_BYTES) or packed
        if isinstance(packed, Failure):
            self._answers.append(packed)
            return None
        count, size = len(self._part.places), packed.ByteSize() + ITEM_BYTES
        full = count >= min(PART_IMAGES, limits.max_batch or PART_IMAGES) or (
            count and self._part.bytes + size > min(PART_BYTES, limits.max_message_bytes or PART_BYTES)
        )
        ready = self.rest() if full else None
        self._part.places.append(len(self._answers))
        self._part.request.requests.append(packed)
        self._part.bytes += size
        self._answers.append(None)
        return ready

    def rest(self) -> Part | None:
        """The part that is not full, if there is one."""
        part, self._part = self._part, Part()
        return part if part.places else None

    def begin(self, part: Part) -> float:
        """The seconds that the part's call has; 0 or less where it is settled, because none are left."""
        left_s = self.left_s()
        if left_s <= 0:
            self.fail(part, self._late().error())
        for request in part.request.requests:
            request.timeout_ms = timeout_ms(left_s * SHARE)
        return left_s

    def settle(self, part: Part, response: pb.DetectBatchResponse) -> None:
        if len(response.results) != len(part.places):
            count = f"{len(response.results)} answers to {len(part.places)} images"
            return self.fail(part, DetectionError("INTERNAL", f"the server sent {count}"))
        self._answered += 1
        for place, item in zip(part.places, response.results, strict=True):
            self._answers[place] = result(item)
        return None

    def fail(self, part: Part, error: DetectionError) -> None:
        self._error = self._error or error
        failure = Failure(error.code, error.message, error.violations, error.retry_after_s)
        for place in part.places:
            self._answers[place] = failure

    def answers(self) -> list[Answer]:
        """One per image, in their order.

        Raises:
            DetectionError: No call brought an answer.
        """
        if self._error is not None and not self._answered:
            raise self._error
        return [self._late() if answer is None else answer for answer in self._answers]

    def _late(self) -> Failure:
        return Failure("DEADLINE_EXCEEDED", f"the batch was not done within {self._timeout_s:g} s")


def batch(
    images: Iterable[ImageInput],
    plan: Plan,
    ask: Callable[[], pb.Limits],
    call: Callable[[pb.DetectBatchRequest, float], Any],
    error: Callable[[grpc.RpcError], DetectionError],
) -> list[Answer]:
    """Runs a batch.

    Args:
        images: Read as they are sent.
        plan: A new one.
        ask: The server's limits.
        call: Begins a call that has so many seconds; a gRPC future.
        error: What gRPC's error means.
    """
    flying: deque[tuple[Part, Any]] = deque()

    def settle() -> None:
        part, future = flying.popleft()
        if future.code() is grpc.StatusCode.OK:
            try:
                plan.settle(part, arrived(future.result()))
            except DetectionError as lost:
                plan.fail(part, lost)
        else:
            plan.fail(part, error(future))

    def send(part: Part | None) -> None:
        if part is None:
            return
        if len(flying) == AT_ONCE:
            settle()
        left_s = plan.begin(part)
        if left_s > 0:
            flying.append((part, call(part.request, left_s)))

    try:
        for image in images:
            packed = plan.pack(image)
            if plan.wants_limits(packed):
                plan.limits = ask()
            send(plan.add(packed))
        send(plan.rest())
        while flying:
            settle()
    finally:
        for _, future in flying:
            future.cancel()
    return plan.answers()


async def async_batch(
    images: Iterable[ImageInput],
    plan: Plan,
    ask: Callable[[], Awaitable[pb.Limits]],
    call: Callable[[pb.DetectBatchRequest, float], Awaitable[pb.DetectBatchResponse | None]],
    error: Callable[[grpc.RpcError], DetectionError],
) -> list[Answer]:
    """As `batch`, on the event loop."""
    calls: set[asyncio.Task[None]] = set()

    async def settle(part: Part, left_s: float) -> None:
        try:
            plan.settle(part, arrived(await call(part.request, left_s)))
        except grpc.RpcError as told:
            plan.fail(part, error(told))
        except DetectionError as lost:
            plan.fail(part, lost)

    async def send(part: Part | None) -> None:
        nonlocal calls
        if part is None:
            return
        if len(calls) == AT_ONCE:
            ended, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for each in ended:
                each.result()
        left_s = plan.begin(part)
        if left_s > 0:
            calls.add(asyncio.create_task(settle(part, left_s)))

    try:
        for image in images:
            packed = plan.pack(image)
            if plan.wants_limits(packed):
                plan.limits = await ask()
            await send(plan.add(packed))
        await send(plan.rest())
        await asyncio.gather(*calls)
    finally:
        for each in calls:
            each.cancel()
    return plan.answers()
