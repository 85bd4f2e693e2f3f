"""Attacks and noise twins: clean images (8 bits) in, attacked images (8 bits) out.

Attacks are torchattacks classes (Kim 2020) by name, run on the classifier's module, which takes images in [0, 1]. They
attack the *origin label*, the classifier's own prediction on the clean image, never the truth. Results are rounded to
8 bits before anything looks at them: what an attacker can send is a picture.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchattacks
from torch import Tensor
from torchattacks.attack import Attack

from detector.classifier import Classifier
from detector.errors import ConfigError, DataError, NoGradientError
from training.attacks.deepfool import DeepFool
from training.attacks.everyday import Colour, Manual, Spatial
from training.attacks.patch import Patch
from training.attacks.rays import RayS
from training.config import AttackSpec
from training.load import nearest
from training.parameters import ParameterTable, read_parameter
from training.shards import derived_seed, seed_everything

__all__ = ["ATTACKS", "attack_images", "check_attack", "draw_parameters", "linf_bound", "make_attack", "noise_twin"]

ATTACKS: dict[str, type[Attack]] = {
    name: kind
    for name in torchattacks.__all__
    if (kind := getattr(torchattacks, name)).__module__.startswith("torchattacks.attacks.")
} | {"Colour": Colour, "DeepFool": DeepFool, "Manual": Manual, "Patch": Patch, "RayS": RayS, "Spatial": Spatial}

NO_GRADIENT = {"Colour", "GN", "Manual", "OnePixel", "Pixle", "RayS", "SPSA", "Spatial", "Square", "VANILA"}
# attacks with a `norm` argument say it themselves
LINF = {
    "BIM", "DIFGSM", "EOTPGD", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "PGDRS", "PIFGSM", "PIFGSMPP",
    "RFGSM", "RayS", "SINIFGSM", "SPSA", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM",
}  # fmt: skip
LINF_EPS = ("eps", "max_epsilon")
ROUNDING = 0.5 / 255 + 1e-6


def check_attack(spec: AttackSpec, classifier: Classifier | None = None) -> None:
    """Say what is wrong with an attack before hours are spent.

    Raises:
        ConfigError: Unknown attack, unknown parameter, or a value of the wrong kind.
        NoGradientError: The attack needs gradients and the classifier has none.
    """
    if spec.name not in ATTACKS:
        raise ConfigError(f"attack {spec.label!r}: no attack is named {spec.name!r}{nearest(spec.name, list(ATTACKS))}")
    draw_parameters(spec, seed=0)
    if classifier is not None and not classifier.differentiable and spec.name not in NO_GRADIENT:
        raise NoGradientError(
            f"attack {spec.label!r}: {spec.name} needs gradients, and classifier {classifier.spec.source!r} has none "
            f"({classifier.no_gradient}); attacks without gradients: {', '.join(sorted(NO_GRADIENT))}"
        )


def draw_parameters(spec: AttackSpec, seed: int) -> dict[str, Any]:
    """Arguments for the attack's constructor: fractions become numbers, tables are drawn from with `seed`.

    Raises:
        ConfigError: Unknown parameter or a value of the wrong kind.
    """
    accepted = _arguments(spec.name)
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Any] = {}
    # epsilon first: others may be a share of it
    for name in sorted(spec.parameters, key=lambda name: (name not in LINF_EPS, name)):
        if name not in accepted:
            raise ConfigError(
                f"attack {spec.label!r}: {spec.name} has no parameter {name!r}{nearest(name, list(accepted))}"
            )
        eps = next((drawn.get(key, accepted[key]) for key in LINF_EPS if key in accepted), None)
        try:
            drawn[name] = _value(spec.parameters[name], accepted[name], eps, generator)
        except ValueError as error:
            raise ConfigError(f"attack {spec.label!r}: {spec.name} parameter {name!r}: {error}") from error
    return drawn


def linf_bound(name: str, parameters: Mapping[str, Any]) -> float | None:
    """The L∞ size an attack promises, None if it promises none."""
    values = {**_arguments(name), **parameters}
    if values.get("norm", "Linf" if name in LINF else None) != "Linf":
        return None
    return next((float(values[key]) for key in LINF_EPS if key in values), None)


def make_attack(spec: AttackSpec, classifier: Classifier, seed: int) -> tuple[Attack, float | None]:
    """Build an attack on a classifier; also the L∞ size it promises.

    Args:
        spec: Name and parameters.
        classifier: What is attacked.
        seed: Draws from tables, and seeds attacks that seed themselves.
    """
    accepted = _arguments(spec.name)
    parameters = draw_parameters(spec, seed)
    bound = linf_bound(spec.name, parameters)
    if "n_classes" in accepted:
        parameters.setdefault("n_classes", classifier.num_classes)
    if "seed" in accepted:
        parameters.setdefault("seed", seed)
    # torchattacks prints when a model has no parameters to find a device by; we set the device ourselves
    with contextlib.redirect_stdout(io.StringIO()):
        attack = ATTACKS[spec.name](classifier.module, **parameters)
    attack.set_device(classifier.device)
    return attack, bound


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
        (n, 3, H, W) uint8. An image for which the attack found nothing finite stays clean.

    Raises:
        ConfigError: The attack fails with these parameters.
        DataError: An L∞ attack went further than its epsilon.
    """
    attacked = []
    for number, start in enumerate(range(0, len(pixels), batch_size)):
        batch = pixels[start : start + batch_size]
        batch_seed = derived_seed(seed, number)
        attack, bound = make_attack(spec, classifier, batch_seed)
        seed_everything(batch_seed)
        result = _run(spec, attack, batch, origin[start : start + batch_size], classifier.device)
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


