"""The name of a device in, **the device, seen to be there,** out."""

from __future__ import annotations

import torch

from detector.errors import ConfigError

__all__ = ["device_named"]


def device_named(name: str, *, known: str = "cpu, cuda or cuda:1") -> torch.device:
    """The device, on which a number was put.

    Raises:
        ConfigError: There is no such device here.
    """
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        said = str(error).splitlines()[0]
        raise ConfigError(f"device: {name!r} cannot be used ({said}); expected {known}") from error
    return torch.device(name)
