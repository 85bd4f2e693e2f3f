"""`python:package.module:factory`: a net that the user's own code builds."""

from __future__ import annotations

import importlib

import torch

from detector.classifier.sources.net import Net, called
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import briefly, nearest

__all__ = ["build"]


def build(spec: ClassifierSpec, device: torch.device) -> Net:
    module_name, _, factory_name = spec.name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ClassifierSpecError(
            f"{spec.source}: {error}. Install the package, or run with its folder in PYTHONPATH."
        ) from error
    except Exception as error:  # the user's code, or a name that is none
        raise ClassifierSpecError(
            f"{spec.source}: {module_name} cannot be imported ({type(error).__name__}: {briefly(error)})."
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        offered = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ClassifierSpecError(
            f"{module_name} has no factory {factory_name!r}{nearest(factory_name, offered) or '.'}"
        )
    return Net(called(factory, spec, {}), True, spec.source)
