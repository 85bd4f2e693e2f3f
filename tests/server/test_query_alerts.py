"""A client whose images look like an attack's queries is named in a warning, and nobody else is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heatward.v1 import detection_pb2 as pb
from sample_requests import raw
from served_models import inference_request, inference_result

from server.access import tokens
from server.config import ServerConfig
from server.observers import queries
from server.observers.metrics import Metrics
from server.observers.queries import Queries, QueryAlert, open_queries

RNG = np.random.default_rng


def probes(count: int, seed: int = 0) -> list[np.ndarray]:
    """One picture, and noise on it."""
    rng = RNG(seed)
    image = rng.integers(40, 200, (8, 8, 3))
    image[0, 0] = 50  # the fake's label
    return [(image + rng.integers(0, 4, image.shape) * (image != 50)).astype(np.uint8) for _ in range(count)]


def watching(**settings: Any) -> tuple[Queries, list[QueryAlert], Metrics]:
    alerts: list[QueryAlert] = []
    metrics = Metrics()
    found = open_queries(ServerConfig(query_alerts=True, **settings), metrics, [alerts.append])
    assert found is not None
    return found, alerts, metrics


def send(observer: Queries, images: list[np.ndarray], client: str = "mallory") -> None:
    for number, image in enumerate(images):
        request = inference_request(image=image, client=client, request_id=f"{client}-{number}")
        observer.finished(request, inference_result(0.001 if number == 0 else 0.5))
    observer.flush()


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"heatward_{name}", labels) or 0.0


def test_an_alert_names_the_client_and_comes_once_a_window(caplog: pytest.LogCaptureFixture):
    observer, alerts, metrics = watching(query_window=100)
    with caplog.at_level(logging.WARNING, "heatward.queries"):
        send(observer, probes(90))
    (alert,) = alerts
    assert (alert.client, alert.model, alert.attacked) == ("mallory", "fake v1", 1)
    assert alert.suspicious == 30 and alert.request_id == f"mallory-{alert.images - 1}"
    (line,) = caplog.records
    assert line.__dict__["client"] == "mallory" and line.__dict__["suspicious"] == 30
    assert value(metrics, "query_alerts_total") == 1
    assert value(metrics, "query_similarity_count") == 90
    assert value(metrics, "query_similarity_bucket", le="0.99") == alert.images - 1
    send(observer, probes(100, 1))
    assert len(alerts) == 2
    send(observer, probes(110, 2))
    assert [each.attacked for each in alerts] == [1, 1, 1], "of the window, not of all time"
    observer.close()


def test_clients_are_compared_apart():
    observer, alerts, _ = watching()
    for number, image in enumerate(probes(100)):
        send(observer, [image], f"client-{number % 5}")
    assert not alerts
    observer.close()


def test_who_has_not_called_for_longest_is_forgotten():
    observer, alerts, _ = watching(query_clients=2)
    images = probes(60)
    send(observer, images[:30], "mallory")
    send(observer, images[:1], "alice")
    send(observer, images[30:32], "mallory")  # alice is now the oldest
    send(observer, images[:1], "bob")
    send(observer, images[32:], "mallory")
    assert [alert.client for alert in alerts] == ["mallory"]
    send(observer, images[:30], "alice")
    send(observer, images[:1], "bob")
    send(observer, images[:1], "carol")
    send(observer, images[30:], "alice")
    assert len(alerts) == 1
    observer.close()


def test_exempt_clients_are_not_compared():
    observer, alerts, metrics = watching(query_exempt=("camera",))
    send(observer, probes(90), "camera")
    assert not alerts and value(metrics, "query_similarity_count") == 0
    observer.close()


@pytest.mark.parametrize("limit", [{"MOST": 10}, {"MOST_BYTES": 10 * 8 * 8 * 3}])
def test_where_too_much_waits_images_are_passed_over_and_counted(
    monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
):
    for name, most in limit.items():
        monkeypatch.setattr(queries, name, most)
    observer, _, metrics = watching()
    with observer._writing:  # whatever the thread does
        observer.flush = lambda: None  # type: ignore[method-assign]
        for image in probes(25):
            observer.finished(inference_request(image=image, client="a"), inference_result())
        waiting = len(observer._queue)
    assert waiting <= 10 and value(metrics, "query_dropped_total") >= 5
    observer.close()


def test_an_image_that_cannot_be_compared_is_logged_and_the_others_are(caplog: pytest.LogCaptureFixture):
    observer, alerts, metrics = watching()
    send(observer, [np.zeros((0, 0, 3), np.uint8), *probes(60)])
    observer.close()
    assert len(alerts) == 1 and "cannot be compared" in caplog.text
    assert value(metrics, "query_dropped_total") == 1 and value(metrics, "query_similarity_count") == 60


async def test_it_is_off_unless_asked_for(serving):
    async with serving() as served:
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[raw(image) for image in probes(60)]))
        assert not served.app._writers
        assert value(served.app.metrics, "query_alerts_total") == 0


async def test_over_the_wire_the_token_is_named(serving, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    names = tmp_path / "tokens"
    names.write_text("mallory 0123456789abcdef\nalice fedcba9876543210\n")
    assert tokens.TOKEN.fullmatch("0123456789abcdef")
    async with serving(query_alerts=True, token_file=names) as served:
        for token, images in (("fedcba9876543210", probes(10, 1)), ("0123456789abcdef", probes(60))):
            call = pb.DetectBatchRequest(requests=[raw(image) for image in images])
            await served.stub.DetectBatch(call, metadata=[("authorization", f"Bearer {token}")])
        metrics = served.app.metrics
    assert value(metrics, "query_alerts_total") == 1
    assert [line.__dict__["client"] for line in caplog.records if line.name == "heatward.queries"] == ["mallory"]
