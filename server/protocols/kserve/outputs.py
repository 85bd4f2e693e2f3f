"""**N `Verdict`s → the outputs of a KServe v2 `ModelInferResponse`**, each with batch dimension N."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from heatward.inference import grpc_service_pb2 as pb
from heatward.v1 import detection_pb2 as v1

from server.errors import RequestError
from server.protocols.kserve.inputs import refuse_elsewhere, unknown
from server.protocols.kserve.tensors import put

__all__ = ["OUTPUTS", "Output", "respond", "wanted"]


@dataclass(frozen=True, slots=True)
class Output:
    """An output: how it is read from a verdict, and its shape for one image, -1 where that varies."""

    datatype: str
    read: Callable[[v1.Verdict], Any]
    shape: tuple[int, ...] = ()
    only_where_asked: bool = False


def _heatmap(verdict: v1.Verdict) -> Any:
    found = verdict.heatmap.map
    return np.frombuffer(found.data, "<f4").reshape(found.height, found.width)


OUTPUTS = {
    "attacked": Output("BOOL", lambda verdict: verdict.attacked),
    "p_value": Output("FP64", lambda verdict: verdict.p_value),
    "attack_score": Output("FP64", lambda verdict: verdict.attack_score),
    "label": Output("INT32", lambda verdict: verdict.predicted.index),
    "probability": Output("FP64", lambda verdict: verdict.predicted.probability),
    "label_name": Output("BYTES", lambda verdict: verdict.predicted.name.encode()),
    "recovered_label": Output("INT32", lambda verdict: verdict.recovered[0].index),
    "recovered_probability": Output("FP64", lambda verdict: verdict.recovered[0].probability),
    "recovered_name": Output("BYTES", lambda verdict: verdict.recovered[0].name.encode()),
    "corrected_label": Output("INT32", lambda verdict: verdict.corrected.index),
    "corrected_probability": Output("FP64", lambda verdict: verdict.corrected.probability),
    "corrected_name": Output("BYTES", lambda verdict: verdict.corrected.name.encode()),
    "top_label": Output("INT32", lambda verdict: [label.index for label in verdict.top], (-1,), True),
    "top_probability": Output("FP64", lambda verdict: [label.probability for label in verdict.top], (-1,), True),
    "heatmap": Output("FP32", _heatmap, (-1, -1), True),
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
    request: pb.ModelInferRequest, names: Sequence[str], verdicts: Sequence[v1.Verdict]
) -> pb.ModelInferResponse:
    """Writes the answer; raw where the request's tensors came raw."""
    version = verdicts[0].detector_version
    response = pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=version,
        id=request.id,
        parameters={"detector_version": pb.InferParameter(string_param=version)},
    )
    raw = bool(request.raw_input_contents)
    for name in names:
        output = OUTPUTS[name]
        put(response, name, output.datatype, [output.read(verdict) for verdict in verdicts], raw=raw)
    return response
