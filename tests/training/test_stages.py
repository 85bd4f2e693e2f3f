"""Every stage follows the same protocol, reads only what comes before it and calls no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from training import stages
from training.config import STAGES, Stage
from training.pipeline import MODULES

FOLDER = Path(stages.__file__).parent


def test_every_stage_is_a_module_of_its_name() -> None:
    assert tuple(MODULES) == STAGES
    assert {path.stem for path in FOLDER.glob("*.py")} == {"__init__", *STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_what_comes_before_it(name: Stage) -> None:
    assert {*MODULES[name].INPUTS} <= {*STAGES[: STAGES.index(name)]}


@pytest.mark.parametrize("name", STAGES)
def test_no_stage_runs_another(name: Stage) -> None:
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("training.stages")
