from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import fake_servicer
import pytest
from fake_servicer import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def process() -> Iterator[tuple[str, int]]:
    """Address and process id of a fake server in a process of its own."""
    command = [sys.executable, fake_servicer.__file__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as started:  # type: ignore[call-overload]
        yield started.stdout.readline().strip(), started.pid
        started.kill()
