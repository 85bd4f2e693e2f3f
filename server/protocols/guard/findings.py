"""What the guard found in the images of one call, and what it makes of upstream's answer.

findings → **parameters** that are added to the answer, **an error** in place of it, or **other labels** in its output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from heatward.inference import grpc_service_pb2 as kserve
from numpy.typing import NDArray

from server.access.disclosure import Disclosure
from server.errors import AdversarialInputError, ServiceError, UnjudgedError
from server.inference.answer import disclosed
from server.inference.request import InferenceResult
from server.protocols.kserve.tensors import CONTENTS, DTYPES

__all__ = ["Finding", "annotation", "corrected", "rejection", "unjudged"]

PREFIX = "heatward_"
LISTED = 32
"""Most images that an error names: it travels in a header, and clients take no more than 8 KiB of those."""
KINDS: dict[type, str] = {str: "string_param", float: "double_param", int: "int64_param"}
NUMBERS = DTYPES.keys() - {"BOOL", "BF16", "BYTES"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Of one image."""

    result: InferenceResult | None
    """None: it could not be judged."""
    reason: str = ""
    """Why there is no verdict, or why it could not be acted on."""
    disclosure: Disclosure = Disclosure.FULL
    """How much of it the caller is told; the policy acts on all of it."""

    @property
    def _told(self) -> InferenceResult | None:
        """All of it, where the caller may know."""
        return None if self.result is None else disclosed(self.result, self.disclosure).details

    @property
    def attacked(self) -> bool:
        return self.result is not None and self.result.attacked

    @property
    def word(self) -> str:
        return "unknown" if self.result is None else "attacked" if self.attacked else "clean"

    @property
    def p_value(self) -> float | None:
        return None if self._told is None else self._told.verdict.p_value

    @property
    def error_rate(self) -> float | None:
        """The smallest promised error rate at which the prediction is accepted, where one is promised."""
        return None if self._told is None else self._told.verdict.error_rate

    @property
    def tail_estimate(self) -> float | None:
        """How rare such a score may be among clean images, where it is higher than all of theirs."""
        tail = None if self._told is None else self._told.verdict.tail
        return None if tail is None else tail.probability

    @property
    def calibration_group(self) -> str | None:
        """The clean images that its p-value ranks it among, where they are not all."""
        return None if self._told is None else self._told.verdict.calibration_group or None

    @property
    def recovered(self) -> int | None:
        """The best estimate of the class that an attacked image showed before."""
        recovered = self._told.verdict.recovered if self._told is not None and self.attacked else ()
        return recovered[0][0] if recovered else None

    @property
    def corrected(self) -> int | None:
        """The class to go on with where an image is flagged: of all flagged images, it is right for more of them."""
        return self._told.verdict.corrected[0] if self._told is not None and self.attacked else None

    @property
    def replacement(self) -> int | None:
        """The corrected label of an attacked image; None where it confirms the prediction: upstream's answer stands."""
        if self.result is None or not self.attacked or self.result.verdict.corrected[0] == self.result.verdict.label:
            return None
        return self.result.verdict.corrected[0]

    def name(self, index: int | None) -> str | None:
        """Of a class, or its number where it has none."""
        return None if index is None or self.result is None else self.result.model.label(index) or str(index)


def annotation(findings: Sequence[Finding]) -> bytes:
    """A `ModelInferResponse` with nothing but our parameters: put behind another's bytes, it adds them to its own.

    One image: plain values. More: JSON lists of as many, null where an image has none. Left out where all are null.
    """
    columns: dict[str, list[Any]] = {
        "verdict": [each.word for each in findings],
        "p_value": [each.p_value for each in findings],
        "error_rate": [each.error_rate for each in findings],
        "tail_estimate": [each.tail_estimate for each in findings],
        "calibration_group": [each.calibration_group for each in findings],
        "recovered_label": [each.name(each.recovered) for each in findings],
        "recovered_index": [each.recovered for each in findings],
        "corrected_label": [each.name(each.corrected) for each in findings],
        "corrected_index": [each.corrected for each in findings],
        "reason": [each.reason or None for each in findings],
    }
    response = kserve.ModelInferResponse()
    for name, column in columns.items():
        if any(value is not None for value in column):
            value = column[0] if len(column) == 1 else json.dumps(column)
            setattr(response.parameters[PREFIX + name], KINDS[type(value)], value)
    return response.SerializeToString()


