"""`onnx:FILE`: a model in ONNX, computed by onnxruntime (the extra `onnx`).

The file's bytes are the net's only state: they go into a bundle like weights, the bundle's sha256 and the fingerprint
cover them, and whoever loads the bundle needs no file. Loading runs none of the file's code: a graph is data, operators
outside onnxruntime's own are refused, and so are weights in files beside it.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.classifier.sources.asked import (
    MOST_AT_ONCE,
    USUAL,
    Array,
    AskedArguments,
    AskedNet,
    arguments_of,
    chosen,
    read_input,
)
from detector.classifier.sources.net import Net
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import first_line, printable

__all__ = ["STATE", "build"]

STATE = "onnx"
"""Name of the file's bytes in the state dict."""
TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
QUIET = 3  # errors alone: what onnxruntime optimises is nobody's business

_log = logging.getLogger("heatward")


class OnnxNet(AskedNet):
    """An onnxruntime session in the place of a net; its state dict is the file."""

    def __init__(self, spec: ClassifierSpec, data: bytes, device: torch.device) -> None:
        options: AskedArguments = arguments_of(AskedArguments, spec)
        session = _session(spec, data, device)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) > 1:
            told = ", ".join(printable(each.name) for each in inputs)
            raise ClassifierSpecError(
                f"{spec.source} takes {len(inputs)} inputs ({told}), expected images alone: export it with the others "
                "fixed, as constants."
            )
        name = chosen(options.input, [each.name for each in inputs], "input", spec.source)
        output = chosen(options.output, [each.name for each in outputs], "output", spec.source, USUAL)
        (found,) = (each for each in inputs if each.name == name)
        shape = [size if isinstance(size, int) and size > 0 else None for size in found.shape]
        takes = read_input(name, shape, TYPES.get(found.type), spec, options.layout)

        def answer(parts: Sequence[Array]) -> list[Array]:
            return [_ran(session, spec, output, name, part) for part in parts]

        at_once = options.batch or MOST_AT_ONCE
        super().__init__(spec.source, takes, at_once, answer, len(spec.classes), options.answers)
        self.session = session
        self.data = torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + STATE] = self.data


def build(spec: ClassifierSpec, device: torch.device, state_dict: Mapping[str, Tensor] | None = None) -> Net:
    """The model of a file, or of the bytes that a bundle holds.

    Raises:
        ClassifierSpecError: onnxruntime is missing, the file is damaged, or the model takes no images.
    """
    if state_dict is None:
        path = Path(spec.name)
        if not path.is_file():
            raise ClassifierSpecError(f"{spec.source}: there is no file {path}.")
        data = path.read_bytes()
    elif set(state_dict) != {STATE}:
        raise ClassifierSpecError(f"The given state dict for {spec.source} holds no ONNX file: train the bundle again.")
    else:
        data = state_dict[STATE].cpu().numpy().tobytes()
    return Net(OnnxNet(spec, data, device), True, f"onnx:{hashlib.sha256(data).hexdigest()}")


def _session(spec: ClassifierSpec, data: bytes, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ClassifierSpecError(
            f"{spec.source} needs onnxruntime ({error}): pip install 'heatward[onnx]', or onnxruntime-gpu for a GPU."
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = torch.get_num_threads()  # its own default is every core there is
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave torch the cores
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    elif device.type == "cuda":
        _log.warning("%s computes on the CPU: this onnxruntime knows no CUDA (onnxruntime-gpu does)", spec.source)
    with tempfile.TemporaryDirectory() as nothing:  # where it would look for weights beside the file
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", nothing)
        try:
            return onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:  # its errors have no common base
            raise ClassifierSpecError(
                f"{spec.source} is no ONNX model that onnxruntime {onnxruntime.__version__} can load "
                f"({first_line(error)}): is the file whole, with its weights inside, in standard operators, and not "
                "newer than this onnxruntime?"
            ) from error


def _ran(session: Any, spec: ClassifierSpec, output: str, name: str, part: Array) -> Array:
    try:
        (scores,) = session.run([output], {name: part})
    except Exception as error:  # its errors have no common base
        raise ClassifierSpecError(
            f"{spec.source} failed on {len(part)} images of {part.shape[1:]} ({first_line(error)}): does it take so "
            "many at once (arguments.batch)?"
        ) from error
    return np.asarray(scores)
