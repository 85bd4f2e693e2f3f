"""Environment variables ─▶ **those that Kubernetes made of a Service**, which are nobody's settings.

A Service called `heatward-serve` puts HEATWARD_SERVE_SERVICE_HOST, HEATWARD_SERVE_PORT=tcp://10.0.0.7:50051 and others
into every pod of its namespace ("enableServiceLinks",
https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables); `docker --link` made the like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["service_variables"]

ADDRESS = re.compile(r"[0-9A-Fa-f:.]*[:.][0-9A-Fa-f:.]+|[A-Za-z0-9.-]+\.[A-Za-z]+")
URL = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
NUMBER = re.compile(r"\d{1,5}")
# What follows the Service's name, and what its value looks like.
PROOF = (("_SERVICE_HOST", ADDRESS), ("_PORT", URL), (r"_PORT_\d+_(TCP|UDP|SCTP)", URL))
"""Any of them says that there is a Service of that name."""
OTHERS = (
    (r"_SERVICE_PORT(_[A-Z0-9_]+)?", NUMBER),
    (r"_PORT_\d+_(TCP|UDP|SCTP)_ADDR", ADDRESS),
    (r"_PORT_\d+_(TCP|UDP|SCTP)_PORT", NUMBER),
    (r"_PORT_\d+_(TCP|UDP|SCTP)_PROTO", re.compile("tcp|udp|sctp")),
    (r"(_PORT_\d+_(TCP|UDP|SCTP)|_PORT)_(START|END)", URL),  # of `docker --link`, as those below
    ("_NAME", re.compile(r"/\S+/\S+")),
    (r"_ENV_\w+", re.compile(".*", re.DOTALL)),
)


def service_variables(environment: Mapping[str, str], prefix: str) -> frozenset[str]:
    """Names of the variables that Services made, out of those that begin with the prefix.

    Args:
        environment: All variables.
        prefix: Of the settings, HEATWARD_SERVE_. It may end in the middle of a Service's name, or just behind it.
    """
    ours = {name: value for name, value in environment.items() if name.startswith(prefix)}
    services = {service for name, value in ours.items() for service in _services(name, value, PROOF)}
    return frozenset(
        name
        for name, value in ours.items()
        if any(service in services for service in _services(name, value, PROOF + OTHERS))
    )


def _services(name: str, value: str, shapes: tuple[tuple[str, re.Pattern[str]], ...]) -> list[str]:
    """The Services that may have made this variable: a Service's own name may hold what looks like an ending."""
    found = (
        re.fullmatch(rf"({some}){ending}", name)
        for ending, looks in shapes
        if looks.fullmatch(value)
        for some in (".+?", ".+")
    )
    return [match[1] for match in found if match]
