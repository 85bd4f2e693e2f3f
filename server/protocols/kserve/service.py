"""`inference.GRPCInferenceService`: the detector as a model of the KServe v2 protocol (Open Inference Protocol).

    ModelInfer ─▶ one DetectRequest an image ─▶ the pipeline, side by side ─▶ outputs with batch dimension N

All or nothing: the first image that fails fails the call. ModelConfig and ModelStatistics are Triton's extensions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import grpc
from heatward.inference import grpc_service_pb2 as pb
from heatward.inference import grpc_service_pb2_grpc as pb_grpc
from heatward.v1 import detection_pb2 as v1

from detector.text import printable
from server.config import ServerConfig
from server.errors import ModelNotFoundError, NotReadyError, RequestError, UnknownVersionError
from server.inference.pipeline import Judge
from server.models.registry import Versions
from server.protocols.kserve.inputs import ask, images
from server.protocols.kserve.model import EXTENSIONS, NAME, configuration, metadata
from server.protocols.kserve.outputs import respond, wanted
from server.protocols.kserve.statistics import Statistics
from server.transport.calls import Call, Calls

__all__ = ["InferenceService"]


class InferenceService(pb_grpc.GRPCInferenceServiceServicer):
    """Answers for one model, called `heatward` or as its bundle.

    Args:
        config: Limits.
        versions: The detectors.
        judge: Gives the verdicts.
        calls: Counts the calls.
        ready: Whether health says SERVING.
        statistics: What is told about the model's work; the engine's batches are fed to it elsewhere.
    """

    def __init__(
        self,
        config: ServerConfig,
        versions: Versions,
        judge: Judge,
        calls: Calls,
        ready: Callable[[], bool],
        statistics: Statistics,
    ) -> None:
        self._config = config
        self._versions = versions
        self._judge = judge
        self._calls = calls
        self._ready = ready
        self._statistics = statistics

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        response = pb.ModelReadyResponse(ready=self._ready())
        async with self._calls.call("ModelReady", context):
            if response.ready:
                self._model(request.name, request.version)
        return response

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        response = pb.ServerMetadataResponse(name=NAME, extensions=EXTENSIONS)
        async with self._calls.call("ServerMetadata", context):
            response.version = self._versions.current.info.server_version
        return response

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        response = pb.ModelMetadataResponse()
        async with self._calls.call("ModelMetadata", context):
            self._model(request.name, request.version)
            response = metadata(request.name, [loaded.info.version for _, loaded in self._versions])
        return response

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelConfigResponse:
        response = pb.ModelConfigResponse()
        async with self._calls.call("ModelConfig", context):
            self._model(request.name, request.version)
            response.config.CopyFrom(configuration(request.name, self._config))
        return response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        response = pb.ModelStatisticsResponse()
        async with self._calls.call("ModelStatistics", context):
            name = request.name or NAME
            response.model_stats.append(self._statistics.message(name, self._model(name, request.version).version))
        return response

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse()
        async with self._calls.call("ModelInfer", context, request.id) as call:
            started_s = time.monotonic()
            try:
                verdicts, names = await self._verdicts(request, call)
                judged_s = time.monotonic()
                response = respond(request, names, verdicts)
            except Exception:
                self._statistics.failed(time.monotonic() - started_s)
                raise
            ended_s = time.monotonic()
            self._statistics.answered(ended_s - started_s, ended_s - judged_s, [one.timings for one in verdicts])
        return response

    def _model(self, name: str, version: str) -> v1.DetectorInfo:
        """The detector of this version, where one is called that.

        Raises:
            ModelNotFoundError: None is.
            UnknownVersionError: It is not loaded.
            NotReadyError: None is loaded yet.
        """
        info = self._versions.named(version).info
        if name not in (names := dict.fromkeys((NAME, *(loaded.info.name for _, loaded in self._versions)))):
            raise ModelNotFoundError(f"no model '{printable(name)}' here; there is {' or '.join(names)}")
        return info

    async def _verdicts(self, request: pb.ModelInferRequest, call: Call) -> tuple[list[v1.Verdict], list[str]]:
        """Judges the images side by side; also names the outputs that are wanted."""
        self._model(request.model_name, request.model_version)
        names, asked = wanted(request), ask(request)
        if "heatmap" in names:
            asked.options.heatmap = v1.HEATMAP_FORMAT_FLOAT
        asked.detector_version = self._versions.choose(request.model_version).info.version  # one for all images
        found = images(request, self._config.images_per_call)
        call.unanswered.images = found.count
        call = replace(call, deadline_s=call.expires_s(time.monotonic(), asked.timeout_ms))  # of all images together

        def at(place: int) -> tuple[str, v1.DetectRequest]:
            one = v1.DetectRequest(image=found.at(place))
            one.MergeFrom(asked)
            return f"{place}.", one

        if found.slow:
            every = await asyncio.to_thread(lambda: [at(place) for place in range(found.count)])
        try:
            verdicts = await self._judge.verdicts(
                found.count, every.__getitem__ if found.slow else at, call, all_or_nothing=True
            )
        except RequestError as error:
            raise RequestError(_field(error.field), error.description) from error
        except UnknownVersionError:
            raise NotReadyError("the detector was exchanged during the call: send it again") from None
        return cast(list[v1.Verdict], verdicts), names  # an error would have been raised


def _field(path: str) -> str:
    """PLACE.FIELD of a `DetectRequest`, as this protocol calls it."""
    place, _, field = path.partition(".")
    if field == "request_id":
        return "id"
    return f"inputs[0] image {place}" if field.startswith("image") else f"parameters[{field.removeprefix('options.')}]"
