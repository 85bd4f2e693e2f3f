"""The compose file and the monitoring files that it mounts."""

from __future__ import annotations

from pathlib import Path

import yaml

from server.config import ServerConfig

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]


def test_compose_mounts_files_that_exist_and_scrapes_the_server() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert len(files) == 5
    for mount in files:
        assert (COMPOSE.parent / mount.split(":")[0]).is_file(), mount
    scrape = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text(encoding="utf-8"))
    targets = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"heatward:{ServerConfig.model_fields['metrics_port'].default}"]
    assert scrape["scrape_configs"][0]["job_name"] == "heatward"  # alerts name it


def test_prometheus_finds_the_rules_beside_its_configuration() -> None:
    config = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text(encoding="utf-8"))
    inside = {mount.split(":")[1] for mount in SERVICES["prometheus"]["volumes"]}
    for name in config["rule_files"]:
        assert (ROOT / "deploy/monitoring" / name).is_file()
        assert f"/etc/heatward/{name}" in inside


def test_the_server_is_read_only_without_capabilities_and_reached_from_this_machine_alone() -> None:
    server = SERVICES["heatward"]
    assert server["read_only"] and server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    grace = float(server["stop_grace_period"].removesuffix("s"))
    assert grace > ServerConfig.model_fields["drain_grace_s"].default
    assert (COMPOSE.parent / server["build"]["context"] / "Dockerfile").is_file()
