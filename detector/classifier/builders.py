"""Where the model under guard comes from: `ClassifierSpec` → build, load weights → **an `nn.Module` in eval mode**.

A bundle from elsewhere may not make us run code: then `python:` modules and program files (`torch.export.load`
unpickles) outside an allow list are refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detector.classifier.weights import is_weights_file, load_into, read_weights, torchvision_weights
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import nearest

__all__ = ["TRUSTED_MODULES", "Net", "build_net"]

TRUSTED_MODULES = ("detector.architectures",)
"""Modules whose factories any bundle may name."""

_log = logging.getLogger("heatward")


@dataclass(frozen=True)
class Net:
    """A net as it came from its source.

    Attributes:
        module: Normalised images (B, 3, H, W) → logits (B, K), in eval mode.
        embeddable: Whether spec + state dict are enough to build it again; otherwise its file is needed.
        identity: What names the architecture in the fingerprint, free of paths.
    """

    module: nn.Module
    embeddable: bool
    identity: str


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
        allow: Python modules (or packages) and program files it may run beside `TRUSTED_MODULES`; None: any.

    Raises:
        ClassifierSpecError: The source or the weights cannot be used.
    """
    if allow is not None:
        _check_allowed(spec, allow)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # unlike torch.manual_seed, leaves CUDA alone
        net = _BUILDERS[spec.kind](spec, device)
    if not net.embeddable:
        if spec.weights:
            raise ClassifierSpecError(f"{spec.source} carries its own weights: leave `weights` out.")
        return net
    if state_dict is not None:
        load_into(net.module, state_dict, f"The given state dict for {spec.source}")
    elif spec.weights is None:
        if spec.kind != "python":
            _log.warning("%s has no `weights`: it is freshly initialised, an untrained classifier", spec.source)
    elif is_weights_file(spec.weights):
        load_into(net.module, read_weights(spec.weights), spec.weights)
    elif spec.kind == "torchvision":
        load_into(net.module, torchvision_weights(spec.name, spec.weights), spec.weights)
    else:
        raise ClassifierSpecError(
            f"weights {spec.weights!r} of {spec.source} is no file *.safetensors, *.pt or *.pth: give one."
        )
    net.module.eval()
    return net


def _check_allowed(spec: ClassifierSpec, allow: Collection[str]) -> None:
    trusted = (*TRUSTED_MODULES, *allow)
    if spec.kind == "python":
        code = spec.name.partition(":")[0]
        allowed = any(code == name or code.startswith(f"{name}.") for name in trusted)
    else:
        code = spec.name
        allowed = spec.kind not in ("export", "torchscript") or code in trusted
    if not allowed:
        raise ClassifierSpecError(
            f"The bundle's classifier {spec.source} runs code from {code!r}, which is not trusted: if you know this "
            f"code, allow it with --trusted {code} (serve, explain; in serve.toml: trusted = [{json.dumps(code)}]; "
            f"in Python: allow=[{code!r}])."
        )


def _torchvision(spec: ClassifierSpec, device: torch.device) -> Net:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if spec.name not in known:
        raise ClassifierSpecError(f"torchvision has no classifier {spec.name!r}{nearest(spec.name, known) or '.'}")
    arguments: dict[str, Any] = {"num_classes": len(spec.classes)}
    if spec.name in ("googlenet", "inception_v3"):  # what torchvision itself does for its published weights
        published = spec.weights is not None and not is_weights_file(spec.weights)
        arguments |= {"init_weights": False, "transform_input": published}
    build = torchvision.models.get_model_builder(spec.name)
    return Net(_called(build, spec, {"weights": None, **arguments}), True, spec.source)


def _timm(spec: ClassifierSpec, device: torch.device) -> Net:
    try:
        import timm
    except ImportError as error:
        raise ClassifierSpecError(f"{spec.source} needs timm: pip install timm.") from error
    if not timm.is_model(spec.name):  # also refuses "hf-hub:" and "local-dir:" names
        raise ClassifierSpecError(f"timm has no model {spec.name!r}{nearest(spec.name, timm.list_models()) or '.'}")
    arguments = {"model_name": spec.name, "pretrained": False, "num_classes": len(spec.classes)}
    return Net(_called(timm.create_model, spec, arguments), True, spec.source)


def _python(spec: ClassifierSpec, device: torch.device) -> Net:
    module_name, _, factory_name = spec.name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ClassifierSpecError(
            f"{spec.source}: {error}. Install the package, or run with its folder in PYTHONPATH."
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        offered = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ClassifierSpecError(
            f"{module_name} has no factory {factory_name!r}{nearest(factory_name, offered) or '.'}"
        )
    return Net(_called(factory, spec, {}), True, spec.source)


def _torchscript(spec: ClassifierSpec, device: torch.device) -> Net:
    path, digest = _file(spec)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ClassifierSpecError(
            f"{path} is no TorchScript program ({error}): save it with torch.jit.save."
        ) from error
    return Net(module.eval(), False, f"torchscript:{digest}")


def _export(spec: ClassifierSpec, device: torch.device) -> Net:
    path, digest = _file(spec)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
            program = torch.export.load(path)
    except Exception as error:  # the deserialiser raises many kinds
        raise ClassifierSpecError(
            f"{path} is no exported program ({error}): save it with torch.export.save."
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
    return Net(program.module(), False, f"export:{digest}")


def _file(spec: ClassifierSpec) -> tuple[Path, str]:
    path = Path(spec.name)
    if not path.is_file():
        raise ClassifierSpecError(f"{spec.source}: there is no file {path}.")
    with path.open("rb") as stream:
        return path, hashlib.file_digest(stream, "sha256").hexdigest()


def _called(factory: Callable[..., Any], spec: ClassifierSpec, arguments: dict[str, Any]) -> nn.Module:
    try:
        module = factory(**{**arguments, **spec.arguments})
    except Exception as error:  # the user's or a library's code
        raise ClassifierSpecError(
            f"{spec.source} could not be built with arguments {spec.arguments} ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(module, nn.Module):
        raise ClassifierSpecError(f"{spec.source} returned a {type(module).__name__}, expected a torch.nn.Module.")
    return module


_BUILDERS: dict[str, Callable[[ClassifierSpec, torch.device], Net]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "export": _export,
    "torchscript": _torchscript,
    "python": _python,
}
