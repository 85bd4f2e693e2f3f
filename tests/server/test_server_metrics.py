"""The metrics, and that whatever is written about them (dashboard, alerts, docs) names those that exist."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import threading
import tomllib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from heatward.v1 import detection_pb2 as pb
from prometheus_client import CollectorRegistry
from sample_requests import encoded, picture, raw
from served_models import inference_request, inference_result, served_model

from server.config import ServerConfig
from server.errors import QueueFullError, RequestError
from server.inference.context import RequestContext
from server.observers.background import REASONS
from server.observers.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "monitoring"
DOCS = ROOT / "docs" / "serving.md"


def count(metrics: Metrics, *p_values: float, version: str = "v1") -> None:
    request, result = inference_request(), inference_result(version=version)
    for p_value in p_values:
        verdict = dataclasses.replace(result.verdict, p_value=p_value)
        metrics.finished(request, dataclasses.replace(result, verdict=verdict))


def test_what_a_cascade_cleared_is_counted_apart() -> None:
    metrics, result = Metrics(), inference_result()
    for cleared in (True, True, True, False):
        verdict = dataclasses.replace(result.verdict, cleared=cleared)
        metrics.finished(inference_request(), dataclasses.replace(result, verdict=verdict))
    seen = values(metrics.registry)
    assert (seen["heatward_looks_total[look=glance]"], seen["heatward_looks_total[look=full]"]) == (3, 1)
    assert seen["heatward_images_total[verdict=clean]"] + seen["heatward_images_total[verdict=attacked]"] == 4


def values(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample, by its name and labels as Prometheus writes them."""
    return {
        sample.name + "".join(f"[{key}={value}]" for key, value in sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def series() -> dict[str, set[str]]:
    """Each metric, and the names by which a query can use it."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        metric.name: {metric.name + suffix for suffix in suffixes.get(metric.type, ("",))}
        for metric in Metrics().registry.collect()
    }


def shown() -> set[str]:
    """The names that a query can use."""
    return set().union(*series().values())


def used(expressions: Iterator[str]) -> set[str]:
    return {name for text in expressions for name in re.findall(r"\b(?:heatward|process)_\w+", text)}


def strings(tree: Any, *keys: str) -> Iterator[str]:
    """Every string under one of these keys, however deep."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in keys and isinstance(value, str):
                yield value
            yield from strings(value, *keys)
    elif isinstance(tree, list):
        for item in tree:
            yield from strings(item, *keys)


# ---- what is counted ------------------------------------------------------------------------------------------------


def test_p_values_fill_a_histogram_whose_edges_are_the_usual_rates():
    metrics = Metrics()
    count(metrics, 0.01, 0.011, 0.05, 1.0, version="")
    seen = values(metrics.registry)
    assert [seen[f"heatward_p_value_bucket[le={edge}]"] for edge in (0.005, 0.01, 0.02, 0.05, 0.9, 1.0)] == [
        0, 1, 2, 3, 3, 4,
    ]  # fmt: skip
    assert (seen["heatward_images_total[verdict=attacked]"], seen["heatward_images_total[verdict=clean]"]) == (1, 3)
    assert seen["heatward_flagged_share[rate=0.01]"] == pytest.approx(0.25)
    assert seen["heatward_flagged_share[rate=0.05]"] == pytest.approx(0.75)


def test_a_patched_image_is_neither_clean_nor_attacked_and_an_attacked_one_is_counted_once():
    metrics, result = Metrics(), inference_result()
    for p_value, patch in ((0.5, 0.01), (0.001, 0.001), (0.001, 0.5), (0.5, 0.5), (0.5, None)):
        verdict = dataclasses.replace(result.verdict, p_value=p_value, patch=patch)
        metrics.finished(inference_request(), dataclasses.replace(result, verdict=verdict))
    seen = values(metrics.registry)
    for name in ("images_total", "version_images_total"):
        version = "[version=v1]" if name == "version_images_total" else ""
        counted = {word: seen[f"heatward_{name}[verdict={word}]{version}"] for word in ("attacked", "patched", "clean")}
        assert counted == {"attacked": 2, "patched": 1, "clean": 2}


def test_unusual_p_values_raise_the_drift_alarm_and_a_new_detector_begins_anew():
    metrics = Metrics()
    metrics.serves(served_model(calibration_size=1999))
    count(metrics, *[0.001] * 100)
    assert values(metrics.registry)["heatward_drift_log10_e_value"] > 2
    metrics.serves(served_model(version="v2", calibration_size=1999))
    seen = values(metrics.registry)
    assert seen["heatward_drift_log10_e_value"] < 0
    assert seen["heatward_flagged_share[rate=0.01]"] == 0
    assert [name for name in seen if name.startswith("heatward_detector_info") and "v1" in name] == []


def test_drift_is_of_the_current_detector_and_verdicts_are_counted_by_version():
    metrics = Metrics()
    metrics.serves(served_model(calibration_size=1999))
    count(metrics, *[0.001] * 100, version="canary")
    count(metrics, 0.5)
    seen = values(metrics.registry)
    assert seen["heatward_drift_log10_e_value"] < 0
    assert seen["heatward_version_images_total[verdict=attacked][version=canary]"] == 100
    assert seen["heatward_version_images_total[verdict=clean][version=v1]"] == 1


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (QueueFullError("full", retry_after_s=1), "queue_full", "RESOURCE_EXHAUSTED"),
        (RequestError("image", "required"), "request", "INVALID_ARGUMENT"),
        (asyncio.CancelledError(), "cancelled", "CANCELLED"),
        (KeyError("whatever a client sent"), "defect", "INTERNAL"),
    ],
)
def test_a_failed_image_has_a_reason_of_few(error: BaseException, reason: str, code: str):
    metrics = Metrics()
    metrics.failed(RequestContext("id", None, 1.0), error, 0.1)
    seen = values(metrics.registry)
    assert seen[f"heatward_images_failed_total[reason={reason}]"] == 1
    assert seen[f"heatward_images_total[verdict={code}]"] == 1


