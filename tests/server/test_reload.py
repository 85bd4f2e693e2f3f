"""New bundles beside the one that serves: swapped, refused, on trial; no request notices."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from fake_detector import FakeDetector
from heatward.inference import grpc_service_pb2_grpc
from heatward.v1 import admin_pb2, admin_pb2_grpc, detection_pb2_grpc
from heatward.v1 import detection_pb2 as pb
from sample_requests import picture, raw
from test_inference import pixels
from test_patches_asked import made_for_patches
from test_service import settle
from torch import Tensor

from detector.detector import Verdict
from detector.errors import BundleDamagedError, ConfigError
from detector.scoring.calibration import Calibration
from server.app import App
from server.config import ServerConfig
from server.models.folder import newest
from server.models.registry import ModelRegistry, Role

CURRENT, CANARY, SHADOW = admin_pb2.ROLE_CURRENT, admin_pb2.ROLE_CANARY, admin_pb2.ROLE_SHADOW


class Shop:
    """A folder whose files are bundles: a file's one letter names the detector, "!" is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[weakref.ref[FakeDetector]] = []
        self.make: Callable[[str], FakeDetector] = lambda letter: FakeDetector(name=letter)

    def put(self, name: str, letter: str) -> Path:
        path = self.folder / f"{name}.heatward"
        fresh = path.with_suffix(".new")
        fresh.write_text(letter)
        return fresh.replace(path)

    def load(self, path: Path, device: str) -> FakeDetector:
        letter = path.read_text()
        if letter == "!":
            raise BundleDamagedError("network.safetensors differs from its sha256")
        detector = self.make(letter)
        self.made.append(weakref.ref(detector))
        return detector


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@asynccontextmanager
async def serving(shop: Shop, **settings: Any) -> AsyncIterator[tuple[App, grpc.aio.Channel]]:
    defaults: dict[str, Any] = {"port": 0, "metrics_port": None, "threads": 1, "admin": True, "max_batch": 2}
    defaults["allow_other_classifier"] = True  # a letter names version and classifier
    app = App(ServerConfig(**(defaults | settings)), shop.load)
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            yield app, channel
    finally:
        await app.close()


async def version(channel: grpc.aio.Channel, **fields: Any) -> str:
    request = raw(picture(1))
    request.MergeFrom(pb.DetectRequest(**fields))
    return str((await detection_pb2_grpc.DetectionServiceStub(channel).Detect(request)).detector_version)


async def reload(channel: grpc.aio.Channel) -> list[admin_pb2.ReloadOutcome]:
    return list((await admin_pb2_grpc.AdminServiceStub(channel).Reload(admin_pb2.ReloadRequest())).outcomes)


async def test_a_new_bundle_takes_the_place_of_the_old(shop: Shop):
    async with serving(shop, bundle=shop.put("a", "a")) as (_, channel):
        assert await version(channel) == "a" * 16
        (nothing,) = await reload(channel)
        assert (nothing.version, nothing.changed) == ("a" * 16, False)
        shop.put("a", "b")
        (outcome,) = await reload(channel)
        assert (outcome.role, outcome.version, outcome.changed, outcome.error) == (CURRENT, "b" * 16, True, "")
        assert await version(channel) == "b" * 16


async def test_a_bad_bundle_leaves_the_old_one_and_is_not_tried_twice(shop: Shop):
    async with serving(shop, bundle=shop.put("a", "a")) as (_, channel):
        shop.put("a", "!")
        (outcome,) = await reload(channel)
        assert (outcome.version, outcome.changed) == ("a" * 16, False)
        assert "differs from its sha256" in outcome.error
        assert [each.error for each in await reload(channel)] == [""]
        assert await version(channel) == "a" * 16
        shop.put("a", "c")
        assert [each.changed for each in await reload(channel)] == [True]


async def test_a_bundle_that_fails_while_it_warms_up_is_refused(shop: Shop):
    class Broken(FakeDetector):
        def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
            raise RuntimeError("no kernel image")

    async with serving(shop, bundle=shop.put("a", "a")) as (_, channel):
        shop.make = lambda letter: Broken(name=letter)
        shop.put("a", "b")
        (outcome,) = await reload(channel)
        assert "no kernel image" in outcome.error
        assert await version(channel) == "a" * 16


