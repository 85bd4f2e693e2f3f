"""The Helm chart: what it makes of several values files is valid, restricted, and starts our server as it should."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import helm
import objects
import pytest
import yaml

from server.config import ServerConfig
from training.config import TrainingConfig

VALUES = sorted((helm.CHART / "ci").glob("*-values.yaml"))
NAMES = [path.name.removesuffix("-values.yaml") for path in VALUES]
OF_THE_CHART = {"bundle", "host", "port", "metrics_port", "tls_certificate", "tls_key", "tls_client_ca", "token_file"}
OF_THE_CHART |= {"bundle_keys"}
"""Settings that follow from other values."""
METRICS = helm.ROOT / "docs" / "serving.md"


@pytest.fixture(scope="module", params=VALUES, ids=NAMES)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return helm.render("--values", request.param)


def of(name: str, *words: str) -> list[dict[str, Any]]:
    return helm.render("--values", helm.CHART / "ci" / f"{name}-values.yaml", *words)


def container(things: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = objects.only(things, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def settings(things: list[dict[str, Any]]) -> ServerConfig:
    """What the server reads: serve.toml; a setting that does not exist or fit is an error."""
    config = next(each for each in things if each["kind"] == "ConfigMap" and "serve.toml" in each["data"])
    return ServerConfig(**tomllib.loads(config["data"]["serve.toml"]))


@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_lint_finds_nothing(values: Path) -> None:
    done = helm.lint("--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", objects.VERSIONS)
def test_every_object_is_valid_in_this_version_of_kubernetes(rendered: list[dict[str, Any]], version: str) -> None:
    for thing in rendered:
        objects.validate(thing, version)


def test_every_pod_is_restricted(rendered: list[dict[str, Any]]) -> None:
    pods = dict(objects.pods(rendered))
    assert "vision-heatward" in pods
    for pod in pods.values():
        objects.check_restricted(pod)
        assert pod["automountServiceAccountToken"] is ("serviceAccountName" in pod)


def test_names_of_objects_are_their_own(rendered: list[dict[str, Any]]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered]
    assert len(set(names)) == len(names)


def test_the_server_accepts_its_settings(rendered: list[dict[str, Any]]) -> None:
    config = settings(rendered)
    pod = objects.only(rendered, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > config.drain_grace_s + 5


def test_services_select_the_servers_pods_and_no_others(rendered: list[dict[str, Any]]) -> None:
    labels = objects.only(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    service = objects.only(rendered, "Service")["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= labels.items()
    for job in (each for each in rendered if each["kind"] == "CronJob"):
        others = job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
        assert not service["selector"].items() <= others.items()
    ports = {port["name"]: port["containerPort"] for port in container(rendered)["ports"]}
    fields = ServerConfig.model_fields
    assert ports == {"grpc": fields["port"].default, "metrics": fields["metrics_port"].default}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports


def test_without_values_two_pods_are_probed_by_grpc_and_drained() -> None:
    things = of("default")
    kinds = sorted(each["kind"] for each in things)
    assert kinds == ["ConfigMap", "Deployment", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Service"]
    server = container(things)
    assert objects.only(things, "Deployment")["spec"]["replicas"] == 2
    assert server["command"][:2] == ["heatward", "serve"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["grpc"] == {"port": 50051}
    assert server["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}
    keys = {each["topologyKey"] for each in _pod(things)["topologySpreadConstraints"]}
    assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def _pod(things: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = objects.only(things, "Deployment")["spec"]["template"]["spec"]
    return found


def test_with_tls_heatward_itself_probes_as_the_settings_ask() -> None:
    things = of("production")
    config = settings(things)
    assert str(config.tls_client_ca) == "/etc/heatward/tls/ca.crt"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = container(things)[probe]["exec"]["command"]
        assert command[:2] == ["heatward", "health"]
        assert "--tls-server-name=vision-heatward.shop.svc" in command
        assert f"--tls-certificate={config.tls_certificate}" in command
    mounts = {mount["mountPath"] for mount in container(things)["volumeMounts"]}
    assert {str(config.token_file and config.token_file.parent), "/etc/heatward/tls", "/bundles"} <= mounts


def test_a_changed_setting_makes_new_pods() -> None:
    def annotation(*words: str) -> str:
        template = objects.only(of("default", *words), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["heatward/settings"])

    assert annotation() == annotation()
    assert annotation() != annotation("--set", "settings.max_batch=16")


def test_a_bundle_is_fetched_before_the_server_starts() -> None:
    pod = _pod(of("object-store"))
    (fetch,) = pod["initContainers"]
    assert {"name": "bundles", "mountPath": "/bundles"} in fetch["volumeMounts"]
    assert {"name": "bundles", "mountPath": "/bundles", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert str(settings(of("object-store")).bundle).startswith("/bundles/")


def test_the_nightly_job_has_a_configuration_that_training_accepts_and_never_runs_twice() -> None:
    things = of("production")
    job = objects.only(things, "CronJob")["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    (trainer,) = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert trainer["image"].endswith("-train")
    assert trainer["args"][:3] == ["retrain", "--champion", str(settings(things).bundle)]
    assert {"name": "bundles", "mountPath": "/bundles"} in trainer["volumeMounts"]
    text = objects.only(things, "ConfigMap", "-retrain")["data"]["config.toml"]
    TrainingConfig.model_validate(tomllib.loads(text))


def test_who_signs_and_who_verifies_have_their_own_half_of_the_key() -> None:
    things = of("production")
    (keys,) = settings(things).bundle_keys or ()
    server, pod = container(things), _pod(things)
    assert {"name": "keys", "mountPath": str(keys.parent), "readOnly": True} in server["volumeMounts"]
    assert {"name": "keys", "configMap": {"name": "heatward-keys"}} in pod["volumes"]
    job = objects.only(things, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (trainer,) = job["containers"]
    (variable,) = trainer["env"]
    assert variable["name"] == f"{TrainingConfig.model_config['env_prefix']}SIGN_KEY"
    place = str(Path(variable["value"]).parent)
    assert {"name": "sign", "mountPath": place, "readOnly": True} in trainer["volumeMounts"]
    (secret,) = [each["secret"] for each in job["volumes"] if each["name"] == "sign"]
    assert secret == {"secretName": "heatward-sign", "defaultMode": 0o440}
    assert "heatward-sign" not in str(pod)  # a server that is broken into signs nothing
    assert settings(of("default")).bundle_keys is None and "keys" not in str(_pod(of("default"))["volumes"])


def test_autoscaling_follows_metrics_that_exist() -> None:
    adapter = yaml.safe_load((helm.ROOT / "deploy/monitoring/prometheus-adapter.yml").read_text())
    (rule,) = adapter["rules"]["custom"]
    metric = objects.only(of("production"), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    assert metric["metric"]["name"] == rule["name"]["as"]
    assert metric["target"]["averageValue"] == "100m"
    trigger = objects.only(of("object-store"), "ScaledObject")["spec"]["triggers"][0]["metadata"]
    described = METRICS.read_text()
    for query in (rule["metricsQuery"], trigger["query"]):
        names = set(re.findall(r"\bheatward_\w+", query))
        assert names
        for name in names:
            assert f"`{re.sub('_(sum|count)$', '', name)}`" in described
    for things in (of("production"), of("object-store")):
        assert "replicas" not in objects.only(things, "Deployment")["spec"]  # the autoscaler's to say


def test_alerts_are_those_of_the_monitoring_folder_and_find_their_job() -> None:
    things = of("production")
    alerts = yaml.safe_load((helm.ROOT / "deploy/monitoring/alerts.yml").read_text())
    assert objects.only(things, "PrometheusRule")["spec"] == alerts
    monitor = objects.only(things, "ServiceMonitor")["spec"]
    assert objects.only(things, "Service")["metadata"]["labels"][monitor["jobLabel"]] == "heatward"


def test_who_may_call_and_whom_the_server_may_call() -> None:
    policy = objects.only(of("default"), "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "heatward"
    test = objects.only(of("default"), "Pod")["metadata"]["labels"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {}}, {"podSelector": {"matchLabels": test}}]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53]
    ports = [
        port["port"]
        for rule in objects.only(of("guard-gpu"), "NetworkPolicy")["spec"]["egress"]
        for port in rule["ports"]
    ]
    assert ports == [53, 53, 8001, 4317]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--set=replica=3", "replica"),
        ("--set=settings.max_bach=16", "max_bach"),
        ("--set=settings.port=6000", "port"),
        ("--set=tls.certificate=x", "certificate"),
        ("--set=replicas=0", "replicas"),
        ("--set=autoscaling.kind=cpu", "kind"),
        ("--set=bundle.claim=Capital", "claim"),
        ("--set=bundle.keys=Capital", "keys"),
        ("--set=bundle.claim=a,bundle.fetch.image=b", "bundle"),
        ("--set=bundle.fetch.args={a}", "fetch"),
        ("--set=retrain.schedule=nightly", "schedule"),
        ("--set=retrain.enabled=true", "retrain.claim"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(words: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        of("default", words)


def test_the_schema_knows_every_setting_and_every_default() -> None:
    schema = yaml.safe_load((helm.CHART / "values.schema.json").read_text())
    known = schema["properties"]["settings"]["propertyNames"]["enum"]
    assert set(known) == set(ServerConfig.model_fields) - OF_THE_CHART, "deploy/helm/heatward/values.schema.json"
    values = yaml.safe_load((helm.CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


def test_the_chart_is_of_the_packages_version() -> None:
    project = tomllib.loads((helm.ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((helm.CHART / "Chart.yaml").read_text())["appVersion"] == project["version"]
