"""A server without a detector: answers by what the bytes of an image say, and remembers what it was asked.

`b"bad"` is refused, `b"attacked …"` is flagged, `b"slow"` waits for `released`, everything else is clean.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from heatward.v1 import detection_pb2 as pb
from heatward.v1 import detection_pb2_grpc

SERVICE = "heatward.v1.DetectionService"
CLASSES = ("cat", "dog", "ship")
PNG = b"\x89PNG heatmap"
DETAILS = ("attack_score", "p_value", "recovered", "corrected", "heatmap", "timings", "error_rate", "reliable")
UNTOLD = {"full": (), "verdict": DETAILS, "none": (*DETAILS, "attacked", "false_positive_rate")}
"""Fields of a verdict that a server leaves out."""


def packed(message: Message) -> AnyMessage:
    holder = AnyMessage()
    holder.Pack(message)
    return holder


BAD_IMAGE = status_pb2.Status(
    code=code_pb2.INVALID_ARGUMENT,
    message="the image cannot be used",
    details=[
        packed(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field="image.encoded", description="not an image file")
                ]
            )
        )
    ],
)
QUEUE_FULL = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="the queue is full")
retry = error_details_pb2.RetryInfo()
retry.retry_delay.FromMilliseconds(250)
QUEUE_FULL.details.append(packed(retry))

INFO = pb.DetectorInfo(
    name="fake",
    version="fake-1",
    server_version="0.1.0",
    classifier=pb.ClassifierInfo(
        source="torchvision:resnet18", classes=CLASSES, fingerprint="ab12", input_height=32, input_width=48
    ),
    evidence=["channel_attribution"],
    heatmap_formats=[pb.HEATMAP_FORMAT_NONE, pb.HEATMAP_FORMAT_FLOAT, pb.HEATMAP_FORMAT_PNG_OVERLAY],
    families=["iterative", "minimum-norm"],
    default_false_positive_rate=0.01,
    calibration_size=1999,
    smallest_false_positive_rate=0.0005,
    operating_points=[pb.OperatingPoint(false_positive_rate=0.01, threshold=2.5)],
    measured=[pb.MeasuredRates(attack="pgd-8", auroc=0.991, tpr_at_1_percent=0.9, images=12)],
    limits=pb.Limits(
        max_image_bytes=20 << 20, max_image_pixels=50_000_000, max_batch=64, max_top_k=5, max_message_bytes=64 << 20
    ),
)


class FakeDetector(detection_pb2_grpc.DetectionServiceServicer):
    def __init__(self) -> None:
        self.requests: list[pb.DetectRequest] = []
        self.batches: list[int] = []  # images of each
        self.metadata: dict[str, str] = {}
        self.calls = 0
        self.fail_first = 0  # so many calls end with `failure` before one is answered
        self.failure = grpc.StatusCode.UNAVAILABLE
        self.status: status_pb2.Status | None = None  # every call ends with these rich details
        self.released = threading.Event()
        self.order = 1  # answers of a stream are held back and sent in reverse, so many at a time
        self.pushback_ms: str | None = None  # `grpc-retry-pushback-ms` of those calls
        self.slow_first = 0  # so many calls wait for `released`
        self.remaining_s: list[float] = []  # of each call's deadline, when it arrived
        self.cancelled = threading.Event()  # a slow call ended before it was answered
        self.lose_last = False  # a stream ends without its last answer
        self.break_after: int | None = None  # a stream ends with an error after so many answers, and when all is read
        self.described = 0  # how often GetDetector was called
        self.limits = pb.Limits()  # what `INFO` says, but for these
        self.patch_p_value: float | None = None  # of every image, where it is asked for
        self.error_rate: float | None = None  # of every prediction; half of it is the smallest that is promised
        self.disclosure = "full"  # how much a caller is told: a verdict, or none
        self.no_description: grpc.StatusCode | None = None  # what GetDetector answers instead

    def Detect(self, request: pb.DetectRequest, context: grpc.ServicerContext) -> pb.Verdict:
        self._arrive(context)
        answer = self._answer(request)
        if answer.WhichOneof("result") == "status":
            self._abort(context, answer.status)
        return answer.verdict

    def DetectBatch(self, request: pb.DetectBatchRequest, context: grpc.ServicerContext) -> pb.DetectBatchResponse:
        self._arrive(context)
        self.batches.append(len(request.requests))
        if self.limits.max_batch and len(request.requests) > self.limits.max_batch:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "too many images")
        return pb.DetectBatchResponse(results=[self._answer(item) for item in request.requests])

    def DetectStream(
        self, requests: Iterator[pb.DetectRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.DetectResult]:
        self._arrive(context)
        held: list[pb.DetectResult] = []
        answered = 0
        for request in requests:
            held.append(self._answer(request))
            if len(held) == self.order and (self.break_after is None or answered < self.break_after):
                yield from reversed(held)
                answered += len(held)
                held.clear()
        if self.break_after is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        yield from reversed(held[:-1] if self.lose_last else held)

    def GetDetector(self, request: pb.GetDetectorRequest, context: grpc.ServicerContext) -> pb.DetectorInfo:
        self._arrive(context)
        self.described += 1
        if self.no_description is not None:
            context.abort(self.no_description, "not for you")
        info = pb.DetectorInfo.FromString(INFO.SerializeToString())
        info.limits.MergeFrom(self.limits)
        if self.error_rate is not None:
            info.smallest_error_rate = self.error_rate / 2
        if self.patch_p_value is not None:
            info.patches.CopyFrom(pb.PatchInfo(area=0.02, side=5, masks=36))
        if self.disclosure != "full":
            told = {"name", "version", "server_version", "classifier", "limits"}
            rates = {"default_false_positive_rate", "smallest_false_positive_rate"}
            for field, _ in info.ListFields():
                if field.name not in told | (rates if self.disclosure == "verdict" else set()):
                    info.ClearField(field.name)
        return info

    def _arrive(self, context: grpc.ServicerContext) -> None:
        self.calls += 1
        number = self.calls
        self.metadata = dict(context.invocation_metadata())
        self.remaining_s.append(context.time_remaining())
        if number <= self.slow_first:
            context.add_callback(self.cancelled.set)
            self.released.wait(10)
        if self.status is not None:
            self._abort(context, self.status)
        if number <= self.fail_first:
            if self.pushback_ms is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", self.pushback_ms),))
            context.abort(self.failure, "not now")

    def _abort(self, context: grpc.ServicerContext, status: status_pb2.Status) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)

    def _answer(self, request: pb.DetectRequest) -> pb.DetectResult:
        self.requests.append(request)
        content = request.image.encoded
        if content == b"bad":
            return pb.DetectResult(request_id=request.request_id, status=BAD_IMAGE)
        if content == b"slow":
            self.released.wait(10)
        attacked = content.startswith(b"attacked")
        rate = request.options.false_positive_rate if request.options.HasField("false_positive_rate") else 0.01
        verdict = pb.Verdict(
            request_id=request.request_id,
            predicted=pb.Label(index=1, name="dog", probability=0.75),
            top=[pb.Label(index=1, name="dog", probability=0.75), pb.Label(index=0, name="cat", probability=0.25)],
            attack_score=9.5 if attacked else -1.0,
            p_value=0.0005 if attacked else 0.5,
            attacked=attacked,
            false_positive_rate=rate,
            recovered=[pb.Label(index=0, name="cat", probability=0.9)],
            corrected=pb.Label(index=0, name="cat", probability=0.8),
            timings=pb.Timings(queue_ms=0.1, decode_ms=0.2, compute_ms=3, total_ms=3.5, batch_size=4),
            detector_version="fake-1",
        )
        if self.error_rate is not None:
            verdict.error_rate = self.error_rate
            if request.options.HasField("max_error_rate"):
                verdict.reliable = self.error_rate <= request.options.max_error_rate
        if self.patch_p_value is not None and request.options.look_for_patches:
            verdict.patch_p_value, verdict.patched = self.patch_p_value, self.patch_p_value <= rate
        if request.options.heatmap == pb.HEATMAP_FORMAT_FLOAT:
            data = b"\x00\x00\x80\x3f" + b"\x00\x00\x00\xbf" + bytes(4 * 4)  # 1.0, -0.5, 0 …
            verdict.heatmap.map.CopyFrom(pb.FloatMap(data=data, height=2, width=3))
        elif request.options.heatmap == pb.HEATMAP_FORMAT_PNG_OVERLAY:
            verdict.heatmap.png = PNG
        for field in UNTOLD[self.disclosure]:
            verdict.ClearField(field)
        return pb.DetectResult(request_id=request.request_id, verdict=verdict)


class FakeServer:
    """The fake detector and the real health service on a free port, behind TLS where credentials are given."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, max_message_bytes: int = -1) -> None:
        self.detector = FakeDetector()
        self.detector.limits.max_message_bytes = max(0, max_message_bytes)
        self.health = grpc_health.HealthServicer()
        options = [("grpc.max_receive_message_length", max_message_bytes)]
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
        detection_pb2_grpc.add_DetectionServiceServicer_to_server(self.detector, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        port = (
            self._server.add_secure_port("127.0.0.1:0", credentials)
            if credentials
            else self._server.add_insecure_port("127.0.0.1:0")
        )
        self.address = f"127.0.0.1:{port}"
        self.set_serving(True, SERVICE)
        self._server.start()

    def set_serving(self, serving: bool, service: str = "") -> None:
        status = health_pb2.HealthCheckResponse
        self.health.set(service, status.SERVING if serving else status.NOT_SERVING)

    def stop(self) -> None:
        self.detector.released.set()
        self._server.stop(None).wait()


if __name__ == "__main__":  # in a process of its own, until its input ends
    fake = FakeServer()
    print(fake.address, flush=True)
    sys.stdin.read()
