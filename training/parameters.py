"""Parameters of an attack that change from batch to batch: what people write in, tables that give a number out.

    alpha = { of_eps = 0.25 }                  a share of the attack's epsilon
    steps = { choice = [2, 3, 4] }             one of these
    eps = { uniform = ["2/255", "8/255"] }     drawn between two; of two integers, an integer, both ends included

A table may stand in a table: `{ uniform = [{ of_eps = 0.125 }, { of_eps = 0.5 }] }`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict, ValidationError, model_validator

from detector.text import nearest, printable
from training.settings import Settings, fraction

__all__ = ["ParameterTable", "read_parameter"]

_OF_EPS = re.compile(r"\s*eps\s*(?:([/*])\s*(\d+(?:\.\d*)?|\.\d+)\s*)?")


def _in_tables(value: Any) -> Any:
    """The forms of release 0.2, `"eps/4"` and a list, as tables: two numbers are a range, others a choice."""
    if isinstance(value, str) and (match := _OF_EPS.fullmatch(value)):
        factor = float(match[2] or 1)
        if factor == 0:
            raise ValueError(f"{value!r} is nothing")
        return {"of_eps": 1 / factor if match[1] == "/" else factor}
    if isinstance(value, list):
        return {"uniform" if len(value) == 2 else "choice": value}
    return fraction(value)


Number = Annotated[int, Strict()] | Annotated[float, Strict()]
Inside = Annotated["Number | ParameterTable", BeforeValidator(_in_tables)]


class ParameterTable(Settings):
    """One of these three."""

    uniform: tuple[Inside, Inside] | None = None
    """Drawn between low and high."""
    choice: Annotated[tuple[Inside, ...], Field(min_length=1)] | None = None
    """One of these."""
    of_eps: Inside | None = None
    """So many times the attack's epsilon."""

    @model_validator(mode="after")
    def _one_kind(self) -> ParameterTable:
        if len(self.model_fields_set) != 1:
            raise ValueError("expected one of { uniform = [low, high] }, { choice = [...] } and { of_eps = 0.25 }")
        return self


def read_parameter(value: Any) -> Any:
    """A parameter as people write it: a table as `ParameterTable`, a fraction as a number, anything else as it is.

    Raises:
        ValueError: A table is wrong.
    """
    value = _in_tables(value)
    if not isinstance(value, dict):
        return value
    try:
        return ParameterTable.model_validate(value)
    except ValidationError as error:
        raise ValueError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    # of a union, what came nearest to a table
    problem = max(error.errors(), key=lambda each: each["type"] in ("extra_forbidden", "value_error"))
    key, value = problem["loc"][-1] if problem["loc"] else "", printable(repr(problem["input"]))
    if problem["type"] == "extra_forbidden":
        known = list(ParameterTable.model_fields)
        return f"unknown key {printable(str(key))!r}{nearest(str(key), known)} (known: {', '.join(known)})"
    if problem["type"] == "value_error":
        return f"{problem['msg'].removeprefix('Value error, ')}, got {value}"
    place = printable(".".join(str(part) for part in problem["loc"] if part in ParameterTable.model_fields))
    if problem["type"] in ("too_short", "too_long", "missing", "tuple_type"):
        wanted = "[low, high]" if place == "uniform" else "a list of numbers"
        return f"{place}: expected {wanted}, got {value if problem['input'] else 'an empty list'}"
    return f'{place}: expected a number, a fraction "8/255" or a table such as {{ of_eps = 0.25 }}, got {value}'
