"""`kserve:HOST:PORT/MODEL`: a model that a running server computes, asked by KServe v2 (Open Inference Protocol, gRPC).

    batches of images ─▶ a few ModelInfer calls in flight ─▶ scores;  a server that is away is asked again, then it is
    `ClassifierUnavailableError`, so that a job ends whole and a service answers UNAVAILABLE until it is back

Nobody can look at the weights. So the model's answers about a few made-up images are kept, and go into the bundle: a
model that answers otherwise when the bundle is loaded is another model, and refused. The address is no part of what the
classifier is: the same model may be asked elsewhere.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from detector.classifier.preprocessing import Normalized
from detector.classifier.sources.asked import USUAL, Array, AskedArguments, AskedNet, arguments_of, chosen, read_input
from detector.classifier.sources.net import Net
from detector.errors import ClassifierSpecError, ClassifierUnavailableError, FingerprintMismatchError
from detector.spec import ClassifierSpec
from detector.text import printable

__all__ = ["STATE", "KServeArguments", "KServeNet", "build"]

STATE = "answers"
"""Name of the answers about made-up images in the state dict."""
METHOD = "/inference.GRPCInferenceService/"
TYPES = {"FP32": "float32", "FP16": "float16", "UINT8": "uint8"}
SCORES = {"FP32": "<f4", "FP16": "<f2", "FP64": "<f8"}
BYTES_A_CALL = 3_500_000  # gRPC servers take messages of 4 MB unless they are told otherwise
IN_FLIGHT = 4
AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED")
"""Codes after which it may be there again."""
LONGEST_PAUSE_S = 5.0
ALIKE = 0.05
"""Of the spread of the answers: room for another device's arithmetic, none for another model's."""
MADE_UP = 4

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),  # the usual two minutes would outlast a restart by far
)

_log = logging.getLogger("heatward")


class KServeArguments(AskedArguments):
    """What `arguments` may tell of a model that is served elsewhere."""

    version: str = ""
    """Of the model; empty: the one that is served."""
    timeout_s: float = Field(default=10.0, gt=0)
    """How long one call may take."""
    retries: int = Field(default=3, ge=0)
    """How often a call is repeated where the server is away: after 0.2 s, 0.4 s, … of pause."""
    wait_s: float = Field(default=60.0, ge=0)
    """How long to wait at the start for a server that is not there yet."""
    ca: str | None = None
    """A file with the certificate authorities of a server that speaks TLS; none: a plain connection."""


class KServeNet(AskedNet):
    """A remote model in the place of a net; its state dict are its answers about made-up images."""

    def __init__(self, spec: ClassifierSpec, remote: Remote) -> None:
        options = remote.options
        described = remote.describe()
        name = chosen(options.input, [each.name for each in described.inputs], "input", spec.source)
        output = chosen(options.output, [each.name for each in described.outputs], "output", spec.source, USUAL)
        (found,) = (each for each in described.inputs if each.name == name)
        shape = [size if size > 0 else None for size in found.shape]
        takes = read_input(name, shape, TYPES.get(found.datatype), spec, options.layout)
        channels = 1 if spec.preprocessing.channel_order == "grey" else 3
        an_image = channels * spec.input_size[0] * spec.input_size[1] * np.dtype(takes.dtype).itemsize
        at_once = options.batch or max(1, BYTES_A_CALL // an_image)

        def answer(parts: Sequence[Array]) -> list[Array]:
            return remote.infer(parts, name, found.datatype, output)

        super().__init__(spec.source, takes, at_once, answer, len(spec.classes), options.answers)
        self.made_up: Tensor | None = None
        self.remembered: Tensor | None = None

    def remember(self, images: Tensor, before: Tensor | None) -> None:
        """Keep the answers about `images`, or those of `before` where they are the same.

        Raises:
            FingerprintMismatchError: It answers otherwise.
        """
        self.made_up = images
        now = self(images).log_softmax(1)
        if before is not None:
            self._compare(now, before)
        self.remembered = now if before is None else before

    def ask_again(self, before: Tensor | None = None) -> None:
        """See that it is the model that it was, or the one that answered `before`.

        Raises:
            FingerprintMismatchError: It answers otherwise.
            ClassifierUnavailableError: It does not answer.
        """
        before = self.remembered if before is None else before
        if self.made_up is not None and before is not None:
            self._compare(self(self.made_up).log_softmax(1), before)

    def _compare(self, now: Tensor, before: Tensor) -> None:
        spread = float((before - before.mean(1, keepdim=True)).abs().amax())
        moved = float((now - before).abs().amax()) if now.shape == before.shape else float("inf")
        if not moved <= ALIKE * spread + 1e-3:
            raise FingerprintMismatchError(
                f"{self.source} answers otherwise than it did (log-probabilities of made-up images moved by "
                f"{moved:.3g}, their spread is {spread:.3g}): it is another model. Serve the one that was asked "
                "before (a bundle belongs to it), or begin anew with this one: train, or adapt."
            )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.remembered is not None:
            destination[prefix + STATE] = self.remembered


class Remote:
    """A channel to a KServe v2 server and one of its models. Calls are made on the thread that asks."""

    def __init__(self, spec: ClassifierSpec) -> None:
        try:
            import grpc
            from heatward.inference import grpc_service_pb2
        except ImportError as error:
            raise ClassifierSpecError(f"{spec.source} needs grpcio and heatward's contracts ({error}).") from error
        self.grpc, self.messages = grpc, grpc_service_pb2
        self.options: KServeArguments = arguments_of(KServeArguments, spec)
        self.source = spec.source
        self.address, _, self.model = spec.name.partition("/")
        port = self.address.rpartition(":")[2]
        if not self.model or not port.isdecimal() or int(port) > 65535:  # of 99999, gRPC would ask 34463
            raise ClassifierSpecError(f'{spec.source}: expected "kserve:HOST:PORT/MODEL", a port of at most 65535.')
        if self.options.ca is None:
            self.channel = grpc.insecure_channel(self.address, options=OPTIONS)
        else:
            try:
                authorities = Path(self.options.ca).read_bytes()
            except OSError as error:
                raise ClassifierSpecError(
                    f"{spec.source}: arguments.ca: {self.options.ca} cannot be read: {error.strerror}."
                ) from error
            credentials = grpc.ssl_channel_credentials(authorities)
            self.channel = grpc.secure_channel(self.address, credentials, options=OPTIONS)

    def describe(self) -> Any:
        """The model's metadata, once its server is there."""
        request = self.messages.ModelMetadataRequest(name=self.model, version=self.options.version)
        until_s = time.monotonic() + self.options.wait_s
        while True:
            try:
                return self._all("ModelMetadata", [request], self.messages.ModelMetadataResponse)[0]
            except ClassifierUnavailableError as error:
                if time.monotonic() >= until_s:
                    raise
                _log.warning("%s is waited for: %s", self.source, error)
                time.sleep(min(1.0, max(0.0, until_s - time.monotonic())))

    def infer(self, parts: Sequence[Array], name: str, datatype: str, output: str) -> list[Array]:
        """The scores of some batches, a call each."""
        requests = []
        for part in parts:
            request = self.messages.ModelInferRequest(
                model_name=self.model, model_version=self.options.version, raw_input_contents=[part.tobytes()]
            )
            request.inputs.add(name=name, datatype=datatype, shape=part.shape)
            request.outputs.add(name=output)
            requests.append(request)
        answers = self._all("ModelInfer", requests, self.messages.ModelInferResponse)
        return [self._scores(answer, output) for answer in answers]

    def _all(self, method: str, requests: Sequence[Any], kind: Any) -> list[Any]:
        """The answers to all requests; those that a server which is away left open are asked again."""
        call = self.channel.unary_unary(
            METHOD + method,
            request_serializer=type(requests[0]).SerializeToString,
            response_deserializer=kind.FromString,
        )
        answers: list[Any] = [None] * len(requests)
        left, pause_s = list(range(len(requests))), 0.2
        for attempt in range(self.options.retries + 1):
            failed, error = [], None
            for start in range(0, len(left), IN_FLIGHT):
                places = left[start : start + IN_FLIGHT]
                if error is not None:  # away: the others would wait in vain
                    failed += places
                    continue
                flying = [call.future(requests[place], timeout=self.options.timeout_s) for place in places]
                for place, future in zip(places, flying, strict=True):
                    try:
                        answers[place] = future.result()
                    except self.grpc.RpcError as failure:
                        self._refuse(method, failure)
                        failed.append(place)
                        error = failure
            if error is None:
                return answers
            left = failed
            if attempt < self.options.retries:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise ClassifierUnavailableError(
            f"{self.source}: {self.address} does not answer {method} ({_told(error)}; asked {attempt + 1} times): is "
            "the server up, and does it take that many images at once (arguments batch, timeout_s, retries)?"
        ) from error

    def _refuse(self, method: str, error: Any) -> None:
        """Raises what no repetition would mend."""
        if error.code().name not in AWAY:
            raise ClassifierSpecError(
                f"{self.source}: {self.address} refuses {method} ({_told(error)}): check the model's name, version and "
                "input, and how many images it takes at once (arguments batch)."
            ) from error

    def _scores(self, answer: Any, output: str) -> Array:
        for place, each in enumerate(answer.outputs):
            if each.name != output:
                continue
            if each.datatype not in SCORES:
                break
            dtype = np.dtype(SCORES[each.datatype])
            if answer.raw_output_contents:
                data = answer.raw_output_contents[place] if place < len(answer.raw_output_contents) else b""
                values = np.frombuffer(data, dtype) if len(data) % dtype.itemsize == 0 else np.zeros(0, dtype)
            else:
                contents = each.contents.fp64_contents if each.datatype == "FP64" else each.contents.fp32_contents
                values = np.array(contents, dtype)
            if min(each.shape, default=1) < 0 or values.size != math.prod(each.shape):
                break
            return values.reshape(tuple(each.shape))
        told = ", ".join(f"{printable(each.name)} {each.datatype} {list(each.shape)}" for each in answer.outputs)
        raise ClassifierSpecError(
            f"{self.source} answers {told or 'nothing'}, expected whole scores {printable(output)!r} of "
            f"{', '.join(SCORES)}."
        )


def build(spec: ClassifierSpec, device: torch.device, state_dict: Mapping[str, Tensor] | None = None) -> Net:
    """The model of a running server.

    Raises:
        ClassifierSpecError: There is no such model, or it takes no images.
        ClassifierUnavailableError: The server does not answer.
        FingerprintMismatchError: It answers otherwise than a bundle remembers.
    """
    remote = Remote(spec)
    net = KServeNet(spec, remote)
    before = None if state_dict is None else state_dict.get(STATE)
    net.remember(_made_up(spec), None if before is None else before.float())
    deciding = remote.options.model_dump(include={"version", "input", "output", "layout", "answers"}, exclude_none=True)
    identity = json.dumps({"kserve": remote.model} | deciding, sort_keys=True)
    return Net(net, True, identity, fingerprinted=False)


def _made_up(spec: ClassifierSpec) -> Tensor:
    """Images as the net gets them: soft colours, normalised."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(MADE_UP, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(small, size=spec.input_size, mode="bilinear", align_corners=False)
    seen: Tensor = Normalized(nn.Identity(), spec.preprocessing).normalised(images)
    return seen


def _told(error: Any) -> str:
    return f"{error.code().name}: {printable(error.details() or '', 300)}"