WRITERS = "records", "events", "quarantine"


def test_what_alerts_look_for_is_there_before_it_happens():
    """`increase` sees nothing where a series begins at 1."""
    seen = values(Metrics().registry)
    reloaded = "detector", "certificates", "tokens", "signature"
    found = [f"reloads_total[outcome=failed][what={what}]" for what in reloaded]
    found += [f"images_total[verdict={verdict}]" for verdict in ("attacked", "patched")]
    found += [f"{name}_dropped_total[reason={reason}]" for name in WRITERS for reason in REASONS]
    for name in found:
        assert seen[f"heatward_{name}"] == 0


def test_names_follow_the_conventions():
    for metric in Metrics().registry.collect():
        assert re.fullmatch(r"(heatward|process)_[a-z0-9_]+", metric.name)
        assert metric.documentation
        assert not re.search(r"_(ms|millis|milliseconds|mb|percent)$", metric.name), (
            "base units: seconds, bytes, ratios"
        )


async def test_a_clients_words_never_become_a_label(serving):
    async with serving() as served:
        for word in ("Detect", "../../etc", "x" * 1000):
            context = SimpleNamespace(
                time_remaining=lambda: None, invocation_metadata=tuple, peer=lambda: "ipv4:127.0.0.1:1"
            )
            async with served.app.rpcs.begin(word, context):
                pass
        seen = values(served.app.metrics.registry)
    assert seen["heatward_requests_total[code=OK][method=Detect]"] == 1
    assert seen["heatward_requests_total[code=OK][method=other]"] == 2


