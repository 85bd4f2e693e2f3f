"""`heatward.v1.FeedbackService`: the truth about a recorded image. Served only where the server records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from heatward.v1 import feedback_pb2 as pb
from heatward.v1 import feedback_pb2_grpc as pb_grpc

from detector.records.schema import Truth
from detector.text import nearest, printable
from server.access.disclosure import Disclosure
from server.errors import ForbiddenError, RequestError
from server.inference.context import RequestContext
from server.observers.recorder import Recorder
from server.protocols.options import MAX_ID_BYTES
from server.protocols.service import Service, answered

__all__ = ["FeedbackService"]

LONGEST_ID_BYTES = 2 * MAX_ID_BYTES + 1
TRUTHS = {
    pb.TRUTH_FALSE_ALARM: Truth.FALSE_ALARM,
    pb.TRUTH_ATTACK: Truth.ATTACK,
    pb.TRUTH_TRUE_LABEL: Truth.TRUE_LABEL,
}


@dataclass(eq=False)
class FeedbackService(Service, pb_grpc.FeedbackServiceServicer):
    """Takes labels."""

    recorder: Recorder
    on_label: Callable[[str, bool], None]
    """Told the truth of each, and whether it contradicts an earlier one."""

    @answered()
    async def Feedback(self, request: pb.FeedbackRequest, rpc: RequestContext) -> pb.FeedbackResponse:
        rpc.take()
        named = not self.config.record_labellers or rpc.client in self.config.record_labellers
        if not named or rpc.disclosure is Disclosure.NONE:  # the answer would say what was recorded
            raise ForbiddenError("your token does not allow you to label: ask the operator (record_labellers)")
        if not 1 <= len(request.id.encode()) <= LONGEST_ID_BYTES:
            raise RequestError("id", f"a request id or a record id, of 1 to {LONGEST_ID_BYTES} bytes")
        if request.truth not in TRUTHS:
            raise RequestError("truth", f"one of {', '.join(map(pb.Truth.Name, TRUTHS))}, but came {request.truth}")
        truth, true_label = TRUTHS[request.truth], self._class(request)
        label, contradicts = await asyncio.to_thread(self.recorder.label, request.id, truth, true_label, rpc.client)
        self.on_label(truth.value, contradicts)
        return pb.FeedbackResponse(record_id=label.record_id, contradicts=contradicts)

    def _class(self, request: pb.FeedbackRequest) -> str:
        """The class that is named.

        Raises:
            RequestError: There is none where there must be, or one where there must be none, or it is unknown.
        """
        if (request.truth == pb.TRUTH_TRUE_LABEL) != bool(request.true_label):
            raise RequestError("true_label", "required for TRUTH_TRUE_LABEL, and only there")
        classes = self.registry.current.classes
        if request.true_label and request.true_label not in classes:
            near = nearest(request.true_label, classes)
            raise RequestError("true_label", f"no class is called '{printable(request.true_label)}'{near}")
        return request.true_label
