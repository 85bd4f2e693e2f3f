"""NVIDIA's own client, from the registry, against a server with the embedded detector."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import numpy as np
import pytest
from other_programs import clean_and_attacked, install

from detector.bundle import EMBEDDED
from detector.detector import Detector
from server.app import App
from server.config import ServerConfig

ROOT = Path(__file__).parents[2]
PACKAGES = ("tritonclient[grpc]", "googleapis-common-protos", "pillow")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has tritonclient and what the heatward client needs."""
    return install(tmp_path_factory.mktemp("triton"), *PACKAGES) / "python"


@pytest.mark.installs
async def test_tritonclient_and_heatward_in_one_process_hear_the_same(python: Path, tmp_path: Path):
    detector = Detector.from_bundle(EMBEDDED)
    np.save(tmp_path / "images.npy", clean_and_attacked(detector))
    app = App(ServerConfig(port=0, metrics_port=None, threads=1, device="cpu"), lambda path, device: detector)
    try:
        await app.listen()
        await app.begin()
        process = await asyncio.create_subprocess_exec(
            *(
                python,
                "-W",
                "error",
                Path(__file__).with_name("triton_script.py"),
                app.address,
                tmp_path / "images.npy",
            ),
            env={**os.environ, "PYTHONPATH": str(ROOT / "proto")},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    finally:
        await app.close()
    assert process.returncode == 0
    said = json.loads(output)
    print(json.dumps(said, indent=1))
    assert said["live"] and said["ready"] and said["model_ready"]
    assert said["config"] == ["cifar10", 1024, ["image", "image_bytes"]]
    assert len(said["ours"]) == 2
    assert [row[0] for row in said["ours"]] == [False, True]
    for theirs in (said["pixels"], said["files"]):
        for row, ours in zip(theirs, said["ours"], strict=True):
            assert row[3:] == ours[3:]
            assert row[:3] == pytest.approx(ours[:3], rel=1e-3, abs=1e-4)  # batches of another size round otherwise
    assert said["ours"][1][6] == said["ours"][0][4]  # the label before the attack is recovered
    assert said["shapes"]["heatmap"][0] == 2
    assert said["shapes"]["top_label"] == [2, 5]
    assert said["unknown"][0] == "StatusCode.NOT_FOUND"
    assert said["statistics"][0] == 3
