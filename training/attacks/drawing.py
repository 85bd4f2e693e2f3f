"""An attack's parameters as people write them in; arguments, drawn from tables by a seed, out."""

from __future__ import annotations

from typing import Any

import torch

from detector.errors import ConfigError
from training.attacks.methods import EPSILONS, REQUIRED, find_method
from training.config import AttackSpec
from training.load import nearest
from training.parameters import ParameterTable, read_parameter

__all__ = ["draw_number", "draw_parameters"]

OURS = ("seed",)
"""Arguments that the job gives where nobody else does."""


def draw_parameters(spec: AttackSpec, seed: int) -> dict[str, Any]:
    """Arguments for the attack: fractions become numbers, tables are drawn from with `seed`.

    Raises:
        ConfigError: Unknown or missing parameter, or a value of the wrong kind.
    """
    method = find_method(spec.name)
    accepted = method.arguments
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Any] = {}
    # epsilon first: others may be a share of it
    for name in sorted(spec.parameters, key=lambda name: (name not in EPSILONS, name)):
        if name not in accepted and not method.takes_any:
            hint = nearest(name, list(accepted)) if accepted else ": it takes none"
            raise ConfigError(f"attack {spec.label!r}: {method.title} has no parameter {name!r}{hint}")
        sizes = {**accepted, **drawn}
        eps = next((sizes[key] for key in EPSILONS if isinstance(sizes.get(key), (int, float))), None)
        try:
            drawn[name] = _value(spec.parameters[name], accepted.get(name, REQUIRED), eps, generator)
            if name in method.whole and isinstance(drawn[name], float):
                if not drawn[name].is_integer():
                    raise ValueError(f"expected a whole number, got {drawn[name]!r}")
                drawn[name] = int(drawn[name])
        except ValueError as error:
            raise ConfigError(f"attack {spec.label!r}: {method.title} parameter {name!r}: {error}") from error
    for name, default in accepted.items():
        if default is REQUIRED and name not in (*drawn, *OURS):
            raise ConfigError(f"attack {spec.label!r}: {method.title} needs the parameter {name!r}")
    return drawn


def draw_number(amount: ParameterTable | float, generator: torch.Generator) -> float:
    """A number that is no attack's: as it is, or drawn from its table."""
    drawn: float = _number(amount, 0.0, None, generator)
    return drawn


def _value(value: Any, default: Any, eps: float | None, generator: torch.Generator) -> Any:
    if isinstance(default, (tuple, list)):
        return type(default)(value) if isinstance(value, list) else value
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
        if (share := _number(table.of_eps, 0.0, eps, generator)) <= 0:
            raise ValueError(f"of_eps is a share of epsilon, above 0, got {share:g}")
        return eps * share
    numbers = [_number(each, default, eps, generator) for each in table.choice or table.uniform or ()]
    if table.choice is not None:
        return numbers[int(torch.randint(len(numbers), (), generator=generator))]
    low, high = numbers
    if low > high:
        raise ValueError(f"uniform = [low, high] with low {low} above high {high}")
    if isinstance(low, int) and isinstance(high, int):
        return int(torch.randint(low, high + 1, (), generator=generator))
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
