"""A job that has ended → **a run on an MLflow tracking server**: parameters, metrics, report, bundle, and its champion.

The server is what MLflow's own variables say (MLFLOW_TRACKING_URI and its like). It gets a copy: where it is down or
refuses, that is said and counted, and the job ends as it would have without it.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.remote import SECRETS
from training.progress import Progress

__all__ = ["ALIAS", "DIGEST", "Run", "Sent", "check_mlflow", "point_alias", "send"]

ALIAS, DIGEST = "champion", "heatward.digest"
"""Alias of the version that serves, and the tag of each version that tells which bundle it is."""
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""MLflow's own would wait for minutes for a server that is down, report its use elsewhere, and log what it does."""
PARAMETERS_AT_ONCE, METRICS_AT_ONCE, LONGEST = 100, 1000, 6000
STRANGE = re.compile(r"[^\w\-./ :]")


@dataclass(frozen=True)
class Run:
    """What is to say of a job."""

    command: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Nested; URLs lose what may be a secret."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Nested; what is no number is left out, and items of lists go by their `label`."""
    files: tuple[Path, ...] = ()
    bundle: Path | None = None
    digest: str = ""
    """Of the bundle."""
    champion: bool = False
    """Whether the bundle serves from now on: it becomes a version of the registered model, with the alias."""


@dataclass
class Sent:
    """What became of it."""

    experiment: str
    run_id: str | None = None
    version: str | None = None
    """Of the registered model."""
    failed: int = 0
    """Things that the server did not take."""

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def check_mlflow(name: str | None) -> None:
    """Say that nothing can be logged, before hours are spent.

    Raises:
        ConfigError: MLflow is not installed.
    """
    if name is not None and importlib.util.find_spec("mlflow") is None:
        raise ConfigError("--mlflow: mlflow is not installed: pip install 'heatward[mlflow]', or leave the flag out")


def send(name: str, run: Run, progress: Progress) -> Sent:
    """Log a run into the experiment `name`; a champion into the registered model of that name, too.

    Raises nothing that a server could cause.
    """
    sent = Sent(name)
    attempt = _Attempts(sent, progress)
    client = attempt("anything", _client)
    sent.run_id = run_id = attempt("run", lambda: _begin(client, name, run.command)) if client else None
    if run_id is None:
        return sent
    for what, entries in _batches(run):
        attempt(what, lambda entries=entries: client.log_batch(run_id, **entries))  # type: ignore[misc]
    for file in run.files:
        attempt(file.name, lambda file=file: client.log_artifact(run_id, str(file), "report"))  # type: ignore[misc]
    if run.bundle is not None:
        kept = attempt("bundle", lambda: client.log_artifact(run_id, str(run.bundle), "bundle") or True)
        if kept and run.champion:
            sent.version = attempt("champion", lambda: _register(client, name, run, run_id))
    attempt("end of the run", lambda: client.set_terminated(run_id, "FAILED" if sent.failed else "FINISHED"))
    return sent


def point_alias(name: str, digest: str, progress: Progress) -> Sent:
    """Have the alias name the version that is this bundle: after a rollback."""
    sent = Sent(name)

    def move() -> str:
        client = _client()
        for version in client.search_model_versions(f"name='{name}'"):
            if version.tags.get(DIGEST) == digest:
                client.set_registered_model_alias(name, ALIAS, version.version)
                return str(version.version)
        raise LookupError(f"no version of {name} has the tag {DIGEST} = {digest}")

    sent.version = _Attempts(sent, progress)("champion", move)
    return sent


class _Attempts:
    """Does one thing after another; what fails is said and counted."""

    def __init__(self, sent: Sent, progress: Progress) -> None:
        self.sent, self.progress = sent, progress

    def __call__(self, what: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # of the server, of its store or of MLflow: the job has ended and stays as it is
            self.sent.failed += 1
            said = SECRETS.sub("", f"{type(error).__name__}: {error}").partition("\n")[0][:300]
            self.progress.note(f"warning: mlflow: {what}: not logged ({said})")
            return None


def _client() -> Any:
    for variable, value in DEFAULTS.items():
        os.environ.setdefault(variable, value)
    from mlflow import MlflowClient

    return MlflowClient()


def _begin(client: Any, name: str, command: str) -> str:
    found = client.get_experiment_by_name(name)
    experiment = client.create_experiment(name) if found is None else found.experiment_id
    return str(client.create_run(experiment, run_name=f"heatward {command}").info.run_id)


def _register(client: Any, name: str, run: Run, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/bundle"
    version = client.create_model_version(name, source, run_id, tags={DIGEST: run.digest}).version
    client.set_registered_model_alias(name, ALIAS, version)
    return str(version)


def _batches(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    told = [Param(key, value[:LONGEST]) for key, value in _texts(run.parameters)]
    for start in range(0, len(told), PARAMETERS_AT_ONCE):
        yield "parameters", {"params": told[start : start + PARAMETERS_AT_ONCE]}
    counted = [Metric(key, value, now, 0) for key, value in _numbers(run.metrics)]
    for start in range(0, len(counted), METRICS_AT_ONCE):
        yield "metrics", {"metrics": counted[start : start + METRICS_AT_ONCE]}


def _texts(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in _leaves(settings, "."):
        if value is not None:
            text = str(value)
            yield key, SECRETS.sub("", text) if "://" in text else text


def _numbers(measured: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in _leaves(measured, "/"):
        if isinstance(value, int | float) and math.isfinite(value):
            yield key, float(value)


def _leaves(value: Any, joint: str, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, joint, f"{key}{joint}{name}" if key else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        named = {each.get("label", at) if isinstance(each, Mapping) else at: each for at, each in enumerate(value)}
        yield from _leaves(named, joint, key)
    else:
        yield STRANGE.sub("_", key), value
