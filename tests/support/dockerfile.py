"""Reads the Dockerfile into its stages, and plays their steps in a folder of this machine instead of a container."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Stage:
    name: str  # empty: the last one, which has none
    base: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


def read(path: Path = ROOT / "Dockerfile") -> dict[str, Stage]:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    stages: dict[str, Stage] = {}
    current = Stage("")
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages.setdefault(name, Stage(name, base))
        elif current.base:
            current.steps.append((instruction, rest.strip()))
    return stages


def exec_form(text: str) -> list[str]:
    """The words of an exec-form CMD or HEALTHCHECK; a ValueError for the shell form."""
    words = json.loads(text[text.index("[") :]) if "[" in text else None
    if not isinstance(words, list):
        raise ValueError(f"not in exec form: {text}")
    return words


class Machine:
    """A folder that stands for a container's file system; absolute paths of the image lie below it."""

    def __init__(self, root: Path, paths: tuple[str, ...]) -> None:
        self.root = root
        self._paths = paths
        self._directory = root
        self.environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}

    def inside(self, text: str) -> str:
        for path in self._paths:
            text = text.replace(path, f"{self.root}{path}")
        return text

    def play(self, stage: Stage) -> None:
        """Plays WORKDIR, COPY, ARG, ENV and those RUN steps that need no root."""
        for instruction, text in stage.steps:
            if instruction == "WORKDIR":
                self._directory = Path(self.inside(text))
                self._directory.mkdir(parents=True, exist_ok=True)
            elif instruction == "COPY" and not text.startswith("--from"):
                self._copy(*text.split())
            elif instruction == "ARG":
                key, given, value = text.partition("=")
                if given:
                    self.environment[key] = value
            elif instruction == "ENV":
                for pair in shlex.split(text):
                    key, _, value = pair.partition("=")
                    self.environment[key] = self.inside(value).replace("$PATH", self.environment["PATH"])
            elif instruction == "RUN" and "useradd" not in text:
                done = subprocess.run(
                    ["sh", "-ec", self.inside(text)],
                    cwd=self._directory,
                    env=self.environment,
                    capture_output=True,
                    text=True,
                )
                assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _copy(self, *words: str) -> None:
        *sources, target = words
        for source in sources:
            origin, destination = ROOT / source, self._directory / target
            if origin.is_dir():
                shutil.copytree(origin, destination, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(origin, destination / origin.name)
