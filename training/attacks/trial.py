"""An attack on a handful of images, before hours are spent: **nothing out, or the error that it would end with**.

Libraries find much only when an attack runs: that it knows ten classes, wants a target, or a device that is not there.
A trial ends after so many passes through the net, since an attack may take thousands and what fails does so early.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from detector.classifier import Classifier
from training.attacks.attacks import attack_images
from training.config import AttackSpec

__all__ = ["IMAGES", "try_attack"]

IMAGES = 2
PASSES = 64


class _Enough(BaseException):
    """Ends a trial; no `Exception`, so that no library takes it for an error of its own."""


def try_attack(
    spec: AttackSpec, classifier: Classifier, pixels: Tensor, origin: Tensor, *, batch_size: int = IMAGES
) -> None:
    """See whether an attack runs.

    Args:
        spec: The attack.
        classifier: What it is made on.
        pixels: (n, 3, H, W) uint8.
        origin: (n,) the predictions on them.
        batch_size: Images attacked at once.

    Raises:
        ConfigError: It fails with these parameters.
        DataError: It went further than its epsilon.
    """
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes > PASSES:
            raise _Enough

    counting = classifier.module.register_forward_pre_hook(count)
    try:
        attack_images(spec, classifier, pixels, origin, seed=0, batch_size=batch_size)
    except (Exception, _Enough):
        if passes <= PASSES:  # else it came to nothing because it was ended
            raise
    finally:
        counting.remove()
