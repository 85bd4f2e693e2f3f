"""Guard mode in front of KServe v2 servers that are not ours, MLServer and Triton, asked through tritonclient.

Both come from the registry. Triton's binary lies in the wheel of its Python front end, which is not used here.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from heatward.inference import grpc_service_pb2 as kserve
from heatward.inference import grpc_service_pb2_grpc
from other_programs import clean_and_attacked, install

from detector.bundle import EMBEDDED
from detector.detector import Detector
from server.app import App
from server.config import ServerConfig

MLSERVER = ("mlserver", "tritonclient[grpc]")
TRITON = ("nvidia-pytriton==0.7.0",)
HERE = Path(__file__).parent
CAT = 3
needs_linux = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver() < ("glibc", "2.35"),
    reason="Triton's wheel is for Linux on x86-64 with glibc 2.35",
)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_bundle(EMBEDDED)


@pytest.fixture(scope="module")
def images(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(file, clean_and_attacked(detector))
    return file


Serve = Callable[[Path, Path], AbstractAsyncContextManager[str]]
"""Runs a server from the programs in bin/, its files in a folder; gives its address."""


@asynccontextmanager
async def mlserver(programs: Path, folder: Path) -> AsyncIterator[str]:
    """Serves the model `cats`; gives the address."""
    settings = dict(zip(("grpc_port", "http_port", "metrics_port"), free_ports(3), strict=True))
    (folder / "cats").mkdir()
    shutil.copy(HERE / "upstream_mlserver_model.py", folder / "cats")
    model = {"name": "cats", "implementation": "upstream_mlserver_model.Brightness"}
    (folder / "cats/model-settings.json").write_text(json.dumps(model))
    (folder / "settings.json").write_text(
        json.dumps({"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **settings})
    )
    async with upstream(settings["grpc_port"], programs / "mlserver", "start", folder) as address:
        yield address


@asynccontextmanager
async def triton(programs: Path, folder: Path) -> AsyncIterator[str]:
    """Serves the model `cats`; gives the address."""
    (packages,) = programs.parent.glob("lib/python*/site-packages")
    home, models, backends = packages / "pytriton/tritonserver", folder / "models", folder / "backends"
    (models / "cats/1").mkdir(parents=True)
    shutil.copy(HERE / "upstream_triton_model.py", models / "cats/1/model.py")
    shutil.copy(HERE / "upstream_triton_config.pbtxt", models / "cats/config.pbtxt")
    shutil.copytree(home / "backends", backends)
    python = ".".join(platform.python_version_tuple()[:2])
    shutil.copy(home / "python_backend_stubs" / python / "triton_python_backend_stub", backends / "python")
    (port,) = free_ports(1)
    arguments = {
        "model-repository": models,
        "backend-directory": backends,
        "grpc-address": "127.0.0.1",
        "grpc-port": port,
        "allow-http": "false",
        "allow-metrics": "false",
    }
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",  # the models' Python
    }
    settings = [f"--{name}={value}" for name, value in arguments.items()]
    async with upstream(port, home / "bin/tritonserver", *settings, env=environment) as address:
        yield address


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@asynccontextmanager
async def upstream(port: int, *command: str | Path, **settings: Any) -> AsyncIterator[str]:
    """Runs a server until its model `cats` was used; gives its address."""
    process = await asyncio.create_subprocess_exec(*command, **settings)
    address = f"127.0.0.1:{port}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            ready = await stub.ModelReady(kserve.ModelReadyRequest(name="cats"), timeout=60, wait_for_ready=True)
            assert ready.ready
        yield address
    finally:
        process.terminate()
        await process.wait()


async def heard(
    programs: Path, images: Path, detector: Detector, inputs: Sequence[str], **settings: Any
) -> dict[str, Any]:
    """What tritonclient hears through the guard when it sends these inputs."""
    config = ServerConfig(port=0, metrics_port=None, threads=1, device="cpu", upstream_model="cats", **settings)
    app = App(config, lambda path, device: detector)
    try:
        await app.listen()
        await app.begin()
        process = await asyncio.create_subprocess_exec(
            programs / "python",
            HERE / "upstream_script.py",
            app.address,
            images,
            *inputs,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    finally:
        await app.close()
    assert process.returncode == 0
    said: dict[str, Any] = json.loads(output)
    print(json.dumps(said, indent=1))
    return said


@pytest.mark.installs
@pytest.mark.parametrize(
    ("serve", "packages", "inputs"),
    [
        pytest.param(mlserver, MLSERVER, ("pixels", "floats", "numbers"), id="mlserver"),
        pytest.param(triton, TRITON, ("pixels",), id="triton", marks=needs_linux),
    ],
)
async def test_the_guard_before_a_real_server(
    serve: Serve, packages: Sequence[str], inputs: Sequence[str], images: Path, detector: Detector, tmp_path: Path
):
    programs = install(tmp_path / "environment", *packages)
    async with serve(programs, tmp_path) as address:
        annotated, rejected, replaced = [
            await heard(programs, images, detector, inputs, upstream=address, upstream_output="labels", **settings)
            for settings in (
                {"guard_policy": "annotate"},
                {"guard_policy": "reject"},
                {"guard_policy": "replace", "guard_failure": "closed"},
            )
        ]
    for said in (annotated, rejected, replaced):
        assert said["ready"] and said["models"] == [True, True]
        assert said["server"] == serve.__name__
        assert said["unknown"] == "StatusCode.NOT_FOUND"
        assert said["stream"] == "StatusCode.UNIMPLEMENTED"
    for name in {"pixels", "floats"} & set(inputs):
        plain, corrected = annotated[name], replaced[name]
        for answer in (plain, corrected):
            assert answer["id"] == name
            assert json.loads(answer["heatward_verdict"]) == ["clean", "attacked"]
            assert json.loads(answer["heatward_recovered_label"]) == [None, "cat"]
        assert plain["labels"] != corrected["labels"] == [plain["labels"][0], CAT]
        assert rejected[name] == "StatusCode.FAILED_PRECONDITION"
    if "numbers" in inputs:
        assert annotated["numbers"]["heatward_verdict"] == "unknown"
        assert replaced["numbers"] == "StatusCode.UNAVAILABLE"
    if serve is triton:  # MLServer has no statistics
        assert [said["statistics"] for said in (annotated, rejected, replaced)] == [1, 2, 3]
