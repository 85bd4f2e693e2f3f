"""`torchscript:FILE` and `export:FILE`: a program that torch itself saved."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType

import torch
from torch import nn

from detector.classifier.sources.net import Net
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import briefly

__all__ = ["build_export", "build_torchscript"]


def build_torchscript(spec: ClassifierSpec, device: torch.device) -> Net:
    path, digest = _file(spec)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ClassifierSpecError(
            f"{path} is no TorchScript program ({briefly(error)}): save it with torch.jit.save."
        ) from error
    return Net(module.eval(), False, f"torchscript:{digest}")


def build_export(spec: ClassifierSpec, device: torch.device) -> Net:
    path, digest = _file(spec)
    try:
        with warnings.catch_warnings(), _without_unpickling():
            warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
            program = torch.export.load(path)
    except Exception as error:  # the deserialiser raises many kinds
        raise ClassifierSpecError(
            f"{path} is no exported program ({briefly(error)}): save it with torch.export.save."
        ) from error
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or isinstance(inputs[0].meta["val"].shape[0], int):
        raise ClassifierSpecError(
            f"{path} has a fixed batch size or more than one input: export it again with a dynamic batch dimension, "
            'torch.export.export(net.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)) '
            "with at least two example images."
        )
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return Net(_in_its_mode(program.module()), False, f"export:{digest}")


def _in_its_mode(module: nn.Module) -> nn.Module:
    """A program that takes `eval()`, as every net does: it stays as it was exported; torch itself would raise."""
    for name in ("eval", "train"):
        setattr(module, name, MethodType(lambda self, mode=False: self, module))
    return module


@contextmanager
def _without_unpickling() -> Iterator[None]:
    """`torch.export.load` unpickles what it cannot read otherwise, unless the environment forbids it."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _file(spec: ClassifierSpec) -> tuple[Path, str]:
    path = Path(spec.name)
    if not path.is_file():
        raise ClassifierSpecError(f"{spec.source}: there is no file {path}.")
    with path.open("rb") as stream:
        return path, hashlib.file_digest(stream, "sha256").hexdigest()
