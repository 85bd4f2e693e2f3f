"""Which submodules of a net can be read, and how: **the net, looked at while it runs** → its taps.

Batches of several sizes tell which axis counts the images; images changed at one corner each tell where an output keeps
its rows and columns (`places.py`, `settle.py`); a backward pass tells which maps the logits depend on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activations

from detector.classifier.layouts import Layout, candidates
from detector.classifier.places import IMAGES, Reading, decided, mean, read
from detector.classifier.settle import Sight, kind, settled
from detector.classifier.taps import Tap, first_tensor, hooked, with_first

__all__ = ["Survey"]

NO_LAYOUT = "it answers neither maps of each image nor tokens on a grid of the image's shape"
ELSEWHERE = "its answer does not change where the image does, so it cannot be read as maps"
SEVERAL = "it runs several times and answers another shape each time"
SINGLE = "its maps have a single row or column"
NO_GRADIENT = "no logit depends on its maps, but on a class token or another output of it"
STACKS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Survey:
    """Hooks on the submodules of a net, each for one run that somebody else makes; then `taps`.

    Attributes:
        left_out: After `taps`: submodules that it left out, and why.
    """

    def __init__(self, net: nn.Module, size: tuple[int, int]) -> None:
        """Of a net that takes images of `size` (H, W)."""
        self.left_out: dict[str, str] = {}
        self._net, self._size = net, size
        self._modules = {
            name: module
            for name, module in net.named_modules()
            if name and not isinstance(module, torch.jit.ScriptModule)  # hides what is within
        }
        self._shapes: dict[str, dict[int, tuple[int, ...]]] = {}
        self._owners: dict[str, str] = {}
        self._several: set[str] = set()
        self._sides: set[tuple[int, int]] = set()
        self._wrapped: set[str] = set()
        self._readings: dict[str, dict[Layout, list[Reading]]] = {}
        self._reached: dict[str, list[Tensor]] = {}

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """The net runs on so many images."""
        outputs: dict[str, Tensor] = {}

        def see(name: str, output: Any) -> None:
            before = outputs.pop(name, None)  # in the order of the last execution
            tensor = first_tensor(output)
            if tensor is not output:
                self._wrapped.add(name)
            if before is not None and (tensor is None or tensor.shape != before.shape):
                self._several.add(name)
            if tensor is not None and tensor.is_floating_point():
                outputs[name] = tensor

        with hooked(self._net, list(self._modules), see):
            yield
        last = {id(output): name for name, output in outputs.items()}
        self._owners = self._owners or {name: last[id(output)] for name, output in outputs.items()}
        self._sides |= {tuple(each.shape[2:]) for name, each in outputs.items() if self._is_convolution(name)}  # type: ignore[misc]
        for name, output in outputs.items():
            self._shapes.setdefault(name, {})[images] = tuple(output.shape)

    @property
    def sees_any(self) -> bool:
        """Whether hooks reach submodules at all."""
        return bool(self._owners)

    @contextmanager
    def corners(self) -> Iterator[None]:
        """The net runs on images of `places.placed`; there may be several such runs."""
        found: dict[str, dict[Layout, Reading | None]] = {}

        def see(name: str, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                layouts = self._candidates({**self._shapes[name], IMAGES: tuple(tensor.shape)})
                found[name] = read(tensor, (each for each in layouts if min(each.side) > 1))

        with hooked(self._net, list(self._owners), see):
            yield
        for name, readings in found.items():
            for layout, reading in readings.items():
                self._readings.setdefault(name, {}).setdefault(layout, []).extend(
                    [reading] if reading is not None else []
                )

    @contextmanager
    def gradients(self, images: int) -> Iterator[None]:
        """The net runs on so many images; afterwards somebody differentiates its logits."""
        self._reached = {}

        def see(name: str, output: Any) -> Any:
            reached: list[Tensor] = []
            self._reached[name] = reached  # of the last execution
            tensor = first_tensor(output)
            if tensor is None or not tensor.requires_grad:
                return output
            self._shapes[name][images] = tuple(tensor.shape)

            def look(gradient: Tensor) -> None:
                there = gradient != 0
                reached[:] = [there.any(2, keepdim=True) if there.ndim == 3 else there.any().view(1, 1, 1, 1)]

            passed_on = tensor.clone()  # what the net reads of this module, not what it kept before
            passed_on.register_hook(look)  # type: ignore[no-untyped-call]
            return with_first(output, passed_on)

        with hooked(self._net, list(self._owners), see):
            yield

    def _is_reached(self, name: str, layout: Layout, passes_by: bool) -> bool:
        """Whether logits depend on a module's maps.

        `passes_by`: the net may read a class token alone, or another output of a tuple, so that the gradient is there
        and zero. Elsewhere a zero may be chance, as behind a ReLU that is asleep, and only a map out of the graph is
        out of use (an auxiliary head's).
        """
        gradients = self._reached.get(name, [])
        return bool(gradients) and (not passes_by or bool(layout.to_maps(gradients[0]).any()))

    @property
    def is_sure(self) -> bool:
        """Whether another round could hardly change the layouts."""
        return bool(self._readings) and all(
            decided([found for each in readings.values() if (found := mean(each)) is not None])
            for readings in self._readings.values()
        )

    def taps(self, *, differentiated: bool) -> tuple[Tap, ...]:
        """In the order of execution; those with a map larger than 1×1, unless there is none.

        Args:
            differentiated: Whether the logits of `gradients` were, with success.
        """
        layouts = self._layouts()
        passes_by = any(layout.tokens or name in self._wrapped for name, layout in layouts.items())
        unreached = {
            name for name, layout in layouts.items() if differentiated and not self._is_reached(name, layout, passes_by)
        }
        found = {name: layout for name, layout in layouts.items() if name not in unreached}
        kept = {name: layout for name, layout in found.items() if min(layout.side) > 1} or found
        for name in self._owners.keys() - kept.keys():
            reason = NO_GRADIENT if name in unreached else SINGLE if name in found else ELSEWHERE
            self.left_out[name] = reason if self._open_to(name) else SEVERAL if name in self._several else NO_LAYOUT
        stand_for = self._aliases(kept)
        blocks = self._blocks(kept, stand_for)
        return tuple(Tap(name, layout, name in blocks, stand_for[name] != name) for name, layout in kept.items())

    def _layouts(self) -> dict[str, Layout]:
        return settled(self._sights())

    def _sights(self) -> dict[str, Sight]:
        sights = {}
        for name in self._owners:
            readings = self._readings.get(name, {})
            seen = {layout: mean(readings.get(layout, [])) for layout in self._open_to(name)}
            sights[name] = Sight(self._shape(name), seen, self._is_convolution(name))
        return sights

    def _open_to(self, name: str) -> list[Layout]:
        found = self._candidates(self._shapes[name])
        return [layout for layout in found if layout.axes == "NCHW" or name not in self._several]

    def _candidates(self, shapes: Mapping[int, tuple[int, ...]]) -> list[Layout]:
        return candidates(shapes, self._size, frozenset(self._sides))

    def _shape(self, name: str) -> tuple[int, ...]:
        return next(iter(self._shapes[name].values()))

    def _aliases(self, layouts: Mapping[str, Layout]) -> dict[str, str]:
        """Of those that answer the very same tensor, the one that stands for all: the last, or the last block."""
        last = {self._owners[name]: name for name in layouts}
        blocks = {
            self._owners[name]: name
            for name, layout in layouts.items()
            if layout.axes != "NCHW" and self._is_block(name)
        }
        return {name: (last | blocks)[self._owners[name]] for name in layouts}

    def _blocks(self, layouts: Mapping[str, Layout], stand_for: Mapping[str, str]) -> set[str]:
        """Those that `spread` prefers: see `Tap`."""
        kinds = {name: kind(layout, self._shape(name)) for name, layout in layouts.items()}
        stacked = {
            stand_for[name] for name in layouts if self._is_block(name) and isinstance(self._parent(name), STACKS)
        }
        stacked_kinds = {kinds[name] for name in stacked}
        return {
            name
            for name, layout in layouts.items()
            if (
                self._is_block(name) or _is_activation(self._modules[name])
                if layout.axes == "NCHW"
                else name in stacked or (self._is_block(name) and kinds[name] not in stacked_kinds)
            )
        }

    def _is_block(self, name: str) -> bool:
        return next(self._modules[name].children(), None) is not None

    def _is_convolution(self, name: str) -> bool:
        return not self._is_block(name) and "2d" in type(self._modules[name]).__name__

    def _parent(self, name: str) -> nn.Module:
        return self._net.get_submodule(name.rpartition(".")[0])


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == activations.__name__
