"""A net and one forward pass → **its layers with spatial maps**, in order of execution → a few that span its depth.

Hooks live inside a `with` block only, also when the net raises: nothing stays on a model that others share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import activation as activations

__all__ = ["Layer", "hooked", "observed", "spread"]


@dataclass(frozen=True)
class Layer:
    """A submodule whose output is (B, C, h, w).

    Attributes:
        name: Within the net.
        side: (h, w).
        preferred: A block or an activation function, not a bare convolution, norm or pooling.
        passed_on: A later layer's output is the very same tensor (an in-place ReLU's, an enclosing block's).
        channels_last: The output is (B, h, w, C) instead, as between the blocks of a Swin transformer.
        block: It has modules of its own.
    """

    name: str
    side: tuple[int, int]
    preferred: bool
    passed_on: bool
    channels_last: bool = False
    block: bool = False


@contextmanager
def hooked(net: nn.Module, names: Sequence[str], hook: Callable[[str, Any], Tensor | None]) -> Iterator[None]:
    """Within the block, `hook(name, output)` sees what the named submodules answer, and may replace it."""
    handles = []
    try:
        for name in dict.fromkeys(names):
            module = net.get_submodule(name)
            handles.append(module.register_forward_hook(lambda _module, _inputs, output, n=name: hook(n, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def observed(net: nn.Module, size: tuple[int, int]) -> Iterator[list[Layer]]:
    """Run the net once within the block: the list then holds its layers, in the order of their last execution.

    Those with a map larger than 1×1, unless there is none. An output is taken for channels-last where a linear layer or
    a layer norm works on its last dimension, and its maps have the images' shape as (B, h, w, C) rather than as
    (B, C, h, w).

    Args:
        net: To be run.
        size: (H, W) of the images it is run on.
    """
    modules = {name: module for name, module in net.named_modules() if name}
    outputs: dict[str, Tensor] = {}
    layers: list[Layer] = []

    def see(name: str, output: Any) -> None:
        outputs.pop(name, None)
        if isinstance(output, Tensor) and output.ndim == 4:
            outputs[name] = output

    with hooked(net, list(modules), see):
        yield layers
    widths = {width for name, output in outputs.items() if (width := _width(modules[name])) == output.shape[3]}

    def is_channels_last(name: str, output: Tensor) -> bool:
        _, first, second, last = output.shape
        return last in widths and _unlike((first, second), size) < _unlike((second, last), size)

    last_owner = {id(output): name for name, output in outputs.items()}
    found = [
        Layer(
            name,
            (output.shape[2], output.shape[3]),
            _is_block_or_activation(modules[name]),
            last_owner[id(output)] != name,
            is_channels_last(name, output),
            any(True for _ in modules[name].children()),
        )
        for name, output in outputs.items()
    ]
    layers += [layer for layer in found if min(layer.side) > 1] or found


def spread(layers: Sequence[Layer], count: int) -> tuple[str, ...]:
    """Names of `count` layers at even distances over the depth, the deepest included; see `Classifier.depths`."""
    distinct = [layer for layer in layers if not layer.passed_on]
    blocks = [layer for layer in distinct if layer.preferred]
    stage_ends = list({layer.side: layer for layer in blocks or distinct}.values())
    chosen: list[Layer] = []
    for candidates in (stage_ends, blocks, distinct):
        others = [layer for layer in candidates if layer not in chosen]
        chosen += _evenly(others, count - len(chosen))
    return tuple(layer.name for layer in layers if layer in chosen)


def _unlike(side: tuple[int, int], size: tuple[int, int]) -> float:
    """How far a map of this side is from the images' shape; 0: the same shape."""
    across, along = side[0] * size[1], side[1] * size[0]
    return abs(across - along) / max(across, along)


def _width(module: nn.Module) -> int | None:
    """Of the last dimension that a linear layer or a layer norm works on."""
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else None


def _is_block_or_activation(module: nn.Module) -> bool:
    return any(True for _ in module.children()) or type(module).__module__ == activations.__name__


def _evenly(layers: Sequence[Layer], count: int) -> list[Layer]:
    if count >= len(layers):
        return list(layers)
    return [layers[(index + 1) * len(layers) // count - 1] for index in range(count)]
