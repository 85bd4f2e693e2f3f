"""A fit that begins with the champion's networks: a job and the champion in, the job with its start out.

What the champion learnt from must stay in the fit split, or the challenger would be tested on what it knows: only where
images grow, each has its split for life. What the champion's networks have no place for, such as a new family, needs
all epochs: then they begin anew.
"""

from __future__ import annotations

from dataclasses import replace

from detector.bundle import Bundle
from detector.errors import ConfigError
from detector.evidence import Evidence
from detector.scoring.network import EvidenceShape, NetworkSettings, ScoreSettings
from training.config import CLEAN, TrainingConfig
from training.job import Job
from training.shards import list_shards, read_shard

__all__ = ["begin_with", "check_warm", "shape_of"]


def check_warm(config: TrainingConfig, epochs: int | None) -> None:
    """Say that no fit may begin with the champion's networks.

    Raises:
        ConfigError: Its images may be tested on.
    """
    if epochs is not None and not config.images.grows:
        raise ConfigError(
            "--warm-epochs: networks that begin with the champion's know what it learnt from: set images.grows = true, "
            "so that an image keeps its split and none of these is tested on, or leave --warm-epochs out"
        )


def begin_with(job: Job, champion: Bundle, epochs: int) -> Job:
    """The job, whose networks begin with the champion's where they are of the same make; its evidence is there.

    Args:
        job: A job whose attribute stage has run.
        champion: What they begin with.
        epochs: How often they then go through all images.
    """
    known, evidence = champion.manifest, job.config.evidence
    make = {
        "families": (job.config.families, known.families),
        "sizes of networks": (
            _sizes(job.config.fit.network()),
            _sizes(NetworkSettings.model_validate(known.network["settings"])),
        ),
        "evidence": (evidence, type(evidence).model_validate(known.evidence)),
        "layers": (shape_of(job), EvidenceShape.model_validate(known.network["shape"])),
        "witness": (job.witness.fingerprint if job.witness else "", known.witness_fingerprint),
    }
    if differing := [name for name, (own, its) in make.items() if own != its]:
        job.progress.note(f"fit: the champion has other {' and '.join(differing)}, so the networks begin anew")
        return job
    return replace(job, start=champion, start_epochs=epochs)


def _sizes(settings: NetworkSettings) -> NetworkSettings:
    """What weights depend on: how a score is made of the answers is no part of the fit."""
    return settings.model_copy(update={"score": ScoreSettings()})


def shape_of(job: Job) -> EvidenceShape:
    """Of the evidence that the job made."""
    return EvidenceShape.of(Evidence.from_tensors(read_shard(list_shards(job.work, "attribute", "fit", CLEAN)[0])))
