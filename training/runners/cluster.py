"""The Ray runner: shard plans in, shards out, made by workers on a Ray cluster and written by this process.

    plan, and what its shard is made from ─▶ an actor that holds the classifier ─▶ the shard's bytes ─▶ work folder

A worker gets settings and weights when it opens, and touches neither images nor work folder; docs/adr/0020-ray.md says
why. Ray starts a worker that died anew and repeats what it was doing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from detector.classifier import Classifier
from detector.errors import ClusterError, ConfigError, HeatwardError
from detector.files import write_file
from training.runners.plans import ShardMade, ShardPlan
from training.runners.worker import Worker
from training.shards import from_bytes, to_bytes

__all__ = ["Actor", "RayRunner", "opening"]

AHEAD = 2
"""Shards a worker is given at once: one to make, and one that arrives meanwhile."""
RETRIES = 3
"""Workers that may die of one shard before the job gives up."""


class RayRunner:
    """Has workers on a cluster, from the first shard of a stage to the last.

    Args:
        worker: This process's own: it knows the job, reads images and shards.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, worker: Worker) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"engine: 'ray' needs the extra `scale`, pip install 'heatward[scale]' ({error}); or take 'local'"
            ) from error
        self.ray: Any = ray
        self.worker = worker
        self.actors: list[Any] = []
        self.opened: Any = None
        """What workers open with, held for those that Ray starts anew."""

    def run(self, plans: Iterable[ShardPlan]) -> Iterator[ShardMade]:
        """Make every shard; in the order in which they are finished.

        Raises:
            HeatwardError: As a worker raised it.
            ClusterError: The cluster cannot be reached, has no room, or was lost.
        """
        with self._losses_said():
            yield from self._run(iter(plans))

    def close(self) -> None:
        """End the workers; the cluster, if this job started it, ends with the process."""
        actors, self.actors = self.actors, []
        if self.ray.is_initialized():  # else the cluster is lost, and asking it would connect to another
            for actor in actors:
                self.ray.kill(actor)

    def _run(self, plans: Iterator[ShardPlan]) -> Iterator[ShardMade]:
        self.actors = self.actors or self._start()
        # Call → who was called, and the plan and unreadable images; a worker's first calls ask whether it is open.
        calls: dict[Any, tuple[Any, tuple[ShardPlan, tuple[str, ...]] | None]] = {
            actor.open.remote(): (actor, None) for _ in range(AHEAD) for actor in self.actors
        }
        while calls:
            done, _ = self.ray.wait(list(calls))
            actor, asked = calls.pop(done[0])
            answer = self.ray.get(done[0])
            if (plan := next(plans, None)) is not None:
                source, skipped = self.worker.read(plan)
                calls[actor.make.remote(plan, to_bytes(source))] = (actor, (plan, skipped))
            if asked:
                made, skipped = asked
                write_file(made.path, answer)
                yield ShardMade.of(made, from_bytes(answer), skipped)

    def _start(self) -> list[Any]:
        """Connect, unless that is done, and start workers."""
        ray, config = self.ray, self.worker.config
        if not ray.is_initialized():
            try:
                ray.init(config.ray.address, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                place = config.ray.address or "RAY_ADDRESS or this machine"
                raise ClusterError(
                    f"ray.address: no Ray cluster answers at {place} ({_line(error)}); expected ray://HOST:10001 or "
                    "HOST:6379 of a running one with this version of Ray and Python, or local"
                ) from error
        found = ray.cluster_resources()
        gpus = config.ray.gpus
        if gpus is None:
            gpus = 1.0 if found.get("GPU") and config.device != "cpu" else 0.0
        cpus = config.threads or 1
        room = int(min(found.get("CPU", 0) // cpus, found.get("GPU", 0) // gpus if gpus else float("inf")))
        if not room and config.ray.workers is None:
            raise ClusterError(
                f"ray: the cluster has room for no worker of {cpus} CPUs and {gpus:g} GPUs; it has "
                f"{found.get('CPU', 0):g} and {found.get('GPU', 0):g}: set threads, ray.gpus or ray.workers"
            )
        kind = ray.remote(Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)
        self.opened = ray.put(opening(self.worker, {"threads": cpus, "device": "cuda" if gpus else "cpu"}))
        return [kind.remote(self.opened) for _ in range(config.ray.workers or room)]

    @contextmanager
    def _losses_said(self) -> Iterator[None]:
        """Ray's errors as ours."""
        try:
            yield
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HeatwardError):
                raise error.cause from None
            raise
        except (self.ray.exceptions.RayError, ConnectionError) as error:
            raise ClusterError(
                f"ray: the head was lost, or {RETRIES + 1} workers in a row ({_line(error)}); finished shards are "
                "kept: look at the head and at the workers' memory, then give the same command again"
            ) from error


class Actor:
    """A worker on the cluster, opened at its first call, so that what goes wrong is told as itself."""

    def __init__(self, opened: dict[str, Any]) -> None:
        self.opened = opened

    @cached_property
    def worker(self) -> Worker:
        weights = [None if data is None else from_bytes(data) for data in self.opened["weights"]]
        worker = Worker.open(self.opened["settings"], self.opened["classes"], (weights[0], weights[1]))
        found = _fingerprints(worker)
        if found != self.opened["fingerprints"]:
            raise ClusterError(
                f"ray: a worker built other classifiers (fingerprints {found}) than the job has "
                f"({self.opened['fingerprints']}): give the workers the same code and files"
            )
        return worker

    def open(self) -> None:
        """Raise what keeps the worker from opening."""
        _ = self.worker

    def make(self, plan: ShardPlan, source: bytes) -> bytes:
        """A shard's bytes, from those that `Worker.read` read."""
        return to_bytes(self.worker.compute(plan, from_bytes(source)), plan.digest)


def opening(worker: Worker, changes: dict[str, Any]) -> dict[str, Any]:
    """What a worker needs to open, wherever it is."""
    settings = worker.config.model_dump(mode="json") | changes
    for table, classifier in (("classifier", worker.classifier), ("witness", worker.witness)):
        if classifier is not None:  # all is known by now: no file of labels and no folder is read again
            settings[table] = (settings[table] or {}) | classifier.spec.model_dump(mode="json") | {"labels": None}
    return {
        "settings": settings,
        "classes": worker.classifier.classes,
        "weights": [_weights(worker.classifier), _weights(worker.witness)],
        "fingerprints": _fingerprints(worker),
    }


def _weights(classifier: Classifier | None) -> bytes | None:
    return to_bytes(classifier.state_dict()) if classifier is not None and classifier.embeddable else None


def _fingerprints(worker: Worker) -> list[str]:
    return [each.fingerprint for each in (worker.classifier, worker.witness) if each is not None]


def _line(error: Exception) -> str:
    """The first line of what it says."""
    return str(error).partition("\n")[0]
