"""A KServe v2 server that computes a net, for those who ask a model: may be slow, busy, away, or another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import tiny
import torch
from heatward.inference import grpc_service_pb2 as kserve
from torch import Tensor, nn

SERVICE = "/inference.GRPCInferenceService/"
MODEL = "textures"


class ModelServer(grpc.GenericRpcHandler):
    """Serves `net`: raw FP32 of [N, 3, 16, 16] in, FP32 logits of [N, 4] out.

    Attributes:
        refusals: Codes that the next calls of ModelInfer are answered with.
        calls: Images of each call of ModelInfer.
        shape: What it says of its input.
        most: Images that it takes at once.
    """

    def __init__(self, net: nn.Module | None = None) -> None:
        if net is None:
            net = tiny.net()
            net.load_state_dict(tiny.trained_weights())
        self.net: Callable[[Tensor], Tensor] = net.eval()
        self.refusals: list[grpc.StatusCode] = []
        self.calls: list[int] = []
        self.shape = [-1, 3, tiny.SIDE, tiny.SIDE]
        self.most = 1000
        self.port = 0
        self._server: grpc.Server | None = None

    @property
    def source(self) -> str:
        return f"kserve:127.0.0.1:{self.port}/{MODEL}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """On the port it had before, if it had one."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method.removeprefix(SERVICE)
        if method == "ModelMetadata":
            return grpc.unary_unary_rpc_method_handler(self._metadata)
        if method == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self._infer)
        return None

    def _metadata(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        name = kserve.ModelMetadataRequest.FromString(data).name
        if name != MODEL:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {name}")
        answer = kserve.ModelMetadataResponse(name=name)
        answer.inputs.add(name="images", datatype="FP32", shape=self.shape)
        answer.outputs.add(name="logits", datatype="FP32", shape=[-1, len(tiny.CLASSES)])
        return answer.SerializeToString()

    def _infer(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        request = kserve.ModelInferRequest.FromString(data)
        shape = tuple(request.inputs[0].shape)
        self.calls.append(shape[0])
        if self.refusals:
            context.abort(self.refusals.pop(0), "not now")
        if shape[0] > self.most:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"at most {self.most} images")
        images = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(shape)
        with torch.no_grad():
            logits = self.net(torch.from_numpy(images.copy())).numpy()
        answer = kserve.ModelInferResponse(model_name=MODEL, raw_output_contents=[logits.astype("<f4").tobytes()])
        answer.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        return answer.SerializeToString()


@contextmanager
def model_server(net: nn.Module | None = None) -> Iterator[ModelServer]:
    """A running one, on a free port."""
    server = ModelServer(net)
    server.start()
    try:
        yield server
    finally:
        server.stop()
