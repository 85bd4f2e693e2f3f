"""Attacks and noise twins: clean images (8 bits) in, attacked images (8 bits) out.

An attack comes from a library or from the user (`training.attacks.methods`) and runs on the classifier's module, which
takes images in [0, 1]. It attacks the *origin label*, the classifier's own prediction on the clean image, never the
truth. Results are rounded to 8 bits before anything looks at them: what an attacker can send is a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import BundleError, ClassifierSpecError, ConfigError, DataError, HeatwardError, NoGradientError
from training.attacks.drawing import draw_parameters
from training.attacks.methods import NO_GRADIENT, Method, find_method
from training.attacks.methods.method import Attacked
from training.config import AttackSpec
from training.shards import derived_seed, seed_everything

__all__ = ["Distance", "attack_images", "check_attack", "code_of", "make_attack", "needs_gradient", "noise_twin"]

ROUNDING = 0.5 / 255 + 1e-6


def check_attack(spec: AttackSpec, classifier: Classifier | None = None) -> None:
    """Say what is wrong with an attack before hours are spent.

    Raises:
        ConfigError: Unknown attack, unknown parameter, a value of the wrong kind, or a library that is not installed.
        NoGradientError: The attack needs gradients and the classifier has none.
    """
    if spec.folder is not None:  # images that are attacked already
        return
    method = _method(spec)
    bound = method.bound(draw_parameters(spec, seed=0))
    if bound is not None and not 0 < bound <= 1:
        raise ConfigError(
            f"attack {spec.label!r}: {spec.name} with epsilon {bound:g}: expected a share of the full range, such as "
            '"8/255"'
        )
    if classifier is None:
        return
    if not classifier.differentiable and method.needs_gradient:
        raise NoGradientError(
            f"attack {spec.label!r}: {method.title} needs gradients, and classifier {classifier.spec.source!r} has "
            f"none ({classifier.no_gradient}); attacks without gradients: {', '.join(sorted(NO_GRADIENT))}"
        )
    make_attack(spec, classifier, seed=0)


def needs_gradient(spec: AttackSpec) -> bool:
    """Whether an attack is made with the gradients of the net that it is made on."""
    return spec.folder is None and _method(spec).needs_gradient


def code_of(spec: AttackSpec) -> str:
    """Digest of the user's code behind an attack; empty where it is a library's."""
    return "" if spec.folder is not None else _method(spec).code


def make_attack(spec: AttackSpec, classifier: Classifier, seed: int) -> tuple[Attacked, float | None]:
    """Build an attack on a classifier; also the L∞ size it promises.

    Args:
        spec: Name and parameters.
        classifier: What is attacked.
        seed: Draws from tables, and seeds attacks that seed themselves.

    Raises:
        ConfigError: It cannot be built with these parameters.
    """
    method, parameters = _method(spec), draw_parameters(spec, seed)
    try:
        return method.build(classifier, parameters, seed), method.bound(parameters)
    except ConfigError as error:
        raise _of(spec, error) from error
    except HeatwardError:
        raise
    except Exception as error:  # a library's code
        raise ConfigError(
            f"attack {spec.label!r}: {method.title} cannot be built with {parameters}: {error}"
        ) from error


def attack_images(
    spec: AttackSpec, classifier: Classifier, pixels: Tensor, origin: Tensor, *, seed: int, batch_size: int
) -> Tensor:
    """Attack images.

    Args:
        spec: The attack.
        classifier: What is attacked.
        pixels: (n, 3, H, W) uint8.
        origin: (n,) the classifier's predictions on `pixels`, which the attack is to change.
        seed: Decides everything random.
        batch_size: Images attacked at once.

    Returns:
        (n, 3, H, W) uint8. An image for which a library's attack found nothing finite stays clean.

    Raises:
        ConfigError: The attack fails with these parameters, or a function answers no images.
        DataError: An L∞ attack went further than its epsilon.
    """
    attacked = []
    for number, start in enumerate(range(0, len(pixels), batch_size)):
        batch = pixels[start : start + batch_size]
        batch_seed = derived_seed(seed, number)
        attack, bound = make_attack(spec, classifier, batch_seed)
        seed_everything(batch_seed)
        result = _run(spec, attack, batch, origin[start : start + batch_size], classifier)
        moved = (result.int() - batch.int()).abs().amax().item() / 255
        if bound is not None and moved > bound + ROUNDING:
            raise DataError(
                f"attack {spec.label!r}: {spec.name} moved a pixel by {moved * 255:.1f}/255, further than its epsilon "
                f"{bound * 255:.2f}/255; its implementation does not keep its promise, leave it out"
            )
        attacked.append(result)
    return torch.cat(attacked) if attacked else pixels.clone()


def noise_twin(pixels: Tensor, size: float, seed: int) -> Tensor:
    """Clean images plus ±`size` in [0, 1] units, signs drawn for every value: as large as an attack, but not one."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, pixels.shape, generator=generator).mul(2).sub(1)
    return (pixels + sign * size * 255).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Distance:
    """linf, l2 (n,) float32, in [0, 1] units."""

    linf: Tensor
    l2: Tensor

    @classmethod
    def between(cls, clean: Tensor, other: Tensor) -> Distance:
        """Of two batches of uint8 images."""
        difference = (other.float() - clean.float()).flatten(1) / 255
        if difference.numel() == 0:
            return cls(torch.zeros(len(clean)), torch.zeros(len(clean)))
        return cls(linf=difference.abs().amax(1), l2=difference.norm(dim=1))


def _method(spec: AttackSpec) -> Method:
    try:
        return find_method(spec.name)
    except ConfigError as error:
        raise _of(spec, error) from error


def _of(spec: AttackSpec, error: HeatwardError) -> ConfigError:
    return ConfigError(f"attack {spec.label!r}: {error}")


def _run(spec: AttackSpec, attack: Attacked, pixels: Tensor, origin: Tensor, classifier: Classifier) -> Tensor:
    # some torchattacks .view() their input: they need contiguous NCHW
    images = (pixels.to(classifier.device).float() / 255).contiguous()
    try:
        with torch.enable_grad():
            adversarial = attack(images, origin.to(classifier.device)).detach()
    except (BundleError, ClassifierSpecError, ConfigError) as error:
        raise _of(spec, error) from error
    except (HeatwardError, torch.OutOfMemoryError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a library's or the user's code
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"attack {spec.label!r}: {spec.name} failed with {spec.parameters}: {why}") from error
    finally:
        classifier.module.requires_grad_(False).net.eval()  # whatever the attack did to it
    finite = adversarial.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
    rounded: Tensor = torch.where(finite, adversarial, images).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return rounded
