"""Pages for people: a template and values in, one self-contained HTML document out; every value is escaped.

`templates/` holds the base page, the one style sheet and the parts that all pages share. Nothing is fetched and no
script runs when a page is opened: style and pictures lie inside.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.table import Table

from forensics.theme import THEME

__all__ = ["SHARED", "Grid", "data_url", "render"]

SHARED = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Grid:
    """A table."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    @classmethod
    def of(cls, table: Table) -> Grid:
        """A table as a terminal shows it, without its styles."""
        rows = [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]
        return cls([str(column.header) for column in table.columns], rows, str(table.title))


def render(template: Path, **values: object) -> str:
    """The document.

    Args:
        template: Extends `base.html` of the shared templates.
        values: What it shows.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(values, theme=THEME)


def data_url(content: bytes, kind: str) -> str:
    """A picture as the address of itself; `kind` is `png`, `webp` or `svg+xml`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
