"""The second-look stage: images of the split `tune` in, `second_look/second_look.safetensors` out.

    tune images ─▶ twins and attacks ─▶ first look ─▶ undecided ones ─▶ features from learned masks ─▶ regression
    clean calibrate images ─▶ undecided ones ─▶ the same features ─▶ their second scores

The networks never saw these images, so their scores are as honest as in production. Features are kept a label a file;
a killed run goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from detector.detector import Detector
from detector.errors import DataError
from detector.scoring.calibration import Calibration
from detector.second_look import FIRST_RANK, SecondLook, last_rank, mask_features, rivals_of, shaped
from training.attacks import attack_images, noise_twin
from training.config import CLEAN
from training.job import Job
from training.shards import derived_seed, digest, digest_of, list_shards, read_shard, shard_path, write_shard
from training.stages.attack import predict

__all__ = ["features_of", "first_look", "load", "run", "undecided"]

BATCH = 64
DECAY = 0.03  # L2 penalty on standardised weights


def run(job: Job, detector: Detector, fit_digest: str) -> None:
    """Fit and calibrate the second look unless that is done.

    Args:
        job: The job.
        detector: The first look: networks and calibration.
        fit_digest: Of the networks.

    Raises:
        DataError: The tune images give no undecided clean image, or no undecided attack.
    """
    images = job.splits["tune"]
    path = job.work / "second_look" / "second_look.safetensors"
    attacks = {attack.label: attack for attack in job.config.attacks_of("fit")}
    labels = (CLEAN, *job.config.twins.labels, *attacks)
    base = [fit_digest, images.digest(0, len(images)), job.digests("attribute", "calibrate"), job.config.seed]
    made_from = digest([base, [attack.model_dump(mode="json") for attack in attacks.values()], labels])
    if digest_of(path) == made_from:
        return
    clean = images.read(0, len(images), job.classifier.prepare, skip_unreadable=job.config.images.skip_unreadable)
    origin = predict(job.classifier, clean.pixels, job.config.batch_size)
    seen: dict[str, Tensor] = {}
    with job.progress.task("second look", total=len(labels) * len(clean.pixels), unit="images") as advance:
        for label in labels:
            attack = attacks.get(label)
            place = shard_path(job.work, "second_look", "tune", label, 0)
            label_from = digest([base, attack.model_dump(mode="json") if attack else label])
            if digest_of(place) != label_from:
                seed = derived_seed(job.config.seed, "second look", label)
                changed = clean.pixels
                if attack is not None:
                    changed = attack_images(
                        attack, job.classifier, changed, origin, seed=seed, batch_size=job.config.batch_size
                    )
                elif label != CLEAN:
                    changed = noise_twin(changed, job.config.twins.labels[label], seed)
                counts = torch.ones_like(origin, dtype=torch.bool)
                if attack is not None:
                    counts = (origin == clean.truth) | (clean.truth < 0)
                found = _shard(detector, changed, origin, counts, attacked=attack is not None)
                write_shard(place, found, label_from)
            seen[label] = read_shard(place)["features"]
            advance(len(clean.pixels))
    for kind, wanted in (("clean image", [CLEAN]), ("successful attack", list(attacks))):
        if not sum(len(seen[label]) for label in wanted):
            raise DataError(
                f"second look: no {kind} of the {len(images)} tune images is undecided: raise images.splits.tune, or "
                "set it to 0 for a detector without a second look"
            )
    look = _fit(seen, list(attacks))
    write_shard(path, _calibrated(job, detector, look).tensors(), made_from)


def first_look(detector: Detector, pixels: Tensor) -> dict[str, Tensor]:
    """What `detect` says of uint8 images (n, 3, H, W): label, attack_score, p_value (n,) and recovered (n, t)."""
    verdicts = [v for batch in torch.split(pixels, BATCH) if len(batch) for v in detector.detect(batch.float() / 255)]
    return {
        "label": torch.tensor([verdict.label for verdict in verdicts]),
        "attack_score": torch.tensor([verdict.attack_score for verdict in verdicts], dtype=torch.float64),
        "p_value": torch.tensor([verdict.p_value for verdict in verdicts], dtype=torch.float64),
        "recovered": torch.tensor([[label for label, _ in verdict.recovered] for verdict in verdicts]),
    }


def undecided(detector: Detector, p_values: Tensor) -> Tensor:
    """(n,) bool: which p-values lie in the band of a second look."""
    total = len(detector.calibration.scores)
    rank = (p_values * (total + 1)).round()
    return (rank >= FIRST_RANK) & (rank <= last_rank(total))


def _shard(detector: Detector, pixels: Tensor, origin: Tensor, counts: Tensor, *, attacked: bool) -> dict[str, Tensor]:
    """Features (m, F) of the undecided among images that count, and which they are (m,).

    Args:
        detector: The first look.
        pixels: (n, 3, H, W) uint8.
        origin: (n,) predictions before the attack.
        counts: (n,) bool.
        attacked: Only images whose prediction has changed count.
    """
    first = first_look(detector, pixels)
    chosen = counts & undecided(detector, first["p_value"])
    if attacked:
        chosen &= first["label"] != origin
    rows = chosen.nonzero().flatten()
    return {"features": features_of(detector, pixels, first, rows), "rows": rows}


def load(job: Job) -> SecondLook | None:
    """The second look that the stage made; None where `images.splits.tune` is 0.

    Raises:
        DataError: The stage has not run.
    """
    if not len(job.splits["tune"]):
        return None
    return SecondLook.from_tensors(read_shard(job.work / "second_look" / "second_look.safetensors"))


def _fit(seen: dict[str, Tensor], attacks: list[str]) -> SecondLook:
    """Logistic regression in which attacks together weigh as much as clean images and twins together."""
    present = {label: features for label, features in seen.items() if len(features)}
    features = shaped(torch.cat(list(present.values())))
    truth = torch.cat([torch.full((len(f),), float(label in attacks)) for label, f in present.items()]).double()
    weight = torch.where(truth > 0, 0.5 / truth.sum(), 0.5 / (1 - truth).sum())
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    scaled = (features - mean) / scale
    parameters = torch.zeros(scaled.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = scaled @ parameters[:-1] + parameters[-1]
        value = functional.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum")
        value = value + DECAY * parameters[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    found = parameters.detach()
    return SecondLook(mean.float(), scale.float(), found[:-1].clone(), found[-1:].clone(), torch.zeros(0), 0)


def _calibrated(job: Job, detector: Detector, look: SecondLook) -> SecondLook:
    """The same regression with the second scores of the clean calibration images of ranks 2 … R - 1."""
    shards = [read_shard(path) for path in list_shards(job.work, "attack", "calibrate", CLEAN)]
    pixels = torch.cat([shard["images"] for shard in shards])
    first = first_look(detector, pixels)
    calibration = Calibration.fit(first["attack_score"])
    total = len(calibration.scores)
    ranked = first["attack_score"].argsort(descending=True)  # most suspect first: rank 1
    rows = ranked[FIRST_RANK - 1 : last_rank(total) - 1]
    features = features_of(detector, pixels, first, rows)
    scores = look.score(features).sort().values if len(features) else torch.zeros(0, dtype=torch.float64)
    return SecondLook(look.mean, look.scale, look.weights, look.bias, scores, total)


def features_of(detector: Detector, pixels: Tensor, first: dict[str, Tensor], rows: Tensor) -> Tensor:
    """Features (m, F) of the images `rows` (m,) among uint8 images (n, 3, H, W) and their first look."""
    parts = [
        mask_features(
            detector.classifier,
            detector.extractor.witness,
            (pixels[some].float() / 255).to(detector.classifier.device),
            first["label"][some],
            rivals_of(first["label"][some], first["recovered"][some]),
            first["attack_score"][some],
        )
        for some in torch.split(rows, BATCH)
        if len(some)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, 0)
