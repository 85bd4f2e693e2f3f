"""Reads TOML: a **file in, its tables out**, upon those of the file that it extends.

    extend = "delivered.toml"   # beside this file

    [[attacks]]
    label = "transfer-8"        # there already: only what is named changes
    limit = 512

Tables merge key by key. Of lists of tables, those of one `label` merge, and what is new follows. All else replaces, a
table that stands for a drawn number, too (`{ uniform = [2, 4] }`); `attacks = []` begins anew.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.text import plain, printable

__all__ = ["EXTEND", "read_toml"]

EXTEND = "extend"
LABEL = "label"
DRAWN = {"uniform", "choice", "of_eps"}
"""A table of one of these stands for a number (`training/parameters.py`)."""
LONGEST_CHAIN = 64


def read_toml(file: Path) -> dict[str, Any]:
    """Content of a file and of those that it extends.

    Raises:
        ConfigError: One cannot be read, is no TOML, or extends itself.
    """
    return _read(file, ())


def _read(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if file.resolve() in above:
        raise ConfigError(f"the configuration {file} extends itself; take the line `{EXTEND} = …` out of one of them")
    content = _tables(file, f", which {printable(str(above[-1]), 300)} extends" if above else "")
    extended = content.pop(EXTEND, None)
    if extended is None:
        return content
    if not isinstance(extended, str) or not extended or "\0" in extended:
        raise ConfigError(f'{file}: {EXTEND}: expected the path of a TOML file, such as "detector.toml"')
    if len(above) >= LONGEST_CHAIN:
        raise ConfigError(f"{file}: {EXTEND}: it is extended through {len(above)} files: extend fewer upon each other")
    under = _read(file.parent / extended, (*above, file.resolve()))
    merged: dict[str, Any] = _merged(under, content, file)
    return merged


def _tables(file: Path, whose: str) -> dict[str, Any]:
    try:
        return tomllib.loads(plain(file.read_bytes()).decode())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}{whose}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the configuration {file}{whose} is no TOML: {printable(str(error), 300)}") from error
    except RecursionError:
        raise ConfigError(f"the configuration {file}{whose} nests too deep") from None


def _merged(under: Any, over: Any, file: Path) -> Any:
    """What stands in `file`, upon what it extends."""
    if isinstance(under, dict) and isinstance(over, dict) and not (_drawn(under) and _drawn(over)):
        return under | {key: _merged(under[key], value, file) if key in under else value for key, value in over.items()}
    if _labelled(under) and _labelled(over):
        merged, places = list(under), {each[LABEL]: place for place, each in enumerate(under)}
        changed: set[str] = set()
        for each in over:
            label = each[LABEL]
            if label in changed:
                raise ConfigError(f"{file}: label {printable(label)!r} is used twice; labels must be unique")
            if label in places:
                changed.add(label)
                merged[places[label]] = _merged(merged[places[label]], each, file)
            else:
                merged.append(each)
        return merged
    return over


def _drawn(table: dict[str, Any]) -> bool:
    return len(table) == 1 and table.keys() <= DRAWN


def _labelled(value: Any) -> bool:
    """Tables that have labels, at least one."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(each, dict) and isinstance(each.get(LABEL), str) for each in value)
