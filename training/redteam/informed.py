"""The white box as an attack of a recipe: **images in, attacked images out**, made against a bundle.

    [[attacks]]
    name = "training.redteam.informed:informed"
    label = "informed"
    family = "informed"
    parameters = { bundle = "work/detector.heatward", eps = "4/255" }

So the heatmap network learns from its own red team (adversarial training, one round: Madry et al. 2018). Give every
round a label and a bundle of its own: images are kept by these names.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from detector.bundle import load_bundle
from detector.detector import Detector
from detector.errors import ConfigError
from training.redteam.values import Budget
from training.redteam.whitebox import WHITE_BOX

__all__ = ["informed"]

AGREE = 0.9


def informed(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    bundle: str,
    eps: float = 4 / 255,
    steps: int = 30,
    restarts: int = 1,
    rate: float = 0.05,
    method: str = "selective",
    seed: int = 0,
    trusted: str = "",
) -> Tensor:
    """Fools the classifier and passes the detector, L∞.

    Args:
        classifier: What the recipe attacks: the bundle's own.
        images: (B, 3, H, W) in [0, 1].
        labels: (B,) the classifier's predictions on them.
        bundle: The detector to pass.
        eps: Radius, in [0, 1].
        steps: Of each restart.
        restarts: From the image itself, then as the red team begins.
        rate: The false-positive rate to stay under.
        method: One of the red team's.
        seed: Decides everything random.
        trusted: Modules, with commas between, that a `python:` classifier of the bundle may come from.

    Returns:
        (B, 3, H, W); where nothing fools, the images themselves.

    Raises:
        ConfigError: Unknown method, a number out of range, a bundle of another classifier, or one without gradients.
        BundleError: No such bundle, or it cannot be read.
    """
    if method not in WHITE_BOX:
        raise ConfigError(f"unknown method {method!r}: expected one of {', '.join(WHITE_BOX)}")
    if not (0 < eps <= 1 and 0 < rate < 1 and steps >= 1 and restarts >= 1):
        raise ConfigError(
            f"expected eps in (0, 1], rate in (0, 1), steps and restarts of at least 1, got eps = {eps:g}, "
            f"rate = {rate:g}, steps = {steps}, restarts = {restarts}"
        )
    detector = _detector(bundle, trusted, str(images.device))
    agree = (detector.classifier(images).argmax(1) == labels).float().mean()
    if len(images) and agree < AGREE:
        raise ConfigError(
            f"{bundle}: its classifier agrees with that of the recipe on {agree:.0%} of the images: expected one "
            "of the same classifier"
        )
    budget = Budget("Linf", eps, steps, restarts)
    return WHITE_BOX[method](detector, images, rate, budget, seed).images


@lru_cache(maxsize=1)
def _detector(bundle: str, trusted: str, device: str) -> Detector:
    return Detector.assemble(
        load_bundle(Path(bundle)), device=device, allow=[name for name in trusted.split(",") if name]
    )
