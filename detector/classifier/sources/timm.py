"""`timm:NAME`: a model of timm's."""

from __future__ import annotations

import torch

from detector.classifier.sources.net import Net, called
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import nearest

__all__ = ["build"]


def build(spec: ClassifierSpec, device: torch.device) -> Net:
    try:
        import timm
    except ImportError as error:
        raise ClassifierSpecError(f"{spec.source} needs timm: pip install timm.") from error
    if not timm.is_model(spec.name):  # also refuses "hf-hub:" and "local-dir:" names
        raise ClassifierSpecError(f"timm has no model {spec.name!r}{nearest(spec.name, timm.list_models()) or '.'}")
    arguments = {"model_name": spec.name, "pretrained": False, "num_classes": len(spec.classes)}
    return Net(called(timm.create_model, spec, arguments), True, spec.source)
