"""Kubernetes objects → what is wrong with them, by the API's own schemas and by small ones for custom resources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

VERSIONS = ("1.31.0", "1.34.0", "1.37.0")
"""Of the API: the oldest, one between, and the newest."""

TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def shape(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": required | (optional or {}),
    }


SELECTOR = shape({"matchLabels": TEXTS})
RULE = shape(
    {"alert": TEXT, "expr": TEXT, "labels": shape({"severity": TEXT}), "annotations": shape({"summary": TEXT})},
    {"for": {"type": "string", "pattern": r"^\d+[smh]$"}},
)
CUSTOM: dict[tuple[str, str], dict[str, Any]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): shape(
        {
            "jobLabel": TEXT,
            "selector": SELECTOR,
            "endpoints": {"type": "array", "minItems": 1, "items": shape({"port": TEXT, "interval": TEXT})},
        }
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): shape(
        {"groups": {"type": "array", "items": shape({"name": TEXT, "rules": {"type": "array", "items": RULE}})}}
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): shape(
        {
            "scaleTargetRef": shape({"name": TEXT}),
            "minReplicaCount": {"type": "integer"},
            "maxReplicaCount": {"type": "integer"},
            "advanced": shape({"horizontalPodAutoscalerConfig": shape({"behavior": {"type": "object"}})}),
            "triggers": {
                "type": "array",
                "items": shape(
                    {
                        "type": {"const": "prometheus"},
                        "metricType": {"enum": ["Value", "AverageValue"]},
                        "metadata": shape({"serverAddress": TEXT, "query": TEXT, "threshold": TEXT}),
                    }
                ),
            },
        }
    ),
}
"""`spec` of each custom resource that we write, with the fields that we use, by its definition's own words."""


def validate(thing: dict[str, Any], version: str) -> None:
    """Raises where the object is none of its kind, in this version of the API."""
    custom = CUSTOM.get((thing["apiVersion"], thing["kind"]))
    if custom:
        jsonschema.validate(thing["spec"], custom)
    else:
        kubernetes_validate.validate(thing, version, strict=True)


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The spec of every pod that these objects make, with the name of its owner."""
    for thing in objects:
        spec = thing.get("spec", {})
        if thing["kind"] == "Pod":
            yield thing["metadata"]["name"], spec
        if thing["kind"] == "Deployment":
            yield thing["metadata"]["name"], spec["template"]["spec"]
        if thing["kind"] == "CronJob":
            yield thing["metadata"]["name"], spec["jobTemplate"]["spec"]["template"]["spec"]


def check_restricted(pod: dict[str, Any]) -> None:
    """The Pod Security Standard `restricted`, and a read-only root file system."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert not any("hostPath" in volume for volume in pod.get("volumes", []))
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container["name"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted <= {volume["name"] for volume in pod.get("volumes", [])}, container["name"]


def only(objects: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    if len(found) != 1:
        pytest.fail(f"{len(found)} objects of kind {kind} …{ending}")
    return found[0]
