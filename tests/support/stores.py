"""Stores for tests: an S3 server (moto's, a program of its own), and drivers of fsspec that misbehave."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

MISSING = (
    "needs s3fs and the command moto_server: pipx install 'moto[server]' (it wants another requests than training)"
)


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """A running S3 server's variables, as drivers and clients read them; skips where it is not installed."""
    program = shutil.which("moto_server")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        program = None
    if program is None:
        pytest.skip(MISSING)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    words = [program, "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(url, process)
            yield {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/moto-api/")
            return
        except OSError:
            assert process.poll() is None, "moto_server ended"
            time.sleep(0.1)
    raise AssertionError("moto_server does not answer")


def require_keys(variables: dict[str, str]) -> None:
    """From now on the server refuses keys that it does not know."""
    request = urllib.request.Request(
        f"{variables['AWS_ENDPOINT_URL']}/moto-api/reset-auth",
        data=b"0",
        headers={"Content-Type": "text/plain"},
    )
    urllib.request.urlopen(request)


class TroubledFileSystem(MemoryFileSystem):
    """`troubled://`: the memory's files, and one trouble that a test chooses."""

    protocol = "troubled"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    trouble = ""
    cachable = False
    released = threading.Event()

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if self.trouble == "refuses":
            raise PermissionError("Forbidden")
        if self.trouble == "fails":
            raise RuntimeError(f"GET http://user:secret@host/{path}?signature=secret")
        if self.trouble == "is silent":
            self.released.wait(30)
        info: dict[str, Any] = super().info(path, **options)
        if self.trouble == "cuts" and info["type"] == "file":
            info["size"] += 7
        if self.trouble == "sends more" and info["type"] == "file":
            info["size"] -= 7
        if self.trouble == "announces too much":
            info["size"] = 2**60
        return info

    def put_file(self, *words: Any, **options: Any) -> None:
        if self.trouble == "takes nothing":
            raise PermissionError("Forbidden")
        super().put_file(*words, **options)

    def pipe_file(self, *words: Any, **options: Any) -> None:
        if self.trouble == "takes nothing":
            raise PermissionError("Forbidden")
        super().pipe_file(*words, **options)


@contextmanager
def troubled() -> Iterator[type[TroubledFileSystem]]:
    fsspec.register_implementation("troubled", TroubledFileSystem, clobber=True)
    TroubledFileSystem.store.clear()
    TroubledFileSystem.trouble = ""
    TroubledFileSystem.released.clear()
    try:
        yield TroubledFileSystem
    finally:
        TroubledFileSystem.released.set()
        TroubledFileSystem.trouble = ""


def environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """These variables and no others; drivers of other ones are forgotten."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
