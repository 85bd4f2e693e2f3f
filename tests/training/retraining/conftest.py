from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_job import configure, write_source

from training import pipeline
from training.progress import SilentProgress


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and configuration of the tiny job."""
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def trained(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its work folder and bundle."""
    place = tmp_path_factory.mktemp("trained")
    pipeline.run(configure(source, place), SilentProgress())
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A folder with the finished work in it, so that a retraining has little to do."""
    shutil.copytree(trained / "work", tmp_path / "work")
    return tmp_path