def rejection(findings: Sequence[Finding]) -> AdversarialInputError:
    """The error for a call with attacked images; its metadata lists the first of them, separated by commas."""
    found = [(place, each) for place, each in enumerate(findings) if each.attacked]
    message = f"{len(found)} of {len(findings)} images attacked, the first at index {found[0][0]}"
    found = found[:LISTED]
    metadata = {"index": ",".join(str(place) for place, _ in found)}
    p_values = [f"{each.p_value:.6g}" for _, each in found if each.p_value is not None]
    if p_values:  # all of a call are told alike
        recovered = ("" if each.recovered is None else str(each.recovered) for _, each in found)
        metadata |= {"p_value": ",".join(p_values), "recovered_index": ",".join(recovered)}
    return AdversarialInputError(message, **metadata)


def unjudged(findings: Sequence[Finding]) -> UnjudgedError:
    """The error for a call with images that have no verdict, or one that could not be acted on."""
    failed = [(place, each.reason) for place, each in enumerate(findings) if each.reason]
    return UnjudgedError(f"not judged: {failed[0][1]}", index=",".join(str(place) for place, _ in failed[:LISTED]))


def corrected(answer: bytes, findings: Sequence[Finding], name: str | None) -> bytes:
    """Puts corrected labels in the place of those of attacked images.

    Integers, one for each image, are labels: overwritten. Floating-point numbers, K for each image, are scores: the
    largest one and the corrected label's are exchanged. Where the corrected label is the predicted one, they stay.

    Args:
        answer: A `ModelInferResponse`.
        findings: One for each image.
        name: Of the output; None: the only one.

    Raises:
        ServiceError: There is no such output, or it is neither labels nor scores of these images.
    """
    response = kserve.ModelInferResponse.FromString(answer)
    found = [place for place, tensor in enumerate(response.outputs) if name in (None, tensor.name)]
    if len(found) != 1:
        wanted = f"one output {name!r}" if name else "one output; which holds labels or scores? set upstream_output"
        raise ServiceError(f"expected {wanted}, but upstream sent {[tensor.name for tensor in response.outputs]}")
    tensor, raw = response.outputs[found[0]], response.raw_output_contents
    what = f"output {tensor.name!r}, {tensor.datatype} of {list(tensor.shape)},"
    if tensor.datatype not in NUMBERS or (len(raw) != len(response.outputs) if raw else tensor.datatype == "FP16"):
        raise ServiceError(f"{what} holds no labels or scores that can be read")
    dtype = np.dtype(DTYPES[tensor.datatype])
    typed = None if raw else getattr(tensor.contents, CONTENTS[tensor.datatype])
    came, count = (len(raw[found[0]]) / dtype.itemsize if typed is None else len(typed)), math.prod(tensor.shape)
    if came != count:
        raise ServiceError(f"{what} holds {came:g} elements")
    values = np.frombuffer(raw[found[0]], dtype).copy() if typed is None else np.array(typed, dtype)
    _correct(values, findings, what)
    if typed is None:
        raw[found[0]] = values.tobytes()
    else:
        typed[:] = values.tolist()
    return response.SerializeToString()


def _correct(values: NDArray[Any], findings: Sequence[Finding], what: str) -> None:
    """Writes into `values`, (N,) labels or (N · K,) scores."""
    per_image, rest = divmod(values.size, len(findings))
    labels = values.dtype.kind in "iu" and per_image == 1
    if rest or not (labels or (values.dtype.kind == "f" and per_image > 1)):
        raise ServiceError(f"{what} holds neither labels nor scores: {values.size} elements for {len(findings)} images")
    rows = values.reshape(len(findings), per_image)
    classes = np.iinfo(values.dtype).max + 1 if labels else per_image
    for row, finding in zip(rows, findings, strict=True):
        index = finding.replacement
        if index is None:
            continue
        if index >= classes:
            raise ServiceError(f"{what} has no class {index}: both models must number the same classes alike")
        if labels:
            row[0] = index
        else:
            top = int(row.argmax())
            row[[top, index]] = row[[index, top]]