async def test_a_request_in_flight_keeps_its_detector(shop: Shop):
    async with serving(shop, bundle=shop.put("a", "a")) as (app, channel):
        old = shop.made[0]()
        assert old is not None
        old.gate.clear()
        old.entered.clear()
        asked = asyncio.create_task(version(channel))
        await settle(old.entered.is_set)
        shop.put("a", "b")
        await reload(channel)
        waiting = asyncio.create_task(version(channel))
        await settle(lambda: app.batcher.queued == 1)
        old.gate.set()
        assert await asked == "a" * 16
        assert await waiting == "b" * 16


async def test_two_hundred_reloads_under_load_fail_no_request_and_leave_nothing_behind(shop: Shop):
    async with serving(shop, bundle=shop.put("a", "a")) as (_, channel):
        seen: list[str] = []
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                seen.append(await version(channel))

        callers = [asyncio.create_task(load()) for _ in range(4)]
        for count in range(200):
            shop.put("a", "abcdefgh"[count % 8] if count % 5 else "!")
            await reload(channel)
        done.set()
        await asyncio.gather(*callers)
        assert len({*seen}) > 4
        await version(channel)
    gc.collect()
    assert sum(each() is not None for each in shop.made) <= 2


async def test_files_are_watched(shop: Shop):
    async with serving(shop, bundle=shop.put("a", "a"), watch_s=0.01) as (
        app,
        channel,
    ):
        shop.put("a", "b")
        while await version(channel) != "b" * 16:
            await asyncio.sleep(0.01)
        (shop.folder / "a.heatward").unlink()
        await app.reloader.reload()
        assert await version(channel) == "b" * 16


async def test_the_last_of_a_folder_serves(shop: Shop):
    shop.put("v9", "a")
    async with serving(shop, bundle=shop.folder) as (_, channel):
        shop.put("v10", "b")
        await reload(channel)
        assert await version(channel) == "b" * 16


def test_an_empty_folder_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no bundle"):
        newest(tmp_path)


async def test_versions_can_be_named_and_an_unknown_one_lists_them(shop: Shop):
    paths = {"bundle": shop.put("a", "a"), "canary": shop.put("b", "b"), "shadow": shop.put("c", "c")}
    async with serving(shop, **paths, canary_weight=0.0) as (_, channel):
        assert await version(channel) == "a" * 16
        for letter in "bc":
            assert await version(channel, detector_version=letter * 16) == letter * 16
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"aaaaaaaaaaaaaaaa \(current\), bbbbbbbbbbbbbbbb \(canary\)"
        ) as no:
            await version(channel, detector_version="z")
        assert no.value.code() is grpc.StatusCode.NOT_FOUND
        stub = detection_pb2_grpc.DetectionServiceStub(channel)
        assert (await stub.GetDetector(pb.GetDetectorRequest(version="b" * 16))).name == "b"
        listed = await admin_pb2_grpc.AdminServiceStub(channel).ListVersions(admin_pb2.ListVersionsRequest())
        assert [(each.role, each.name) for each in listed.versions] == [(CURRENT, "a"), (CANARY, "b"), (SHADOW, "c")]


async def test_the_canary_answers_its_share(shop: Shop):
    paths = {"bundle": shop.put("a", "a"), "canary": shop.put("b", "b")}
    async with serving(shop, **paths, canary_weight=0.25) as (app, channel):
        draws = iter([0.9, 0.1, 0.3, 0.2499])
        app._registry._chance = lambda: next(draws)
        assert [(await version(channel))[0] for _ in range(4)] == ["a", "b", "a", "b"]


