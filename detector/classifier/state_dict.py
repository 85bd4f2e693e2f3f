"""A state dict → **into a net**, every name and shape, or an error that says what fits and what does not.

Wrappers leave prefixes: "module." (DistributedDataParallel, AveragedModel), "_orig_mod." (torch.compile), "model."
(Lightning). The one under which every tensor of the net is found is taken off; what a checkpoint holds beside it (a
loss, metrics) is named in the log and left. Where a part of a net was wrapped, such a name stands in the middle, and is
taken out. Nothing is ever loaded in part.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.errors import ClassifierSpecError
from detector.text import nearest

__all__ = ["load_into"]

_SHOWN = 4
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module")
"""Of torch.compile, activation checkpointing, FullyShardedDataParallel, DistributedDataParallel."""
_COPIES = ("ema", "teacher", "averaged", "momentum")
"""In the prefix of a second set of weights that training kept beside the net's own."""

_log = logging.getLogger("heatward")


def load_into(net: nn.Module, state_dict: Mapping[str, Tensor], origin: str) -> None:
    """Copy `state_dict` into `net`.

    Args:
        net: Takes it all.
        state_dict: Its names may all have a prefix that the net's lack, or lack one that the net's have.
        origin: What messages call it.

    Raises:
        ClassifierSpecError: Names or shapes do not fit; counts and lists them.
    """
    expected = net.state_dict()
    state_dict = _unwrapped(state_dict, expected)
    prefix = _prefix(state_dict, expected, origin)
    taken, left = _without(state_dict, prefix)
    misfit = _Misfit.of(taken, expected, _derived(net))
    if misfit:
        raise ClassifierSpecError(f"{origin} does not fit the net ({misfit.told()}): {misfit.mend()}")
    strange = [name for name in taken if name in expected and _is_no_fraction(taken[name], expected[name])]
    if strange:
        raise ClassifierSpecError(
            f"{origin} holds {taken[strange[0]].dtype} where the net has {expected[strange[0]].dtype} "
            f"({_listed(strange)}): give the weights as they were before they were quantised or packed."
        )
    if left:
        _log.warning("%s: its tensors under %r are the net's; left are %s", origin, prefix, _listed(left))
    try:
        net.load_state_dict({name: value for name, value in taken.items() if name in expected}, strict=False)
    except RuntimeError as error:  # quantised, sparse, or without data
        raise ClassifierSpecError(
            f"{origin} cannot be copied into the net ({str(error).splitlines()[-1].strip()}): give plain tensors, "
            "neither quantised nor sparse nor on the meta device."
        ) from error


def _unwrapped(state_dict: Mapping[str, Tensor], expected: Collection[str]) -> Mapping[str, Tensor]:
    """Without what wrappers of parts of a net put into the middle of names, unless the net's own have it there."""
    own = {part for name in expected for part in name.split(".")}

    def clean(name: str) -> str:
        first, *others = name.split(".")
        return ".".join([first, *(part for part in others if part in own or part not in _WRAPPERS)])

    cleaned = {clean(name): value for name, value in state_dict.items()}
    return cleaned if len(cleaned) == len(state_dict) else state_dict


