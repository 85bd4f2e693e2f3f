"""`timm:NAME`, `timm:local-dir:FOLDER`, `timm:hf-hub:OWNER/NAME`: a model of timm's, with its own preprocessing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from detector.classifier.sources.hub import folder_of, read_json, weights_in
from detector.classifier.sources.known import Known, distinct
from detector.classifier.sources.net import Net, called
from detector.errors import ClassifierSpecError
from detector.settings import Preprocessing
from detector.spec import ClassifierSource, ClassifierSpec
from detector.text import nearest

__all__ = ["build", "known"]

FOLDERS = ("local-dir:", "hf-hub:", "hf_hub:")


def known(described: ClassifierSource) -> Known:
    """Size and preprocessing of its pretrained configuration; of a folder or a hub's model, its head and weights, too.

    A folder's model becomes `timm:ARCHITECTURE`, so that a bundle can build it without the folder.
    """
    timm = _timm(described.source)
    if described.name.startswith(FOLDERS):
        return _in_folder(described)
    name = _checked(described.name, described.source)
    try:
        configuration = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ClassifierSpecError(
            f"{described.source}: {error} timm.list_pretrained('{name.partition('.')[0]}*') names those that there are."
        ) from error
    found = Known(described.source, described.weights, described.arguments)
    return _with_images(found, configuration.to_dict() if configuration else {}, f"timm's configuration of {name}")


def build(spec: ClassifierSpec, device: torch.device) -> Net:
    timm = _timm(spec.source)
    arguments = {
        "model_name": _checked(spec.name, spec.source),
        "pretrained": False,
        "num_classes": len(spec.classes),
    }
    return Net(called(timm.create_model, spec, arguments), True, spec.source)


def _timm(source: str) -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise ClassifierSpecError(f"{source} needs timm: pip install timm.") from error
    return timm


def _checked(name: str, source: str) -> str:
    timm = _timm(source)
    if not timm.is_model(name):
        hint = nearest(name, timm.list_models()) or "."
        if name.startswith(FOLDERS):
            hint = ": a spec names an architecture; give it as a ClassifierSource, which is completed."
        elif "/" in name:
            hint = (
                f': for one on the Hugging Face hub write "timm:hf-hub:{name}", for a folder "timm:local-dir:FOLDER".'
            )
        raise ClassifierSpecError(f"timm has no model {name!r}{hint}")
    return name


def _in_folder(described: ClassifierSource) -> Known:
    """As timm's `save_for_hf` leaves it: config.json, and model.safetensors or pytorch_model.bin."""
    origin, _, name = described.name.partition(":")
    source = described.source
    folder = folder_of(name, source, hub=described.hub and origin != "local-dir")
    config = read_json(folder, "config.json", source)
    if "architecture" not in config:
        kind = f"hf:{name}" if "model_type" in config else "python:MODULE:FACTORY"
        raise ClassifierSpecError(
            f'{source}: {folder / "config.json"} names no "architecture", so it is no model of timm\'s: try "{kind}".'
        )
    architecture = _checked(str(config["architecture"]), source)
    weights = described.weights or weights_in(folder, ("model.safetensors", "pytorch_model.bin"))
    if weights is None:
        raise ClassifierSpecError(f"{source}: {folder} has no model.safetensors: give weights.")
    pretrained = config.get("pretrained_cfg", config)
    arguments: dict[str, Any] = dict(config.get("model_args") or {})
    classes = config.get("num_classes", pretrained.get("num_classes"))
    if classes is not None:
        arguments["num_classes"] = classes
    names = config.get("label_names") or pretrained.get("label_names") or pretrained.get("labels")
    found = Known(
        f"timm:{architecture}",
        str(weights),
        arguments | described.arguments,
        classes=distinct([str(each) for each in names]) if isinstance(names, list | tuple) and names else None,
    )
    return _with_images(found, pretrained, str(folder / "config.json"))


def _with_images(found: Known, configuration: dict[str, Any], told: str) -> Known:
    """With timm's evaluation transform (timm.data.transforms_factory, `transforms_imagenet_eval`)."""
    channels: Any = found.arguments.get("in_chans", 3)
    resolved = (
        _timm(found.source).data.resolve_data_config(pretrained_cfg=configuration, args={}) if configuration else {}
    )
    if not resolved:
        return replace(found, why_unknown="timm has no configuration of its images")
    size = found.arguments.get("img_size", resolved["input_size"][1:])
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    scaled = (math.floor(height / resolved["crop_pct"]), math.floor(width / resolved["crop_pct"]))
    if channels not in (1, 3):
        return replace(found, why_unknown=f"it takes {channels} channels, images have three, or one in grey")
    own = Preprocessing(
        interpolation=resolved["interpolation"] if resolved["interpolation"] != "random" else "bilinear",
        mean=_for_channels(resolved["mean"], channels),
        std=_for_channels(resolved["std"], channels),
        channel_order="grey" if channels == 1 else "RGB",
    )
    if resolved["crop_mode"] == "border" or (resolved["crop_mode"] == "center" and height != width):
        why = f"its crop_mode {resolved['crop_mode']!r} at {height}×{width} is not one that heatward makes"
        resizable = own if height != width else None
        return replace(found, preprocessing=resizable, told=f"colours as {told} says, resized whole", why_unknown=why)
    resize = scaled if resolved["crop_mode"] == "squash" else scaled[0]
    preprocessing = own.model_copy(update={"resize": resize, "crop": (height, width)})
    return replace(found, input_size=(height, width), preprocessing=preprocessing, told=f"as {told} says")


def _for_channels(values: Any, channels: int) -> tuple[float, float, float]:
    """One number for a grey image, as timm takes it: the mean over the channels of a colour model."""
    first, second, third = (float(each) for each in (values if len(values) == 3 else (values[0],) * 3))
    if channels == 1:
        middle = (first + second + third) / 3
        return (middle, middle, middle)
    return (first, second, third)
