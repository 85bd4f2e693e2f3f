"""The product's source files and what they import, read with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "heatward": ROOT / "proto/heatward",
    **{name: ROOT / name for name in ("detector", "training", "server", "forensics", "examples")},
}


def sources(package: str) -> list[Path]:
    return [path for path in sorted(PACKAGES[package].rglob("*.py")) if "_pb2" not in path.name]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def module_name(path: Path) -> str:
    base = ROOT / "proto" if ROOT / "proto" in path.parents else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path, at_import_time_only: bool = False) -> frozenset[str]:
    """Full names of what a file imports, anywhere or at import time; `from a import b` is `a.b`."""
    own = module_name(path).split(".")
    package = own if path.name == "__init__.py" else own[:-1]
    found: set[str] = set()
    for node in at_import_time(tree(path)) if at_import_time_only else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return frozenset(found)


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """Every node outside functions and outside `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import_time(child)