async def test_what_the_canary_cannot_do_the_current_one_answers(shop: Shop):
    """Which of both answers is chance; no request that the current one can answer fails by it."""

    def make(letter: str) -> FakeDetector:
        detector = FakeDetector(name=letter)
        if letter == "a":
            detector.patches = made_for_patches().patches
        else:
            detector.calibration = Calibration.fit(torch.arange(99.0))
        return detector

    shop.make = make
    async with serving(shop, bundle=shop.put("a", "a"), canary=shop.put("b", "b"), canary_weight=1.0) as (_, channel):
        options: list[dict[str, Any]] = [{}, {"look_for_patches": True}, {"false_positive_rate": 0.007}]
        found = [await version(channel, options=pb.Options(**each)) for each in options]
        kserve = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for rate in 0.05, 0.007:
            asked = pixels(1)
            asked.parameters["false_positive_rate"].double_param = rate
            found.append((await kserve.ModelInfer(asked)).model_version)
        assert [each[0] for each in found] == ["b", "a", "a", "b", "a"]
        with pytest.raises(grpc.aio.AioRpcError, match="smallest rate"):
            await version(channel, options=pb.Options(false_positive_rate=1e-6))
        with pytest.raises(grpc.aio.AioRpcError, match="not made to look for patches"):
            await version(channel, detector_version="b" * 16, options=pb.Options(look_for_patches=True))


async def test_the_shadow_judges_unseen_and_is_compared(shop: Shop):
    paths = {"bundle": shop.put("a", "a"), "shadow": shop.put("b", "b")}
    async with serving(shop, **paths) as (app, channel):
        assert await version(channel) == "a" * 16
        shadow = shop.made[1]()
        assert shadow is not None
        count = app.metrics._shadowed.labels("same")._value
        await settle(lambda: count.get() == 1)
        assert shadow.batches[-1] == [1]


async def test_a_shadow_that_fails_harms_no_answer(shop: Shop):
    paths = {"bundle": shop.put("a", "a"), "shadow": shop.put("b", "b")}
    async with serving(shop, **paths) as (app, channel):
        shadow = shop.made[1]()
        assert shadow is not None
        shadow.gate.clear()
        shadow.detect = lambda images: []  # type: ignore[method-assign, assignment, misc]
        assert await version(channel) == "a" * 16
        await settle(lambda: app.metrics._shadowed.labels("failed")._value.get() == 1)


async def test_what_cannot_be_loaded_at_the_start_ends_the_server(shop: Shop):
    with pytest.raises(BundleDamagedError):
        async with serving(shop, bundle=shop.put("a", "a"), shadow=shop.put("b", "!")):
            pass


async def test_without_the_setting_there_is_no_admin(shop: Shop):
    async with serving(shop, bundle=shop.put("a", "a"), admin=False) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reload(channel)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_reload_during_the_start_waits_for_it_and_loads_nothing_twice(shop: Shop):
    app = App(ServerConfig(port=0, metrics_port=None, threads=1, bundle=shop.put("a", "a")), shop.load)
    try:
        await app.listen()
        _, outcomes = await asyncio.gather(app.begin(), app.reloader.reload())
        assert [outcome.changed for outcome in outcomes] == [False]
        assert len(shop.made) == 1
    finally:
        await app.close()


async def test_a_bundle_out_of_reach_leaves_the_old_one(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    shop.put("v1", "a")
    async with serving(shop, bundle=shop.folder) as (_, channel):

        def closed(path: Path) -> list[Path]:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", closed)
        (outcome,) = await reload(channel)
        assert (outcome.changed, outcome.error) == (False, "[Errno 13] Permission denied")
        monkeypatch.undo()
        assert [(each.changed, each.error) for each in await reload(channel)] == [(False, "")]
        assert await version(channel) == "a" * 16


async def test_sighup_reloads(shop: Shop):
    async with serving(shop, bundle=shop.put("a", "a")) as (app, channel):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload_soon)
        try:
            shop.put("a", "b")
            os.kill(os.getpid(), signal.SIGHUP)
            while await version(channel) != "b" * 16:
                await asyncio.sleep(0.01)
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


def test_no_detector_yet_is_unavailable():
    with pytest.raises(Exception, match="starting"):
        ModelRegistry().choose("")
    assert ModelRegistry().get(Role.CURRENT) is None
