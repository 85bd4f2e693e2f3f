"""**N `Answer`s → the outputs of a KServe v2 `ModelInferResponse`**, each with batch dimension N.

What the caller is not told is left out, whether it was asked for or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from heatward.inference import grpc_service_pb2 as pb

from server.errors import RequestError
from server.inference.answer import Answer
from server.inference.request import InferenceResult
from server.protocols.kserve.inputs import refuse_elsewhere, unknown
from server.protocols.kserve.tensors import put

__all__ = ["OUTPUTS", "Output", "respond", "wanted"]


@dataclass(frozen=True, slots=True)
class Output:
    """An output: how it is read from an answer (None: not told), and its shape for one image, -1 where that varies."""

    datatype: str
    read: Callable[[Answer], Any]
    shape: tuple[int, ...] = ()
    only_where_asked: bool = False
    ranked: bool = False
    """Best first, as many as are asked for."""


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _name(result: InferenceResult, labels: Sequence[tuple[int, float]]) -> bytes:
    """Of the first of them."""
    return result.model.label(labels[0][0]).encode()


def _tail(result: InferenceResult) -> tuple[float, float, float]:
    """The estimate and its interval."""
    tail = result.verdict.tail
    return (math.nan, math.nan, math.nan) if tail is None else (tail.probability, tail.low, tail.high)


def _detail(read: Callable[[InferenceResult], Any]) -> Callable[[Answer], Any]:
    """Reads what is told in full or not at all."""
    return lambda answer: None if answer.details is None else read(answer.details)


OUTPUTS = {
    "attacked": Output("BOOL", lambda answer: answer.attacked),
    "p_value": Output("FP64", _detail(lambda result: result.verdict.p_value)),
    "attack_score": Output("FP64", _detail(lambda result: result.verdict.attack_score)),
    "label": Output("INT32", lambda answer: answer.label),
    "probability": Output("FP64", lambda answer: answer.probability),
    "label_name": Output("BYTES", lambda answer: answer.model.label(answer.label).encode()),
    "recovered_label": Output("INT32", _detail(lambda result: result.verdict.recovered[0][0])),
    "recovered_probability": Output("FP64", _detail(lambda result: result.verdict.recovered[0][1])),
    "recovered_name": Output("BYTES", _detail(lambda result: _name(result, result.verdict.recovered))),
    "corrected_label": Output("INT32", _detail(lambda result: result.verdict.corrected[0])),
    "corrected_probability": Output("FP64", _detail(lambda result: result.verdict.corrected[1])),
    "corrected_name": Output("BYTES", _detail(lambda result: _name(result, [result.verdict.corrected]))),
    "top_label": Output("INT32", lambda answer: [label for label, _ in answer.top], (-1,), True, True),
    "top_probability": Output("FP64", lambda answer: [share for _, share in answer.top], (-1,), True, True),
    "error_rate": Output("FP64", _detail(lambda result: _or_nan(result.verdict.error_rate)), only_where_asked=True),
    "reliable": Output("BOOL", _detail(lambda result: bool(result.reliable)), only_where_asked=True),
    "tail_estimate": Output("FP64", _detail(_tail), (3,), only_where_asked=True),
    "calibration_group": Output(
        "BYTES", _detail(lambda result: result.verdict.calibration_group.encode()), only_where_asked=True
    ),
    "heatmap": Output("FP32", _detail(lambda result: result.verdict.heatmap), (-1, -1), True),
}
MOST = 8 * len(OUTPUTS)
"""Outputs that a request may name, some of them again and again."""


def wanted(request: pb.ModelInferRequest) -> list[str]:
    """Names of the outputs that the request asks for; where it names none, all but the costly ones.

    Raises:
        RequestError: There is no such output, or not in the form that is asked for.
    """
    if len(request.outputs) > MOST:
        raise RequestError("outputs", f"at most {MOST}, but came {len(request.outputs)}")
    for index, output in enumerate(request.outputs):
        if output.name not in OUTPUTS:
            raise RequestError(f"outputs[{index}].name", unknown(output.name, OUTPUTS))
        refuse_elsewhere(output.parameters, f"outputs[{index}]")
    named = dict.fromkeys(output.name for output in request.outputs)
    return list(named or (name for name, output in OUTPUTS.items() if not output.only_where_asked))


def respond(
    request: pb.ModelInferRequest, names: Sequence[str], answers: Sequence[Answer], top_k: int
) -> pb.ModelInferResponse:
    """Writes the answer; raw where the request's tensors came raw."""
    version = answers[0].model.version
    response = pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=version,
        id=request.id,
        parameters={"detector_version": pb.InferParameter(string_param=version)},
    )
    raw = bool(request.raw_input_contents)
    for name in names:
        output = OUTPUTS[name]
        values = [output.read(answer) for answer in answers]
        if any(value is None for value in values):
            continue
        if output.ranked:
            values = [value[:top_k] for value in values]
        put(response, name, output.datatype, values, raw=raw)
    return response
