"""The environment of the process → **what in it looks like ours and is not**: passed over, and named in the log.

Variables that Kubernetes made of a Service; and `PROMETHEUS_MULTIPROC_DIR`, which has prometheus_client keep its
numbers in files for several processes to share. This server is one process, and the folder may be another's, or gone.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from importlib import metadata

from detector.errors import ConfigError
from detector.service_variables import service_variables
from server.config import PREFIX

__all__ = ["MULTIPROCESS", "pass_over", "release", "unusable"]

MULTIPROCESS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def pass_over(environment: MutableMapping[str, str]) -> list[str]:
    """Takes prometheus_client's variables out, before it is imported, and names all that are passed over."""
    taken = [name for name in MULTIPROCESS if environment.pop(name, None) is not None]
    return taken + sorted(service_variables(environment, PREFIX))


def unusable(error: OSError) -> ConfigError:
    """Why the metrics cannot be made, where `pass_over` came too late."""
    names = [name for name in MULTIPROCESS if name in os.environ]
    if not names:
        return ConfigError(f"the metrics cannot be kept: {error.strerror}")
    return ConfigError(
        f"{names[0]} = '{os.environ[names[0]]}' is no folder that can be written ({error.strerror}): unset it, for this"
        " server is one process"
    )


def release() -> str:
    """The heatward release that runs; "unknown" in a checkout that is not installed."""
    try:
        return metadata.version("heatward")
    except metadata.PackageNotFoundError:
        return "unknown"
