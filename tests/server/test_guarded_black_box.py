"""A bundle of a served model, in guard mode: the very upstream that is guarded is asked, and may go away in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tiny
import torch
from fake_model_server import MODEL, SERVICE, ModelServer, model_server
from fake_upstream import tensor
from heatward.inference import grpc_service_pb2 as kserve
from heatward.v1 import detection_pb2_grpc
from sample_requests import raw
from tiny_bundle import tiny_bundle

from detector.bundle import save_bundle
from detector.classifier import Classifier, load_classifier
from detector.errors import ClassifierSpecError
from server.app import App, load_detector
from server.config import ServerConfig

IMAGES = tiny.images(6, seed=4).images
ARGUMENTS = {"wait_s": 0, "timeout_s": 5, "retries": 0}


@pytest.fixture(scope="module")
def bundle(tiny_classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made with a server that is gone since."""
    with model_server() as server:
        classifier = load_classifier(tiny.SPEC.model_copy(update={"source": server.source, "arguments": ARGUMENTS}))
        path = tmp_path_factory.mktemp("bundle") / "textures.heatward"
        save_bundle(path, tiny_bundle(classifier, tiny_classifier))
    return path


@pytest.fixture
def upstream() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def configured(bundle: Path, upstream: ModelServer, **settings: Any) -> ServerConfig:
    defaults: dict[str, Any] = {
        "bundle": bundle, "port": 0, "metrics_port": None, "threads": 1, "max_batch": 4, "trusted": ("tiny",),
        "upstream": upstream.address, "upstream_model": MODEL, "upstream_mean": (0.5,), "upstream_std": (0.25,),
    }  # fmt: skip
    return ServerConfig(**(defaults | settings))


@asynccontextmanager
async def guarding(config: ServerConfig) -> AsyncIterator[tuple[App, grpc.aio.Channel]]:
    app = App(config, partial(load_detector, config))
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            yield app, channel
    finally:
        await app.close()


async def test_the_upstream_that_is_guarded_is_asked_and_may_come_back(bundle: Path, upstream: ModelServer) -> None:
    async with guarding(configured(bundle, upstream)) as (_, channel):
        request = tensor(((IMAGES - 0.5) / 0.25).numpy().astype("<f4"), "FP32", "images")
        request.model_name = MODEL
        call = channel.unary_unary(SERVICE + "ModelInfer")
        upstream.calls.clear()
        answer = kserve.ModelInferResponse.FromString(await call(request.SerializeToString()))
        assert sum(upstream.calls) > len(IMAGES)  # the call itself, and the detector's own questions
        assert np.frombuffer(answer.raw_output_contents[0], "<f4").shape == (len(IMAGES) * len(tiny.CLASSES),)
        assert answer.parameters["heatward_verdict"].string_param.count("clean") + answer.parameters[
            "heatward_verdict"
        ].string_param.count("attacked") == len(IMAGES)

        detect = detection_pb2_grpc.DetectionServiceStub(channel).Detect
        image = raw((IMAGES[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        before = await detect(image)
        upstream.stop()
        with pytest.raises(grpc.aio.AioRpcError, match="does not answer") as caught:
            await detect(image)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        upstream.start()
        assert (await _again(detect, image)).predicted.index == before.predicted.index


async def test_a_reload_of_the_same_file_notices_another_model(bundle: Path, upstream: ModelServer) -> None:
    async with guarding(configured(bundle, upstream)) as (app, _):
        assert [each.error for each in await app.reloader.reload()] == [""]
        upstream.net = tiny.net().eval()
        (outcome,) = await app.reloader.reload()
        assert "it is another model" in outcome.error and not outcome.changed


async def test_another_model_than_the_guarded_one_must_be_trusted(bundle: Path, upstream: ModelServer) -> None:
    with pytest.raises(ClassifierSpecError, match="sends images to"):
        async with guarding(configured(bundle, upstream, upstream_model="cats")):
            pass


async def _again(detect: Any, image: Any) -> Any:
    """Once the channel to the server that is back has reconnected."""
    for _ in range(200):
        try:
            return await detect(image)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.sleep(0.05)
    raise TimeoutError("it does not come back")
