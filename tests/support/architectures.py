"""Untrained nets of many architectures, small where their arguments allow it, and what their maps must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import swin_transformer
from torchvision.models.convnext import CNBlockConfig

from detector.classifier import Classifier, ClassifierSpec
from detector.classifier.sources import Net

CLASSES = tuple("abcde")
VIT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64}
VIT |= {"patch_size": 8, "num_labels": 5}


@dataclass(frozen=True)
class Architecture:
    """A net, the images it takes, and its maps.

    Attributes:
        build: Makes it; logits of five classes.
        side: Of the images.
        channels: Of the four layers at which evidence is read, in their order.
        axes: Of the deepest of them.
        before: Tokens in front of its maps.
    """

    build: Callable[[], nn.Module]
    side: int
    channels: tuple[int, ...]
    axes: str = "NCHW"
    before: int = 0


def load(module: nn.Module, side: int | tuple[int, int], classes: tuple[str, ...] = CLASSES) -> Classifier:
    """A classifier around a net, probed as any."""
    size = (side, side) if isinstance(side, int) else side
    spec = ClassifierSpec(source="python:tiny:net", input_size=size, classes=classes)
    return Classifier(spec, Net(module.eval(), embeddable=True, identity="tiny"))


class Logits(nn.Module):
    """A Hugging Face model that answers its logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x).logits
        return logits


def of_torchvision(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=5, **arguments)


def of_timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **arguments)


def of_transformers(model: str, config: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        return Logits(getattr(transformers, model)(getattr(transformers, config)(**arguments)))

    return build


def with_a_head(net: nn.Module) -> nn.Module:
    """Where it starts with a head of zeros, so that no logit depends on anything."""
    for module in net.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)
    return net


def vit_of_torchvision() -> nn.Module:
    return with_a_head(torchvision.models.VisionTransformer(64, 8, 6, 2, 32, 64, num_classes=5))


def swin(version: int) -> Callable[[], nn.Module]:
    """As swin_t and swin_v2_t, narrow and shallow."""
    parts: dict[str, Any] = {}
    if version == 2:
        parts = {"block": swin_transformer.SwinTransformerBlockV2, "downsample_layer": swin_transformer.PatchMergingV2}
    return lambda: swin_transformer.SwinTransformer(
        [4, 4], 24, [1, 1, 2, 1], [2, 2, 4, 4], [4, 4], num_classes=5, **parts
    )


def convnext() -> nn.Module:
    """As convnext_tiny, narrow and shallow."""
    stages = [(24, 48, 1), (48, 96, 1), (96, 192, 2), (192, None, 1)]
    return torchvision.models.ConvNeXt([CNBlockConfig(*stage) for stage in stages], num_classes=5)


def maxvit() -> nn.Module:
    """As maxvit_t, narrow and shallow."""
    return torchvision.models.MaxVit((64, 64), 16, 2, [16, 24, 32], [1, 1, 1], 8, 0.0, num_classes=5)


ARCHITECTURES = {
    "resnet18": Architecture(of_torchvision("resnet18"), 64, (64, 64, 128, 512)),
    "densenet121": Architecture(of_torchvision("densenet121"), 64, (64, 256, 512, 1024)),
    "mobilenet_v3_small": Architecture(of_torchvision("mobilenet_v3_small"), 64, (16, 72, 96, 576)),
    "regnet_y_400mf": Architecture(of_torchvision("regnet_y_400mf"), 64, (48, 104, 208, 440)),
    "inception_v3": Architecture(of_torchvision("inception_v3", init_weights=False), 128, (32, 80, 96, 2048)),
    "convnext": Architecture(convnext, 64, (24, 48, 96, 192)),
    "swin": Architecture(swin(1), 64, (24, 48, 96, 192), "NHWC"),
    "swin v2": Architecture(swin(2), 64, (24, 48, 96, 192), "NHWC"),
    "vit": Architecture(vit_of_torchvision, 64, (32, 32, 32, 32), "NLC", 1),
    "maxvit": Architecture(maxvit, 64, (64, 96, 128, 32)),
    "timm vit": Architecture(of_timm("vit_tiny_patch16_224", img_size=64, depth=6), 64, (192, 192, 192, 192), "NLC", 1),
    "timm vit with registers": Architecture(
        of_timm("vit_tiny_patch16_224", img_size=96, depth=6, reg_tokens=4), 96, (192, 192, 192, 192), "NLC", 5
    ),
    "timm deit, distilled": Architecture(
        of_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=6), 64, (192, 192, 192, 192), "NLC", 2
    ),
    "timm swin": Architecture(
        of_timm("swin_tiny_patch4_window7_224", img_size=112, depths=(1, 1, 2, 1), embed_dim=24),
        112,
        (24, 48, 96, 192),
        "NHWC",
    ),
    "timm convnext": Architecture(of_timm("convnext_atto"), 64, (40, 80, 160, 320)),
    "timm mixer": Architecture(
        lambda: with_a_head(of_timm("mixer_s16_224", img_size=64)()), 64, (512, 512, 512, 512), "NLC"
    ),
    "timm mambaout": Architecture(of_timm("mambaout_femto"), 64, (24, 48, 96, 288), "NHWC"),
    "timm edgenext": Architecture(of_timm("edgenext_xx_small"), 64, (24, 48, 88, 168)),
    "hf vit": Architecture(
        of_transformers("ViTForImageClassification", "ViTConfig", **VIT | {"num_hidden_layers": 5}),
        64,
        (32, 32, 32, 32),
        "NLC",
        1,
    ),
    "hf beit": Architecture(
        of_transformers("BeitForImageClassification", "BeitConfig", **VIT), 64, (32,) * 4, "NLC", 1
    ),
    "hf dinov2": Architecture(
        of_transformers("Dinov2ForImageClassification", "Dinov2Config", **VIT), 64, (32,) * 4, "NLC", 1
    ),
    "hf swin": Architecture(
        of_transformers(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=64,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2, 2],
            num_heads=[2, 2, 2],
            window_size=4,
            num_labels=5,
        ),
        64,
        (16, 32, 64, 64),
        "NLC",
    ),
    "hf convnext": Architecture(
        of_transformers(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[16, 32, 64, 96],
            depths=[1] * 4,
            num_labels=5,
        ),
        64,
        (16, 32, 64, 96),
    ),
}


def build(name: str) -> tuple[Architecture, Classifier]:
    """With the same weights each time."""
    chosen = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = chosen.build()
    return chosen, load(module, chosen.side)
