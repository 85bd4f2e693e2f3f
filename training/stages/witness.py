"""The witness stage: fit images and the classifier's answers in, `witness/witness.safetensors` out.

It has something to do where the classifier shows no gradients or no layers and the configuration gives no witness.
"""

from __future__ import annotations

from dataclasses import dataclass

from detector.errors import DataError
from training.checks import check_images
from training.config import Stage
from training.distilled import FILE
from training.fitting.distillation import agreement, distil
from training.job import Job
from training.shards import digest_of, write_shard

__all__ = ["INPUTS", "outputs", "run"]

INPUTS: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Made:
    """The witness of a job that makes its own; finished at once in a job that does not."""

    job: Job

    @property
    def finished(self) -> bool:
        """Whether there is nothing to make."""
        return not self.job.distils or digest_of(self.job.work / FILE) == self.job.witness_digest

    def require(self) -> None:
        """Check that it is finished.

        Raises:
            DataError: It is not, or was made with other settings.
        """
        if not self.finished:
            raise DataError(
                "stage 'witness' is not finished with these settings: run `heatward train witness` with the same "
                "configuration"
            )


def outputs(job: Job) -> Made:
    """The witness."""
    return Made(job)


def run(job: Job) -> None:
    """Train the witness, unless that is done or one is given.

    Raises:
        DataError: An image cannot be read.
        CalibrationError: Too few calibration images to flag anything.
        ClassifierError: The classifier does not answer.
    """
    if outputs(job).finished:
        return
    check_images(job)
    config = job.config
    path = job.work / FILE
    if path.exists():
        job.progress.note("witness: classifier, images or settings changed; made again")
    weights = distil(
        job.classifier,
        job.splits["fit"],
        config.distillation,
        job.progress,
        seed=config.seed,
        batch_size=config.batch_size,
        skip_unreadable=config.images.skip_unreadable,
    )
    job.classifier.ask_again()  # a witness that learnt from two models is none
    write_shard(path, weights, job.witness_digest)
    if job.witness is not None:
        same = agreement(job.classifier, job.witness, job.splits["calibrate"])
        job.progress.note(f"witness: says the same as the classifier about {same:.1%} of images it did not learn from")
