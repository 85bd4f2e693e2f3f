"""`inference.GRPCInferenceService`: the detector as a model of the KServe v2 protocol (Open Inference Protocol).

    ModelInfer ─▶ one InferenceRequest per image ─▶ the pipeline, side by side ─▶ outputs with batch dimension N

All or nothing: the first image that fails fails the call. ModelConfig and ModelStatistics are Triton's extensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import grpc
from heatward.inference import grpc_service_pb2 as pb
from heatward.inference import grpc_service_pb2_grpc as pb_grpc

from detector.text import printable
from server.access.disclosure import Disclosure
from server.errors import ModelNotFoundError
from server.inference.answer import disclosed
from server.inference.context import RequestContext
from server.inference.request import InferenceResult
from server.models.served_model import ServedModel
from server.observers.statistics import Statistics
from server.protocols.kserve.inputs import Options, images, options
from server.protocols.kserve.model import EXTENSIONS, NAME, configuration, metadata
from server.protocols.kserve.outputs import respond, wanted
from server.protocols.service import Service, answered
from server.surroundings import release

__all__ = ["InferenceService"]


@dataclass(eq=False)
class InferenceService(Service, pb_grpc.GRPCInferenceServiceServicer):
    """Answers for one model, called `heatward` or as its bundle."""

    ready: Callable[[], bool]
    """Whether health says SERVING."""
    statistics: Statistics
    """Told of calls; the engine's batches are fed to it elsewhere."""

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready())

    @answered()
    async def ModelReady(self, request: pb.ModelReadyRequest, rpc: RequestContext) -> pb.ModelReadyResponse:
        ready = self.ready()
        if ready:
            self._model(request.name, request.version)
        return pb.ModelReadyResponse(ready=ready)

    @answered()
    async def ServerMetadata(self, request: pb.ServerMetadataRequest, rpc: RequestContext) -> pb.ServerMetadataResponse:
        _ = self.registry.current
        return pb.ServerMetadataResponse(name=NAME, version=release(), extensions=EXTENSIONS)

    @answered()
    async def ModelMetadata(self, request: pb.ModelMetadataRequest, rpc: RequestContext) -> pb.ModelMetadataResponse:
        self._model(request.name, request.version)
        return metadata(request.name, [model.version for _, model in self.registry])

    @answered()
    async def ModelConfig(self, request: pb.ModelConfigRequest, rpc: RequestContext) -> pb.ModelConfigResponse:
        self._model(request.name, request.version)
        return pb.ModelConfigResponse(config=configuration(request.name, self.config))

    @answered()
    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, rpc: RequestContext
    ) -> pb.ModelStatisticsResponse:
        name = request.name or NAME
        version = self._model(name, request.version).version
        if rpc.disclosure is not Disclosure.FULL:  # what an image took tells how far the detector went
            return pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(name=name, version=version)])
        return pb.ModelStatisticsResponse(model_stats=[self.statistics.message(name, version)])

    @answered(lambda request: request.id)
    async def ModelInfer(self, request: pb.ModelInferRequest, rpc: RequestContext) -> pb.ModelInferResponse:
        started_s = time.monotonic()
        try:
            self._model(request.model_name, request.model_version)
            names, asked = wanted(request), options(request)
            results = await self._results(request, asked, rpc)
            judged_s = time.monotonic()
            answers = [disclosed(each, rpc.disclosure) for each in results]
            response = respond(request, names, answers, asked.top_k)
        except Exception:
            self.statistics.call_failed(time.monotonic() - started_s)
            raise
        ended_s = time.monotonic()
        self.statistics.call_answered(ended_s - started_s, ended_s - judged_s, results)
        return response

    def _model(self, name: str, version: str) -> ServedModel:
        """The model of this version, where one is called that.

        Raises:
            ModelNotFoundError: None is.
            UnknownVersionError: It is not loaded.
            NotReadyError: None is loaded yet.
        """
        found = self.registry.named(version)
        if name not in (names := dict.fromkeys((NAME, *(model.name for _, model in self.registry)))):
            raise ModelNotFoundError(f"no model '{printable(name)}' here; there is {' or '.join(names)}")
        return found

    async def _results(
        self, request: pb.ModelInferRequest, asked: Options, rpc: RequestContext
    ) -> list[InferenceResult]:
        """Judges the images side by side."""
        model = self.registry.choose(  # one for all images
            request.model_version, lambda canary: asked.checked(canary, rpc.disclosure)
        )
        found = images(request, self.config.images_per_call)
        rpc.unanswered.images = found.count
        rpc = replace(rpc, deadline_s=rpc.expires_s(time.monotonic(), asked.timeout_ms))  # of all images together
        results = await self.pipeline.results(
            found.count,
            lambda place: asked.to_inference(found.at(place), model, rpc.disclosure),
            rpc,
            all_or_nothing=True,
        )
        return cast(list[InferenceResult], results)  # an error would have been raised
