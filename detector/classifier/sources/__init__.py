"""Where the model under guard comes from: `ClassifierSpec` → build, load weights → **an `nn.Module` in eval mode**.

`complete` makes a spec of what a person wrote, who may leave to the source what the source knows.

A bundle from elsewhere may not make us run code or send images away: then `python:` modules, program files
(torch evaluates expressions in them) and `kserve:` servers outside an allow list are refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from detector.classifier.sources import hf, kserve, onnx, programs, python, timm, torchvision
from detector.classifier.sources.known import Known, completed
from detector.classifier.sources.net import Net
from detector.classifier.state_dict import load_into
from detector.classifier.weights import is_weights_file, read_weights, torchvision_weights
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSource, ClassifierSpec

__all__ = ["TRUSTED_MODULES", "Net", "build_net", "complete", "known_classes"]

TRUSTED_MODULES = ("detector.architectures",)
"""Modules whose factories any bundle may name."""

_log = logging.getLogger("heatward")


def complete(described: ClassifierSource, classes: Sequence[str] | None = None) -> ClassifierSpec:
    """A spec with nothing left out: what a person wrote, and what the source knows of the rest.

    Args:
        described: As a person wrote it.
        classes: Names of the classes where `described` gives none; they win over those that the source knows.

    Raises:
        ClassifierSpecError: The source cannot be opened, or something is left that it does not know.
    """
    return completed(described, _known(described), classes)


def known_classes(described: ClassifierSource) -> tuple[str, ...] | None:
    """The names that its source knows of the classes of this very head, in the order of the logits."""
    return described.classes or _known(described).classes


def _known(described: ClassifierSource) -> Known:
    look = _KNOWN.get(described.kind)
    return look(described) if look else Known(described.source, described.weights, described.arguments)


def build_net(
    spec: ClassifierSpec,
    *,
    device: torch.device,
    state_dict: dict[str, Tensor] | None = None,
    allow: Collection[str] | None = None,
) -> Net:
    """Build the net of `spec` and give it its weights; torch's random state stays as it was.

    Args:
        spec: What to build.
        device: Where it will run.
        state_dict: Weights that win over `spec.weights` (from a bundle).
        allow: Python modules (or packages) and program files it may run, and servers (`HOST:PORT`) it may ask, beside
            `TRUSTED_MODULES`; None: any.

    Raises:
        ClassifierSpecError: The source or the weights cannot be used.
    """
    if allow is not None:
        _check_allowed(spec, allow)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # unlike torch.manual_seed, leaves CUDA alone
        asked = _ASKED.get(spec.kind)
        net = asked(spec, device, state_dict) if asked else _BUILDERS[spec.kind](spec, device)
    if asked or not net.embeddable:
        if spec.weights:
            raise ClassifierSpecError(f"{spec.source} carries its own weights: leave `weights` out.")
        return net
    if state_dict is not None:
        load_into(net.module, state_dict, f"The given state dict for {spec.source}")
    elif spec.weights is None:
        if spec.kind != "python":
            _log.warning("%s has no `weights`: it is freshly initialised, an untrained classifier", spec.source)
    elif spec.kind == "hf" and (Path(spec.weights).is_dir() or is_weights_file(spec.weights)):
        load_into(net.module, hf.converted_weights(spec), spec.weights)
    elif is_weights_file(spec.weights):
        load_into(net.module, read_weights(spec.weights), spec.weights)
    elif spec.kind == "torchvision":
        load_into(net.module, torchvision_weights(spec.name, spec.weights), spec.weights)
    else:
        raise ClassifierSpecError(
            f"weights {spec.weights!r} of {spec.source} is no file *.safetensors, *.pt, *.pth, *.ckpt or *.bin: "
            "give one."
        )
    net.module.eval()
    return net


def _check_allowed(spec: ClassifierSpec, allow: Collection[str]) -> None:
    trusted = (*TRUSTED_MODULES, *allow)
    if spec.kind == "python":
        code = spec.name.partition(":")[0]
        allowed = any(code == name or code.startswith(f"{name}.") for name in trusted)
    else:
        code = spec.name.partition("/")[0] if spec.kind == "kserve" else spec.name
        allowed = spec.kind not in ("export", "torchscript", "kserve") or code in trusted
    if not allowed:
        what, kind = ("sends images to", "server") if spec.kind == "kserve" else ("runs code from", "code")
        raise ClassifierSpecError(
            f"The bundle's classifier {spec.source} {what} {code!r}, which is not trusted: if you know this {kind}, "
            f"allow it with --trusted {code} (in serve.toml: trusted = [{json.dumps(code)}]; in the parameters of an "
            f"attack of `heatward train`: trusted = {json.dumps(code)}; in Python: allow=[{code!r}])."
        )


_ASKED: dict[str, Callable[[ClassifierSpec, torch.device, dict[str, Tensor] | None], Net]] = {
    "onnx": onnx.build,
    "kserve": kserve.build,
}
"""Models that cannot be opened: what a bundle holds of one is read by its own builder."""
_BUILDERS: dict[str, Callable[[ClassifierSpec, torch.device], Net]] = {
    "torchvision": torchvision.build,
    "timm": timm.build,
    "hf": hf.build,
    "export": programs.build_export,
    "torchscript": programs.build_torchscript,
    "python": python.build,
}
_KNOWN: dict[str, Callable[[ClassifierSource], Known]] = {
    "torchvision": torchvision.known,
    "timm": timm.known,
    "hf": hf.known,
}
