"""Surrogate gradients: what has no useful gradient **is run as it is**, and its gradient is that of something near it.

Nothing here changes a value, and nothing happens where no gradient is wanted. Athalye, Carlini & Wagner 2018,
"Obfuscated gradients give a false sense of security" (BPDA): who measures what an attacker can do must not be stopped
by rounding, by a table, or by a ReLU whose slope is constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["SmoothSlopes", "straight"]

SHARPNESS = 10.0
RELUS = (functional.relu, torch.relu, Tensor.relu)


def straight(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard`, to the last digit, with the gradient of `soft`."""
    return hard + (soft - soft.detach()) if soft.requires_grad else hard


class SmoothSlopes(TorchFunctionMode):
    """Within the block, the slope of a ReLU, 0 or 1, has a gradient: that of the slope of a softplus.

    A gradient of gradients, which channel attribution is made of, would otherwise not know that a step switches units
    on and off. Answers and first gradients stay as they are. An in-place `Tensor.relu_` is left alone.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in RELUS:
            return _ReLU.apply(args[0] if args else kwargs["input"])  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = _Slope.apply(x)  # type: ignore[no-untyped-call]
        return gradient * slope


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(SHARPNESS * x)
        return gradient * (SHARPNESS * share * (1 - share))
