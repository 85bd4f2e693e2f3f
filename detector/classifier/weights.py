"""Weights by file or by torchvision name → **state dict** → into a net, with errors that say how to mend.

Never unpickles: safetensors, or `torch.load(weights_only=True)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from detector.errors import ClassifierSpecError

__all__ = ["halve_where_lossless", "is_weights_file", "load_into", "read_weights", "torchvision_weights"]

_SUFFIXES = (".safetensors", ".pt", ".pth")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 4


def is_weights_file(weights: str) -> bool:
    """Whether `weights` names a file (by its suffix) and not a torchvision enum member."""
    return Path(weights).suffix in _SUFFIXES


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from *.safetensors, *.pt or *.pth.

    A checkpoint that wraps it in "state_dict" or "model" is unwrapped; the prefixes that DistributedDataParallel
    ("module.") and torch.compile ("_orig_mod.") leave are stripped.

    Raises:
        ClassifierSpecError: No such file, or it holds no state dict, or it would need unpickling.
    """
    path = Path(path)
    if not path.is_file():
        raise ClassifierSpecError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds on a damaged file
        raise ClassifierSpecError(
            f"The weights file {path} cannot be read ({_first_line(error)}): give a state dict, saved with "
            "safetensors.torch.save_file(net.state_dict(), ...) or torch.save(net.state_dict(), ...)."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ClassifierSpecError(
            f"The weights file {path} holds no state dict (names → tensors): save net.state_dict()."
        )
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return dict(content)


def halve_where_lossless(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """float32 tensors whose every value is a half-precision number become half precision: half the size, same net."""
    return {
        name: tensor.half() if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor) else tensor
        for name, tensor in state_dict.items()
    }


def torchvision_weights(architecture: str, name: str) -> dict[str, Tensor]:
    """Download (or take from torch's cache) the weights that torchvision publishes under `name`.

    Raises:
        ClassifierSpecError: torchvision has no such weights, or they cannot be fetched here.
    """
    import torchvision

    members = torchvision.models.get_model_weights(architecture).__members__
    if name not in members:
        raise ClassifierSpecError(
            f"torchvision has no weights {name!r} for {architecture}: it has {', '.join(members) or 'none'}; "
            f"or give a file ending in {', '.join(_SUFFIXES)}."
        )
    try:
        state_dict: dict[str, Tensor] = members[name].get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or the hash differs
        raise ClassifierSpecError(
            f"The weights {architecture} {name} could not be fetched ({_first_line(error)}): "
            f"download {members[name].url} elsewhere and give the file as `weights`."
        ) from error
    return state_dict


def load_into(net: nn.Module, state_dict: dict[str, Tensor], origin: str) -> None:
    """Copy `state_dict` into `net`, every name and shape exactly.

    Raises:
        ClassifierSpecError: Names or shapes do not fit; lists the first few.
    """
    expected = net.state_dict()
    reshaped = [
        f"{key} is {tuple(value.shape)}, the net has {tuple(expected[key].shape)}"
        for key, value in state_dict.items()
        if key in expected and value.shape != expected[key].shape
    ]
    missing = [key for key in expected if key not in state_dict and not key.endswith("num_batches_tracked")]
    foreign = [key for key in state_dict if key not in expected]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", foreign), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise ClassifierSpecError(
            f"{origin} does not fit the net ({'; '.join(problems)}): give the weights of this very architecture, "
            "with as many classes as the spec lists."
        )
    net.load_state_dict(state_dict, strict=False)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
