"""The KServe example: its pod is valid, and its environment makes a server in guard mode of the model beside it."""

from __future__ import annotations

import helm
import objects
import pytest
import yaml

from server.config import PREFIX
from server.load import load_config

EXAMPLE = yaml.safe_load((helm.ROOT / "deploy/kserve/inferenceservice.yaml").read_text())
OF_KSERVE = {"minReplicas", "maxReplicas"}
"""Of a component, beside the fields of a pod."""


@pytest.mark.parametrize("version", objects.VERSIONS)
def test_the_transformer_is_a_restricted_pod(version: str) -> None:
    spec = {key: value for key, value in EXAMPLE["spec"]["transformer"].items() if key not in OF_KSERVE}
    objects.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, version)
    objects.check_restricted(spec)


def test_its_settings_guard_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    (transformer,) = EXAMPLE["spec"]["transformer"]["containers"]
    for variable in transformer["env"]:
        assert variable["name"].startswith(PREFIX)
        monkeypatch.setenv(variable["name"], variable["value"])
    config = load_config([])
    predictor = EXAMPLE["spec"]["predictor"]["model"]
    name = EXAMPLE["metadata"]["name"]
    assert config.upstream == f"{name}-predictor.default.svc:80"  # the port of KServe's Services
    assert config.upstream_model == name
    assert predictor["protocolVersion"] == "grpc-v2"
    assert transformer["ports"][0]["containerPort"] == config.port


def test_what_kserve_appends_does_not_reach_the_server() -> None:
    (transformer,) = EXAMPLE["spec"]["transformer"]["containers"]
    assert transformer["command"][:2] == ["sh", "-c"]
    assert "$" not in transformer["command"][2]
