"""`torchvision:NAME`: a classifier of torchvision's."""

from __future__ import annotations

from typing import Any

import torch

from detector.classifier.sources.net import Net, called
from detector.classifier.weights import is_weights_file
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSpec
from detector.text import nearest

__all__ = ["build"]


def build(spec: ClassifierSpec, device: torch.device) -> Net:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if spec.name not in known:
        raise ClassifierSpecError(f"torchvision has no classifier {spec.name!r}{nearest(spec.name, known) or '.'}")
    arguments: dict[str, Any] = {"num_classes": len(spec.classes)}
    if spec.name in ("googlenet", "inception_v3"):  # what torchvision itself does for its published weights
        published = spec.weights is not None and not is_weights_file(spec.weights)
        arguments |= {"init_weights": False, "transform_input": published}
    builder = torchvision.models.get_model_builder(spec.name)
    return Net(called(builder, spec, {"weights": None, **arguments}), True, spec.source)