def _run(spec: AttackSpec, attack: Attack, pixels: Tensor, origin: Tensor, device: torch.device) -> Tensor:
    # some torchattacks .view() their input: they need contiguous NCHW
    images = (pixels.to(device).float() / 255).contiguous()
    try:
        with torch.enable_grad():
            adversarial = attack(images, origin.to(device)).detach()
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"attack {spec.label!r}: {spec.name} failed with {spec.parameters}: {error}") from error
    finite = adversarial.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
    rounded: Tensor = torch.where(finite, adversarial, images).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return rounded


def _arguments(name: str) -> dict[str, Any]:
    """Names and defaults of what an attack's constructor takes beside the model."""
    parameters = list(inspect.signature(ATTACKS[name].__init__).parameters.values())[2:]
    return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _value(value: Any, default: Any, eps: float | None, generator: torch.Generator) -> Any:
    if isinstance(default, tuple):
        return tuple(value) if isinstance(value, list) else value
    if isinstance(default, (bool, str)):
        if not isinstance(value, type(default)):
            raise ValueError(f"expected {type(default).__name__}, got {value!r}")
        return value
    return _number(read_parameter(value), default, eps, generator)


def _number(value: Any, default: Any, eps: float | None, generator: torch.Generator) -> Any:
    if isinstance(value, ParameterTable):
        value = _draw(value, default, eps, generator)
    if isinstance(default, (int, float)) and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(
            f'expected a number, a fraction "8/255" or a table such as {{ of_eps = 0.25 }} or {{ uniform = [2, 4] }}, '
            f"got {value!r}"
        )
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _draw(table: ParameterTable, default: Any, eps: float | None, generator: torch.Generator) -> Any:
    if table.of_eps is not None:
        if eps is None:
            raise ValueError("a share of epsilon, and this attack has none")
        return eps * _number(table.of_eps, 0.0, eps, generator)
    numbers = [_number(each, default, eps, generator) for each in table.choice or table.uniform or ()]
    if table.choice is not None:
        return numbers[int(torch.randint(len(numbers), (), generator=generator))]
    low, high = numbers
    if low > high:
        raise ValueError(f"uniform = [low, high] with low {low} above high {high}")
    if isinstance(low, int) and isinstance(high, int):
        return int(torch.randint(low, high + 1, (), generator=generator))
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
