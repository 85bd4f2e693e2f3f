"""`torchvision:NAME`: a classifier of torchvision's, with the transforms of its published weights."""

from __future__ import annotations

from typing import Any

import torch

from detector.classifier.sources.known import Known, distinct
from detector.classifier.sources.net import Net, called
from detector.classifier.weights import is_weights_file, published
from detector.errors import ClassifierSpecError
from detector.settings import Preprocessing
from detector.spec import ClassifierSource, ClassifierSpec
from detector.text import nearest

__all__ = ["build", "known"]

TRANSFORMING = ("googlenet", "inception_v3")
"""Their published weights take images of another normalisation, which they make themselves."""


def known(described: ClassifierSource) -> Known:
    """Size, preprocessing and class names of its published weights; the names only where these weights are meant."""
    import torchvision

    name = _checked(described.name)
    by_name = described.weights is not None and not is_weights_file(described.weights)
    if by_name:
        member = published(name, described.weights or "")
    else:
        member = torchvision.models.get_model_weights(name).__members__.get("DEFAULT")
    arguments = described.arguments
    if by_name and name in TRANSFORMING:  # said outright, for a bundle does not name its weights
        arguments = {"transform_input": True, **arguments}
    if member is None:
        return Known(described.source, described.weights, arguments)
    transforms, categories = member.transforms(), tuple(member.meta.get("categories", ()))
    (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    return Known(
        described.source,
        described.weights,
        arguments,
        input_size=(crop, crop),
        preprocessing=Preprocessing(
            resize=resize,
            crop=crop,
            interpolation=transforms.interpolation.value,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        ),
        classes=distinct(categories) if by_name and categories else None,
        told=f"the transforms of torchvision's weights {member.name}",
    )


def build(spec: ClassifierSpec, device: torch.device) -> Net:
    import torchvision

    arguments: dict[str, Any] = {"num_classes": len(spec.classes)}
    if _checked(spec.name) in TRANSFORMING:  # what torchvision does for its published weights
        by_name = spec.weights is not None and not is_weights_file(spec.weights)
        arguments |= {"init_weights": False, "transform_input": by_name}
    builder = torchvision.models.get_model_builder(spec.name)
    return Net(called(builder, spec, {"weights": None, **arguments}), True, spec.source)


def _checked(name: str) -> str:
    import torchvision

    listed = torchvision.models.list_models(module=torchvision.models)
    if name not in listed:
        raise ClassifierSpecError(f"torchvision has no classifier {name!r}{nearest(name, listed) or '.'}")
    return name
