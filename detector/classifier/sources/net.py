"""What every source gives back: **a net, and what it takes to build it again**."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import briefly

__all__ = ["Net", "called"]


@dataclass(frozen=True)
class Net:
    """A net as it came from its source.

    Attributes:
        module: Normalised images (B, 3, H, W) → logits (B, K), in eval mode.
        embeddable: Whether spec + state dict are enough to build it again; otherwise its file is needed.
        identity: What names the architecture in the fingerprint, free of paths.
        fingerprinted: Whether arguments and state dict belong into the fingerprint. Not of a remote model: they say how
            it is asked, and hold answers that may differ a little each time.
    """

    module: nn.Module
    embeddable: bool
    identity: str
    fingerprinted: bool = True


def called(factory: Callable[..., Any], spec: ClassifierSpec, arguments: dict[str, Any]) -> nn.Module:
    try:
        module = factory(**{**arguments, **spec.arguments})
    except Exception as error:  # the user's or a library's code
        raise ClassifierSpecError(
            f"{spec.source} could not be built with arguments {spec.arguments} ({type(error).__name__}: "
            f"{briefly(error)})."
        ) from error
    if not isinstance(module, nn.Module):
        raise ClassifierSpecError(f"{spec.source} returned a {type(module).__name__}, expected a torch.nn.Module.")
    return _storable(_uncompiled(module), spec)


def _uncompiled(module: nn.Module) -> nn.Module:
    """Without torch.compile: compiled code keeps the hooks it saw first, and sees no later ones."""
    for name, child in module.named_children():
        plain = _uncompiled(child)
        if plain is not child:
            setattr(module, name, plain)
    if module._compiled_call_impl is not None:
        module._compiled_call_impl = None
    return _uncompiled(module.get_submodule("_orig_mod")) if _is_compiled(module) else module


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod")


def _storable(module: nn.Module, spec: ClassifierSpec) -> nn.Module:
    """The net, if all that it keeps are tensors, and all are there."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    lazy = [name for name, value in tensors.items() if is_lazy(value)]
    if lazy:
        raise ClassifierSpecError(
            f"{spec.source} has lazy layers ({lazy[0]}), whose shapes are not known yet: run the net on an image once "
            "before the factory returns it."
        )
    empty = [name for name, value in tensors.items() if value.is_meta]
    if empty:
        raise ClassifierSpecError(
            f"{spec.source} has parameters without data ({empty[0]} is on the meta device): build it on the CPU."
        )
    strange = [name for name, value in module.state_dict().items() if not isinstance(value, Tensor)]
    if strange:
        raise ClassifierSpecError(
            f"{spec.source} keeps {strange[0]!r} in its state dict, which is no tensor and cannot be stored: leave "
            "get_extra_state out; quantised layers can only be guarded as a program or an ONNX file."
        )
    return module
