"""`module:function`: the user's own attack, `function(classifier, images, labels, **parameters) -> images`.

The classifier answers logits (B, K) for images (B, 3, H, W) in [0, 1]. The function gets such images and the labels to
get away from, and gives back as many images, which are checked.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detector.classifier import Classifier
from detector.errors import ConfigError
from detector.text import nearest, printable
from training.attacks.methods.method import Attacked, arguments_of, whole_of

__all__ = ["FunctionAttack"]

GIVEN = ("classifier", "images", "labels")
ROUNDING = 1e-4
"""So far outside [0, 1] is rounding."""


class FunctionAttack:
    """A callable of the user's.

    Args:
        name: `module:function`.
        kinds: Other words that a name may begin with, for a hint.

    Raises:
        ConfigError: It cannot be imported, or does not take what an attack takes.
    """

    needs_gradient = False
    """Nobody knows; one that does fails at its first batch."""

    def __init__(self, name: str, kinds: tuple[str, ...] = ()) -> None:
        self.title = name
        self.function = _imported(name, kinds)
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} cannot be asked for its parameters ({error}): give a Python function") from error
        first = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if len(first) < len(GIVEN) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise ConfigError(
                f"{name} takes ({', '.join(p.name for p in parameters)}), expected ({', '.join(GIVEN)}) and then its "
                "parameters"
            )
        self.arguments: Mapping[str, Any] = arguments_of(self.function, skip=min(len(GIVEN), len(first)))
        self.whole = whole_of(self.function)
        self.takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.code = _digest(inspect.getmodule(self.function))

    def bound(self, parameters: Mapping[str, Any]) -> float | None:
        return None

    def build(self, classifier: Classifier, parameters: Mapping[str, Any], seed: int) -> Attacked:
        given = ({"seed": seed} if "seed" in self.arguments else {}) | dict(parameters)

        def attacked(images: Tensor, labels: Tensor) -> Tensor:
            before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
            try:
                answer = self.function(classifier.module, images.clone(), labels.clone(), **given)
            finally:
                changed = _put_back(classifier.module, before)
            if changed:
                raise ConfigError(
                    f"{self.title} changed the classifier ({printable(changed)}), and an attack changes images alone: "
                    "leave its weights as they are, and its layers in eval mode"
                )
            return _checked(answer, images, self.title)

        return attacked


def _put_back(module: nn.Module, before: Mapping[str, Tensor]) -> str:
    """The name of a tensor that was changed, after all are what they were; empty where none was."""
    changed = ""
    for name, value in module.state_dict().items():
        if bool(((value != before[name]) & ~(value.isnan() & before[name].isnan())).any()):
            changed = changed or name
            value.copy_(before[name])
    return changed


def _imported(name: str, kinds: tuple[str, ...]) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name}: {error}{nearest(module_name, kinds)} An attack is a class of torchattacks, "
            f"{', '.join(f'{kind}:NAME' for kind in kinds)} or module:function: install its package, or run with its "
            "folder in PYTHONPATH"
        ) from error
    except Exception as error:  # the user's code
        raise ConfigError(f"{name}: importing {module_name} raised {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        offered = [
            key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module_name
        ]
        known = f" (it has {', '.join(sorted(offered))})" if offered else ": it has none"
        raise ConfigError(
            f"{module_name} has no function {printable(function_name)!r}{nearest(function_name, offered)}{known}"
        )
    found: Callable[..., Any] = function
    return found


def _digest(module: Any) -> str:
    """Of the file that the function stands in: when it changes, what it made is made again."""
    path = getattr(module, "__file__", None)
    return _digest_of(Path(path)) if path else ""


@functools.cache  # what was imported does not change
def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _checked(answer: Any, images: Tensor, name: str) -> Tensor:
    """The answer, if it is images.

    Raises:
        ConfigError: It is not.
    """
    expected = f"expected a float tensor {tuple(images.shape)} of images in [0, 1]"
    if not isinstance(answer, Tensor):
        raise ConfigError(f"{name} answered a {type(answer).__name__}, {expected}")
    if answer.shape != images.shape or not answer.is_floating_point():
        raise ConfigError(f"{name} answered a tensor {tuple(answer.shape)} of {answer.dtype}, {expected}")
    answer = answer.detach()
    if not bool(answer.isfinite().all()):
        bad = (~answer.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ConfigError(f"{name} answered NaN or infinity for images {bad} of a batch of {len(images)}, {expected}")
    low, high = (float(each) for each in answer.aminmax())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ConfigError(f"{name} answered values from {low:.4g} to {high:.4g}, {expected}")
    found: Tensor = answer.to(images)
    return found
