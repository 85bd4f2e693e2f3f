"""`NAME`: an attack of torchattacks (Kim 2020), or one of ours."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import torchattacks
from torchattacks.attack import Attack

from detector.classifier import Classifier
from detector.errors import ConfigError
from training.attacks.deepfool import DeepFool
from training.attacks.everyday import Colour, Manual, Spatial
from training.attacks.methods.method import EPSILONS, Attacked, arguments_of, whole_of
from training.attacks.patch import Patch
from training.attacks.rays import RayS
from training.load import nearest

__all__ = ["ATTACKS", "NO_GRADIENT", "TorchAttack"]

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


class TorchAttack:
    """A class of torchattacks.

    Raises:
        ConfigError: There is none of that name.
    """

    takes_any = False
    code = ""

    def __init__(self, name: str) -> None:
        if name not in ATTACKS:
            raise ConfigError(f"no attack is named {name!r}{nearest(name, list(ATTACKS))}")
        self.title = name
        self.kind = ATTACKS[name]
        self.arguments: Mapping[str, Any] = arguments_of(self.kind.__init__, skip=2)
        self.whole = whole_of(self.kind.__init__)
        self.needs_gradient = name not in NO_GRADIENT

    def bound(self, parameters: Mapping[str, Any]) -> float | None:
        values = {**self.arguments, **parameters}
        if values.get("norm", "Linf" if self.title in LINF else None) != "Linf":
            return None
        return next((float(values[key]) for key in EPSILONS if key in values), None)

    def build(self, classifier: Classifier, parameters: Mapping[str, Any], seed: int) -> Attacked:
        own = {"n_classes": classifier.num_classes, "seed": seed}
        given = {name: value for name, value in own.items() if name in self.arguments} | dict(parameters)
        # torchattacks prints when a model has no parameters to find a device by; we set the device ourselves
        with contextlib.redirect_stdout(io.StringIO()):
            attack = self.kind(classifier.module, **given)
        attack.set_device(classifier.device)
        built: Attacked = attack
        return built
