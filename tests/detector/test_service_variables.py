"""Variables that Kubernetes made of a Service are told from settings, by their shape and by their value."""

from __future__ import annotations

import pytest

from detector.service_variables import service_variables

PREFIX = "HEATWARD_SERVE_"


def service(name: str, host: str = "10.0.0.7", *ports: str) -> dict[str, str]:
    """What a Service puts into the pods of its namespace."""
    inside = f"[{host}]" if ":" in host else host
    made = {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": "50051",
        f"{name}_PORT": f"tcp://{inside}:50051",
        f"{name}_PORT_50051_TCP": f"tcp://{inside}:50051",
        f"{name}_PORT_50051_TCP_PROTO": "tcp",
        f"{name}_PORT_50051_TCP_PORT": "50051",
        f"{name}_PORT_50051_TCP_ADDR": host,
    }
    return made | {f"{name}_SERVICE_PORT_{port}": "50051" for port in ports}


@pytest.mark.parametrize(
    "made",
    [
        service("HEATWARD_SERVE"),
        service("HEATWARD_SERVE", "fd00::7"),
        service("HEATWARD_SERVE", "10.0.0.7", "GRPC", "METRICS", "GRPC_WEB"),
        service("HEATWARD_SERVE_GRPC"),
        service("HEATWARD_SERVE_METRICS"),  # its HEATWARD_SERVE_METRICS_PORT is a setting's name
        service("HEATWARD_SERVE_SERVICE", "10.0.0.7", "GRPC"),
        service("HEATWARD_SERVE_X_SERVICE_PORT", "10.0.0.7", "GRPC"),  # a name that holds what looks like an ending
        service("HEATWARD_SERVE_PORT_80_TCP", "10.0.0.7", "PORT"),
        service("HEATWARD_SERVE") | service("HEATWARD_SERVE_CANARY", "10.0.0.8"),
        {"HEATWARD_SERVE_PORT": "tcp://172.17.0.2:50051"},  # docker --link
        {"HEATWARD_SERVE_PORT_53_UDP": "udp://10.0.0.7:53", "HEATWARD_SERVE_PORT_53_UDP_PROTO": "udp"},
        service("HEATWARD_SERVE")
        | {
            "HEATWARD_SERVE_NAME": "/app/heatward_serve",
            "HEATWARD_SERVE_ENV_LANG": "C",
            "HEATWARD_SERVE_PORT_50051_TCP_START": "tcp://10.0.0.7:50051",
        },
    ],
)
def test_all_that_a_service_made_is_found(made: dict[str, str]) -> None:
    assert service_variables(made | {"HEATWARD_SERVE_MAX_BATCH": "8", "PATH": "/bin"}, PREFIX) == made.keys()


def test_settings_stay_settings_beside_a_service() -> None:
    settings = {
        "HEATWARD_SERVE_PORT": "50052",
        "HEATWARD_SERVE_METRICS_PORT": "9091",
        "HEATWARD_SERVE_HOST": "0.0.0.0",
        "HEATWARD_SERVE_UPSTREAM": "10.0.0.9:8001",
        "HEATWARD_SERVE_SERVICE_NAME": "x",
        "HEATWARD_SERVE_MAX_BTACH": "3",
    }
    assert not service_variables(service("HEATWARD_SERVE") | settings, PREFIX) & settings.keys()


@pytest.mark.parametrize(
    "alone",
    [
        {"HEATWARD_SERVE_SERVICE_PORT": "50051"},
        {"HEATWARD_SERVE_SERVICE_HOST": "yes"},
        {"HEATWARD_SERVE_PORT_50051_TCP_PROTO": "tcp"},
        {"HEATWARD_SERVE_PORT": "tcp"},
        {"HEATWARD_SERVE_NAME": "/app/heatward_serve", "HEATWARD_SERVE_ENV_LANG": "C"},
    ],
)
def test_a_variable_that_belongs_to_no_service_is_none(alone: dict[str, str]) -> None:
    assert not service_variables(alone, PREFIX)


def test_services_of_the_jobs_are_known_by_their_prefix() -> None:
    made = service("HEATWARD") | service("HEATWARD_TRAIN")
    assert service_variables(made | {"HEATWARD_SEED": "3"}, "HEATWARD_") == made.keys()
