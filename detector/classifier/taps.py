"""Where a net is read: **a module's output ⇄ maps (B, D, h, w)**, and which few of such places span its depth.

Hooks live inside a `with` block only, also when the net raises: nothing stays on a model that others share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from detector.classifier.layouts import Layout

__all__ = ["Tap", "first_tensor", "hooked", "spread", "with_first"]


@dataclass(frozen=True)
class Tap:
    """A submodule whose output holds maps of the image.

    Attributes:
        name: Within the net.
        layout: Of its output, or of the first tensor of it (a tuple's, a dictionary's).
        preferred: A block or an activation function of a convolutional net, a whole block of a transformer; not a bare
            convolution, norm or pooling, not a branch.
        passed_on: A later tap's output is the very same tensor (an in-place ReLU's, an enclosing block's).
    """

    name: str
    layout: Layout
    preferred: bool
    passed_on: bool


@contextmanager
def hooked(net: nn.Module, names: Sequence[str], hook: Callable[[str, Any], Any]) -> Iterator[None]:
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


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module answers, or the first one in a tuple, list or dictionary."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next((found for part in output if (found := first_tensor(part)) is not None), None)
    return None


def with_first(output: Any, tensor: Tensor) -> Any:
    """`output` with its first tensor replaced; itself unchanged."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, Mapping):
        name = next(name for name, part in output.items() if first_tensor(part) is not None)
        mapping: Any = copy.copy(output)
        mapping[name] = with_first(output[name], tensor)
        return mapping
    index = next(index for index, part in enumerate(output) if first_tensor(part) is not None)
    parts = list(output)
    parts[index] = with_first(parts[index], tensor)
    if hasattr(output, "_make"):  # a named tuple
        return output._make(parts)
    return tuple(parts) if isinstance(output, tuple) else parts


def spread(taps: Sequence[Tap], count: int) -> tuple[str, ...]:
    """Names of `count` taps at even distances over the depth, the deepest included; see `Classifier.depths`."""
    distinct = [tap for tap in taps if not tap.passed_on]
    blocks = [tap for tap in distinct if tap.preferred]
    stage_ends = list({tap.layout.side: tap for tap in blocks or distinct}.values())
    if len(stage_ends) == 1 and stage_ends[0].layout.axes != "NCHW":
        stage_ends = []  # a transformer of one resolution: its blocks, evenly
    chosen: list[Tap] = []
    for candidates in (stage_ends, blocks, distinct):
        others = [tap for tap in candidates if tap not in chosen]
        chosen += _evenly(others, count - len(chosen))
    return tuple(tap.name for tap in taps if tap in chosen)


def _evenly(taps: Sequence[Tap], count: int) -> list[Tap]:
    if count >= len(taps):
        return list(taps)
    return [taps[(index + 1) * len(taps) // count - 1] for index in range(count)]
