"""Guard mode in front of a KServe v2 server that is not ours: MLServer, from the registry, through tritonclient."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

PACKAGES = ("mlserver", "tritonclient[grpc]")
HERE = Path(__file__).parent
CAT = 3


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of an environment that has MLServer and tritonclient."""
    return install(tmp_path_factory.mktemp("mlserver"), *PACKAGES)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_bundle(EMBEDDED)


@pytest.fixture(scope="module")
def images(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(file, clean_and_attacked(detector))
    return file


@asynccontextmanager
async def mlserver(programs: Path, folder: Path) -> AsyncIterator[str]:
    """Serves the model `cats`; gives the address."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (one, two, three)]
    settings = dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=True))
    (folder / "cats").mkdir()
    shutil.copy(HERE / "mlserver_model.py", folder / "cats")
    model = {"name": "cats", "implementation": "mlserver_model.Brightness"}
    (folder / "cats/model-settings.json").write_text(json.dumps(model))
    (folder / "settings.json").write_text(
        json.dumps({"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **settings})
    )
    process = await asyncio.create_subprocess_exec(programs / "mlserver", "start", folder)
    address = f"127.0.0.1:{ports[0]}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            ready = await stub.ModelReady(kserve.ModelReadyRequest(name="cats"), timeout=60, wait_for_ready=True)
            assert ready.ready
        yield address
    finally:
        process.terminate()
        await process.wait()


async def heard(programs: Path, images: Path, detector: Detector, **settings: Any) -> dict[str, Any]:
    """What tritonclient hears through the guard."""
    config = ServerConfig(port=0, metrics_port=None, threads=1, device="cpu", upstream_model="cats", **settings)
    app = App(config, lambda path, device: detector)
    try:
        await app.listen()
        await app.begin()
        process = await asyncio.create_subprocess_exec(
            *(programs / "python", HERE / "mlserver_script.py", app.address, images), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    finally:
        await app.close()
    assert process.returncode == 0
    said: dict[str, Any] = json.loads(output)
    print(json.dumps(said, indent=1))
    return said


@pytest.mark.slow
async def test_the_guard_before_mlserver(programs: Path, images: Path, detector: Detector, tmp_path: Path):
    async with mlserver(programs, tmp_path) as upstream:
        annotated, rejected, replaced = [
            await heard(programs, images, detector, upstream=upstream, upstream_output="labels", **settings)
            for settings in (
                {"guard_policy": "annotate"},
                {"guard_policy": "reject"},
                {"guard_policy": "replace", "guard_failure": "closed"},
            )
        ]
    for said in (annotated, rejected, replaced):
        assert said["ready"] and said["models"] == [True, True]
        assert said["server"] == "mlserver"
        assert said["unknown"] == "StatusCode.NOT_FOUND"
    for name in ("pixels", "floats"):
        plain, corrected = annotated[name], replaced[name]
        for answer in (plain, corrected):
            assert answer["id"] == name
            assert json.loads(answer["heatward_verdict"]) == ["clean", "attacked"]
            assert json.loads(answer["heatward_recovered_label"]) == [None, "cat"]
        assert plain["labels"] != corrected["labels"] == [plain["labels"][0], CAT]
        assert rejected[name] == "StatusCode.FAILED_PRECONDITION"
    assert annotated["numbers"]["heatward_verdict"] == "unknown"
    assert replaced["numbers"] == "StatusCode.UNAVAILABLE"
