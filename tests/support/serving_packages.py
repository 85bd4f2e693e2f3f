"""Run by a test: `python serving_packages.py BUNDLE …` serves each bundle with nothing but what `[serve]` installs.

Every other installed package, and `training`, cannot be imported: as in the image that the Dockerfile makes.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
OF_EXTRAS = {
    f"server.{name}"
    for name in ("observers.otel", "observers.quarantine", "observers.recorder", "observers.row", "protocols.feedback")
}
"""Modules that are imported only where a setting asks for what an extra brings: `trace`, `record`."""


def needed(requirements: list[str]) -> set[str]:
    """Names of the distributions that these bring along, themselves included."""
    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            waiting += [Requirement(each) for each in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:  # of another platform
            continue
    return found


def forbidden() -> set[str]:
    """Top-level modules of all other distributions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    there = needed([*project["dependencies"], *project["optional-dependencies"]["serve"]])
    return {"training", "tests"} | {
        module
        for module, owners in metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in there for owner in owners)
        and module not in ("server", "detector", "heatward")
    }


class Without:
    """A finder that does not find what is forbidden."""

    def __init__(self, finder: Any, names: set[str]) -> None:
        self._finder, self._names = finder, names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._names else self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


async def serve(bundle: Path) -> str:
    from server.app import App, load_detector
    from server.config import ServerConfig

    config = ServerConfig(bundle=bundle, port=0, metrics_port=None, threads=1, max_batch=1, device=("cpu",))
    app = App(config, lambda path, device: load_detector(config, path, device))
    try:
        await app.listen()
        await app.begin()
        return app.address
    finally:
        await app.close()


def main(bundles: list[str]) -> None:
    names = forbidden()
    sys.meta_path[:] = [Without(finder, names) for finder in sys.meta_path]
    import server

    for module in pkgutil.walk_packages(server.__path__, "server."):
        if module.name not in OF_EXTRAS:
            importlib.import_module(module.name)
    for bundle in bundles:
        print(Path(bundle).stem, asyncio.run(serve(Path(bundle))), flush=True)
    present = {name.partition(".")[0] for name in sys.modules} & names - {"packaging"}  # ours, above
    if present:
        sys.exit(f"imported: {sorted(present)}")


if __name__ == "__main__":
    main(sys.argv[1:])
