"""Where attacks come from: the name of one in, a `Method` out.

NAME               torchattacks, and our DeepFool
foolbox:NAME       foolbox, the extra `foolbox`
art:NAME           the adversarial-robustness-toolbox, the extra `art`
module:function    the user's own
files:FOLDER       images that somebody attacked already: no method, `training.data.collected` reads them
"""

from __future__ import annotations

from collections.abc import Callable

from training.attacks.methods.art import ArtAttack
from training.attacks.methods.foolbox import FoolboxAttack
from training.attacks.methods.function import FunctionAttack
from training.attacks.methods.method import EPSILONS, REQUIRED, Method
from training.attacks.methods.torchattacks import ATTACKS, NO_GRADIENT, TorchAttack
from training.config import FILES

__all__ = ["ATTACKS", "EPSILONS", "NO_GRADIENT", "REQUIRED", "Method", "find_method", "module_of"]

LIBRARIES: dict[str, Callable[[str], Method]] = {"foolbox": FoolboxAttack, "art": ArtAttack}


def find_method(name: str) -> Method:
    """The attack of that name.

    Raises:
        ConfigError: There is none, or what it needs is not installed.
    """
    kind, colon, rest = name.removeprefix("python:").partition(":")  # as a classifier's source is written
    if not colon:
        return TorchAttack(name)
    if kind in LIBRARIES:
        return LIBRARIES[kind](rest)
    return FunctionAttack(f"{kind}:{rest}", (*LIBRARIES, FILES))


def module_of(name: str) -> str:
    """The module whose code an attack of that name runs; empty where that is a library's or ours, or nobody's."""
    kind, colon, _ = name.removeprefix("python:").partition(":")
    return kind if colon and kind not in (*LIBRARIES, FILES) else ""
