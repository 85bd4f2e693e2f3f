"""`inference.GRPCInferenceService`: the detector as a model of the KServe v2 protocol (Open Inference Protocol).

    ModelInfer ─▶ one InferenceRequest per image ─▶ the pipeline, side by side ─▶ outputs with batch dimension N

All or nothing: the first image that fails fails the call. ModelConfig and ModelStatistics are Triton's extensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import grpc
from heatward.inference import grpc_service_pb2 as pb
from heatward.inference import grpc_service_pb2_grpc as pb_grpc

from detector.text import printable
from server.config import ServerConfig
from server.errors import ModelNotFoundError
from server.inference.pipeline import Pipeline
from server.inference.request import InferenceResult
from server.models.registry import ModelRegistry
from server.models.served_model import ServedModel
from server.observers.statistics import Statistics
from server.protocols.kserve.inputs import Options, images, options
from server.protocols.kserve.model import EXTENSIONS, NAME, configuration, metadata
from server.protocols.kserve.outputs import respond, wanted
from server.surroundings import release
from server.transport.rpc_context import RpcContext
from server.transport.rpc_contexts import RpcContexts

__all__ = ["InferenceService"]


class InferenceService(pb_grpc.GRPCInferenceServiceServicer):
    """Answers for one model, called `heatward` or as its bundle.

    Args:
        config: Limits.
        registry: The models.
        pipeline: Gives the results.
        rpcs: Knows the calls.
        ready: Whether health says SERVING.
        statistics: What is told about the model's work; the engine's batches are fed to it elsewhere.
    """

    def __init__(
        self,
        config: ServerConfig,
        registry: ModelRegistry,
        pipeline: Pipeline,
        rpcs: RpcContexts,
        ready: Callable[[], bool],
        statistics: Statistics,
    ) -> None:
        self._config = config
        self._registry = registry
        self._pipeline = pipeline
        self._rpcs = rpcs
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
        async with self._rpcs.begin("ModelReady", context):
            if response.ready:
                self._model(request.name, request.version)
        return response

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        response = pb.ServerMetadataResponse(name=NAME, extensions=EXTENSIONS)
        async with self._rpcs.begin("ServerMetadata", context):
            _ = self._registry.current
            response.version = release()
        return response

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        response = pb.ModelMetadataResponse()
        async with self._rpcs.begin("ModelMetadata", context):
            self._model(request.name, request.version)
            response = metadata(request.name, [model.version for _, model in self._registry])
        return response

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelConfigResponse:
        response = pb.ModelConfigResponse()
        async with self._rpcs.begin("ModelConfig", context):
            self._model(request.name, request.version)
            response.config.CopyFrom(configuration(request.name, self._config))
        return response

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        response = pb.ModelStatisticsResponse()
        async with self._rpcs.begin("ModelStatistics", context):
            name = request.name or NAME
            response.model_stats.append(self._statistics.message(name, self._model(name, request.version).version))
        return response

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse()
        async with self._rpcs.begin("ModelInfer", context, request.id) as rpc:
            started_s = time.monotonic()
            try:
                self._model(request.model_name, request.model_version)
                names, asked = wanted(request), options(request)
                results = await self._results(request, asked, rpc)
                judged_s = time.monotonic()
                response = respond(request, names, results, asked.top_k)
            except Exception:
                self._statistics.call_failed(time.monotonic() - started_s)
                raise
            ended_s = time.monotonic()
            self._statistics.call_answered(ended_s - started_s, ended_s - judged_s, results)
        return response

    def _model(self, name: str, version: str) -> ServedModel:
        """The model of this version, where one is called that.

        Raises:
            ModelNotFoundError: None is.
            UnknownVersionError: It is not loaded.
            NotReadyError: None is loaded yet.
        """
        found = self._registry.named(version)
        if name not in (names := dict.fromkeys((NAME, *(model.name for _, model in self._registry)))):
            raise ModelNotFoundError(f"no model '{printable(name)}' here; there is {' or '.join(names)}")
        return found

    async def _results(self, request: pb.ModelInferRequest, asked: Options, rpc: RpcContext) -> list[InferenceResult]:
        """Judges the images side by side."""
        model = self._registry.choose(request.model_version)  # one for all images
        found = images(request, self._config.images_per_call)
        rpc.unanswered.images = found.count
        rpc = replace(rpc, deadline_s=rpc.expires_s(time.monotonic(), asked.timeout_ms))  # of all images together
        results = await self._pipeline.results(
            found.count, lambda place: asked.to_inference(found.at(place), model), rpc, all_or_nothing=True
        )
        return cast(list[InferenceResult], results)  # an error would have been raised