async def test_a_server_counts_its_verdicts_and_knows_its_calibration(serving):
    async with serving() as served:
        requests = [raw(picture(label)) for label in (1, 100, 255)]
        await served.stub.DetectBatch(pb.DetectBatchRequest(requests=[*requests, encoded(b"broken")]))
        seen = values(served.app.metrics.registry)
    assert seen["heatward_p_value_count"] == 3
    assert seen["heatward_flagged_share[rate=0.01]"] == pytest.approx(1 / 3)
    assert seen["heatward_images_failed_total[reason=request]"] == 1
    assert served.app.metrics.drift.calibration_size == 199
    assert seen["process_resident_memory_bytes"] > 0


@pytest.mark.parametrize("images", [1, 63, 64, 65, 200])
def test_whoever_looks_sees_every_image_counted(images: int):
    metrics = Metrics()
    metrics.serves(served_model(version="new"))
    count(metrics, *[0.5] * images, version="new")
    asked = metrics.registry.restricted_registry(["heatward_images_total"])
    assert next(s.value for m in asked.collect() for s in m.samples if s.labels == {"verdict": "clean"}) == images
    seen = values(metrics.registry)
    assert seen["heatward_p_value_count"] == seen["heatward_queue_duration_seconds_count"] == images
    assert seen["heatward_version_images_total[verdict=clean][version=new]"] == images


def test_images_are_counted_once_while_others_look():
    metrics = Metrics()
    metrics.serves(served_model(version="new"))
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            values(metrics.registry)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for each in lookers:
        each.start()
    count(metrics, *[0.5] * 20_000, version="new")
    done.set()
    for each in lookers:
        each.join()
    assert values(metrics.registry)["heatward_images_total[verdict=clean]"] == 20_000


# ---- what is written about it ---------------------------------------------------------------------------------------


def test_the_dashboard_shows_only_metrics_that_exist():
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    names = used(strings(dashboard, "expr", "definition", "query"))
    assert len(names) > 15
    assert names <= shown()
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic", "Latency", "Batching", "Verdicts", "Events and queries", "Guard and shadow", "Operations",
    ]  # fmt: skip
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in dashboard["panels"]]
    assert len(places) == len(set(places))
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in dashboard["panels"]) == 24  # Grafana's width
    assert all(
        not overlap(one, other) for one, other in combinations([each["gridPos"] for each in dashboard["panels"]], 2)
    )


def test_the_dashboard_shows_every_metric_of_ours():
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    names = used(strings(dashboard, "expr"))
    unseen = [name for name, its in series().items() if name.startswith("heatward_") and not its & names]
    assert not unseen


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two places of the grid share a cell."""
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in ("xw", "yh")
    )


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_ask_only_for_metrics_that_exist_and_say_what_to_do():
    names = used(rule["expr"] for rule in alerts())
    assert names <= shown()
    text = DOCS.read_text(encoding="utf-8")
    for rule in alerts():
        assert f"### {rule['alert']}\n" in text, f"docs/serving.md says nothing about {rule['alert']}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
    described = set(re.findall(r"^### (Heatward\w+)$", text, re.M))
    assert described == {rule["alert"] for rule in alerts()}


def test_every_metric_is_described_and_none_that_is_gone():
    text = DOCS.read_text(encoding="utf-8")
    described = {name for name in re.findall(r"^\| `(heatward_\w+)", text, re.M)}
    exist = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in Metrics().registry.collect()
        if metric.name.startswith("heatward_")
    }
    assert described == exist


def as_toml(default: object) -> str:
    if isinstance(default, tuple):
        return json.dumps(list(default))
    return "" if default is None else json.dumps(default)


def test_every_setting_is_described_with_its_default_and_none_that_is_gone():
    rows = re.findall(r"^\| `([a-z][a-z0-9_]*)` \| (.*?) \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.M)
    described = {name: default.strip("` ") for name, default, _ in rows if not name.startswith("heatward_")}
    assert set(described) == set(ServerConfig.model_fields)
    for name, field in ServerConfig.model_fields.items():
        if name not in ("threads", "decode_workers"):  # they follow the machine
            assert described[name] == as_toml(field.default), f"docs/serving.md: default of {name}"


def test_the_example_settings_are_valid():
    for block in re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S):
        ServerConfig(**tomllib.loads(block))
