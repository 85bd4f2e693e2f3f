"""Fixtures of every area: one tiny trained classifier and images it knows."""

from __future__ import annotations

import pytest
import tiny

from detector.classifier import Classifier
from detector.malloc import keep_freed_memory

keep_freed_memory()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "installs: installs programs into an environment of its own, minutes at the registry's speed"
    )


@pytest.fixture(scope="session")
def tiny_classifier() -> Classifier:
    """A trained classifier of four textures on 16×16 images (see tests/support/tiny.py). Frozen: share it freely."""
    return tiny.classifier()


@pytest.fixture(scope="session")
def tiny_images() -> tiny.TinyImages:
    """64 images that the classifier has not seen, 16 a class, with the patch's place."""
    return tiny.images(64, seed=7)