def _prefix(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> str:
    """What stands before the net's names in the state dict's; "-model." where it stands before the net's instead."""
    required = [name for name in expected if _is_required(name)]
    found = [prefix for prefix in _candidates(state_dict, required) if _covers(state_dict, required, prefix)]
    own = [prefix for prefix in found if not any(word in prefix.lower() for word in _COPIES)] or found
    if "" in own:
        return ""
    if len(own) > 1:
        raise ClassifierSpecError(
            f"{origin} holds the net's tensors more than once, under {', '.join(map(repr, own))}: choose one, as in "
            f'weights = "FILE#{own[0]}".'
        )
    if own:
        return own[0]
    lengths = {prefix: len(_without(state_dict, prefix)[0].keys() & expected.keys()) for prefix in _first(state_dict)}
    return max(lengths, key=lambda prefix: lengths[prefix])  # the likeliest, for the error


def _candidates(state_dict: Mapping[str, Tensor], required: Collection[str]) -> list[str]:
    given = max(filter(_is_required, state_dict), key=len, default="")
    longest = max(required, key=len, default="")
    if not given or not longest:
        return [""]
    found = [name.removesuffix(longest) for name in state_dict if name.endswith(longest)]
    found += ["-" + name.removesuffix(given) for name in required if name.endswith(given) and name != given]
    return [prefix for prefix in dict.fromkeys(found) if prefix in ("", "-") or prefix.endswith(".")]


def _covers(state_dict: Mapping[str, Tensor], required: Collection[str], prefix: str) -> bool:
    if prefix.startswith("-"):
        lacking = prefix[1:]
        return all(name.startswith(lacking) and name.removeprefix(lacking) in state_dict for name in required)
    return all(prefix + name in state_dict for name in required)


def _without(state_dict: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by the net's names, and the names of the others."""
    if prefix.startswith("-"):
        return {prefix[1:] + name: value for name, value in state_dict.items()}, []
    taken = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    return taken, [name for name in state_dict if not name.startswith(prefix)]


def _first(state_dict: Mapping[str, Tensor]) -> list[str]:
    """No prefix, and first parts of names, up to three together."""
    parts = [name.split(".")[:-1][:3] for name in state_dict]
    return ["", *dict.fromkeys(".".join(part[:count]) + "." for part in parts for count in range(1, len(part) + 1))]


def _is_required(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _derived(net: nn.Module) -> dict[str, Tensor]:
    """Buffers that the net computes itself and no longer saves; older files still carry them."""
    kept = net.state_dict()
    return {name: value for name, value in net.named_buffers() if name not in kept}


@dataclass(frozen=True)
class _Misfit:
    """What keeps a state dict out of a net; False where nothing does."""

    fitting: int
    expected: int
    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def of(cls, taken: Mapping[str, Tensor], expected: Mapping[str, Tensor], derived: Mapping[str, Tensor]) -> _Misfit:
        reshaped = {
            name: (tuple(value.shape), tuple(expected[name].shape))
            for name, value in taken.items()
            if name in expected and value.shape != expected[name].shape
        }
        return cls(
            fitting=len(taken.keys() & expected.keys()) - len(reshaped),
            expected=len(expected),
            missing=[name for name in expected if name not in taken and _is_required(name)],
            unexpected=[
                name
                for name, value in taken.items()
                if name not in expected and not (name in derived and torch.equal(value, derived[name].to(value)))
            ],
            reshaped=reshaped,
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def told(self) -> str:
        shapes = [f"{name} is {given}, the net has {wanted}" for name, (given, wanted) in self.reshaped.items()]
        parts = [
            f"{len(names)} {what}: {_listed(names)}"
            for what, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", shapes),
            )
            if names
        ]
        return "; ".join([*parts, f"{self.fitting} of the net's {self.expected} fit"])

    def mend(self) -> str:
        if self.fitting == 0:
            return "these are the weights of another net, give those of this very architecture."
        if not (self.missing or self.unexpected) and (head := self._head()):
            return head
        strange = self.missing or self.unexpected
        if strange and all("aux" in name.lower() for name in (*self.missing, *self.unexpected)):
            wanted = "false" if self.missing else "true"
            return f"the auxiliary classifiers differ: write arguments = {{ aux_logits = {wanted} }}."
        alike = nearest(self.missing[0], self.unexpected) if self.missing else ""
        return (
            "give the weights of this very architecture, with as many classes as the spec lists"
            + (f" (of {self.missing[0]!r}{alike})" if alike else "")
            + "."
        )

    def _head(self) -> str:
        """How to mend another number of classes; empty where it is something else."""
        modules = {name.rpartition(".")[0] for name in self.reshaped}
        outputs = {(given[:1], wanted[:1]) for given, wanted in self.reshaped.values()}
        inner = {(given[1:], wanted[1:]) for given, wanted in self.reshaped.values()}
        if len(modules) != 1 or len(outputs) != 1 or any(given != wanted for given, wanted in inner):
            return ""
        ((given,), (wanted,)) = outputs.pop()
        return (
            f"its head {modules.pop()!r} has {given} classes and the spec lists {wanted}: list those {given}, or give "
            f"weights that were trained on {wanted}."
        )


def _is_no_fraction(given: Tensor, wanted: Tensor) -> bool:
    return wanted.is_floating_point() and not (given.is_floating_point() or given.is_quantized)


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + ", …" * (len(names) > _SHOWN)
