"""heatward beside other detectors of adversarial examples, in one run: the same classifier, images and attacks for all.

    pip install -c constraints.txt -e ".[bench]"
    heatward train attack --config configs/cifar10.toml                           # once: makes the attack shards
    python -m benchmarks.detection.detectors --config configs/cifar10.toml --threads 2 --json work/detectors.json
    python -m benchmarks.detection.detectors --config configs/cifar10.toml --limit 300 --lesson 1000  # quicker

What learns, learns from the fit split: clean images alone, or clean images and noise twins against the attacks that
changed the prediction, as heatward does. Thresholds come from clean calibration images. Positives are attacks of the
test split that changed a correct prediction, negatives its correctly classified clean images. Cost is from image to
answer for one batch, all of a detector's forward passes included. The best of each column is bold; the columns that
heatward does not win are listed at the end.

    Mahalanobis          Lee et al. 2018, section 2.1: pooled features of the deepest layer (pytorch-ood)
    feature squeezing    Xu et al. 2018, section V: 5 bits and a 2×2 median; no non-local means (ART's squeezers)
    CNN on the image     Gong et al. 2017 (ART's BinaryInputDetector)
    MLP on activations   Metzen et al. 2017, on pooled features of the deepest layer (ART's BinaryActivationDetector)
    second classifier    −log of its probability for the guarded one's prediction: the bundle's witness alone, or a
                         small one trained here on the guarded one's predictions
    logit margin         of the top two classes, no training
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.defences.detector.evasion import BinaryActivationDetector, BinaryInputDetector
from art.defences.preprocessor import FeatureSqueezing, SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from pytorch_ood.detector import Mahalanobis
from torch import Tensor, nn

from detector.bundle import EMBEDDED
from detector.classifier import Classifier
from detector.detector import Detector
from detector.errors import DataError, HeatwardError
from training.config import CLEAN, TrainingConfig
from training.data import open_splits
from training.evaluation.baselines import Answers, runner_up
from training.evaluation.metrics import Bootstrap, Estimate, flagged, threshold_at
from training.evaluation.scores import Scored, from_images
from training.job import Job
from training.load import load_config
from training.progress import SilentProgress, make_progress
from training.shards import list_shards, read_shard, seed_everything, write_json

RATE = 0.05  # false positives
EPOCHS, BATCH, LEARNING_RATE = 20, 128, 2e-3
TIMED_IMAGES, PASSES = 128, 4

Judge = Callable[[Tensor], Answers]  # of images (n, 3, H, W) in [0, 1] on the classifier's device


@dataclass(frozen=True)
class Lesson:
    """What a detector may learn from."""

    detector: Detector
    clean: Tensor  # (m, 3, H, W) uint8
    predictions: Tensor  # (m,) of the clean images
    images: Tensor  # (n, 3, H, W) uint8: clean, noise twins, successful attacks
    attacked: Tensor  # (n,) bool

    @property
    def classifier(self) -> Classifier:
        return self.detector.classifier


@dataclass(frozen=True)
class Column:
    table: str
    name: str
    form: str  # of a cell, e.g. ".1%"
    lower_is_better: bool
    cells: Mapping[str, Estimate]  # by detector

    def text(self, name: str) -> str:
        return self._format(self.cells[name].value)

    def with_interval(self, name: str) -> str:
        cell = self.cells[name]
        between = "" if math.isnan(cell.low) else f" [{self._format(cell.low)}, {self._format(cell.high)}]"
        return f"{name} {self.text(name)}{between}"

    def _format(self, value: float) -> str:
        return "–" if math.isnan(value) else format(value, self.form).replace("%", " %")

    @property
    def best(self) -> list[str]:
        """Detectors that nobody beats by a printed digit."""
        values = {name: cell.value for name, cell in self.cells.items() if not math.isnan(cell.value)}
        if not values:
            return []
        first = (min if self.lower_is_better else max)(values, key=values.__getitem__)
        return [name for name in values if self.text(name) == self.text(first)]


class Encoder(nn.Module):
    """Images (n, 3, H, W) to the classifier's deepest activations, averaged over space: (n, C)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier, self.layer = classifier, classifier.depths(1)[0]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.activations(images, [self.layer])[1][self.layer].mean((2, 3))


def heatward(lesson: Lesson) -> Judge:
    def judge(images: Tensor) -> Answers:
        verdicts = lesson.detector.detect(images)
        recovered = [[label for label, _ in verdict.recovered[:2]] for verdict in verdicts]
        return Answers(torch.tensor([verdict.attack_score for verdict in verdicts]), torch.tensor(recovered))

    return judge


def mahalanobis(lesson: Lesson) -> Judge:
    encoder = Encoder(lesson.classifier)
    features = [encoder(unit(part, lesson.classifier.device)) for part in torch.split(lesson.clean, BATCH)]
    _, labels = torch.unique(lesson.predictions, return_inverse=True)  # it wants labels without gaps
    return score_only(Mahalanobis(encoder).fit_features(torch.cat(features), labels).predict)


def feature_squeezing(lesson: Lesson) -> Judge:
    squeezers = (
        FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=5),
        SpatialSmoothing(window_size=2, channels_first=True),
    )

    def score(images: Tensor) -> Tensor:
        pixels = images.cpu().numpy()
        squeezed = [torch.from_numpy(squeezer(pixels)[0]).to(images) for squeezer in squeezers]
        plain, *others = (lesson.classifier(each).softmax(1) for each in (images, *squeezed))
        return torch.stack([(plain - other).abs().sum(1) for other in others]).amax(0)

    return score_only(score)


def image_cnn(lesson: Lesson) -> Judge:
    estimator = make_estimator(convnet(2), lesson.images.shape[1:], 2, lesson.classifier.device)
    return trained(BinaryInputDetector(estimator), lesson)


def activation_mlp(lesson: Lesson) -> Judge:
    device, shape = lesson.classifier.device, lesson.images.shape[1:]
    encoder = Encoder(lesson.classifier)
    width = encoder(unit(lesson.images[:1], device)).shape[1]
    mlp = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 2))
    observed = make_estimator(nn.Sequential(encoder), shape, lesson.classifier.num_classes, device)
    return trained(BinaryActivationDetector(observed, make_estimator(mlp, (width,), 2, device), layer=0), lesson)


def second_classifier(lesson: Lesson) -> Judge:
    second = lesson.detector.extractor.witness or small_classifier(lesson)

    def judge(images: Tensor) -> Answers:
        predicted = lesson.classifier(images).argmax(1, keepdim=True)
        log_probabilities = second(images).log_softmax(1)
        return Answers(-log_probabilities.gather(1, predicted)[:, 0], log_probabilities.topk(2).indices)

    return judge


def logit_margin(lesson: Lesson) -> Judge:
    return lambda images: runner_up(lesson.classifier(images))


DETECTORS: dict[str, Callable[[Lesson], Judge]] = {
    "heatward": heatward,
    "Mahalanobis": mahalanobis,
    "feature squeezing": feature_squeezing,
    "CNN on the image": image_cnn,
    "MLP on activations": activation_mlp,
    "second classifier": second_classifier,
    "logit margin": logit_margin,
}


def unit(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).float() / 255


def score_only(score: Callable[[Tensor], Tensor]) -> Judge:
    """A detector that recovers no label."""
    return lambda images: Answers(score(images), torch.full((len(images), 2), -1))


def convnet(outputs: int, width: int = 32) -> nn.Sequential:
    layers: list[nn.Module] = [nn.BatchNorm2d(3)]
    for before, after, stride in ((3, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, outputs))


def make_estimator(net: nn.Module, shape: Sequence[int], classes: int, device: torch.device) -> Any:
    parameters = list(net.parameters())
    return PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(parameters, LEARNING_RATE) if parameters else None,
        input_shape=tuple(shape),
        nb_classes=classes,
        device_type="gpu" if device.type == "cuda" else "cpu",
    )


def fit(learner: Any, estimator: Any, images: Tensor, labels: Tensor) -> None:
    """Train `estimator`, which `learner` (itself, or a detector around it) feeds."""
    learner.fit(
        unit(images, torch.device("cpu")).numpy(),
        np.eye(estimator.nb_classes, dtype=np.float32)[labels.numpy()],
        batch_size=BATCH,
        nb_epochs=EPOCHS,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(estimator.optimizer, EPOCHS),
        drop_last=len(images) > BATCH,  # batch statistics of one image are undefined
        verbose=True,
    )


def trained(detector: Any, lesson: Lesson) -> Judge:
    fit(detector, detector.detector, lesson.images, lesson.attacked.long())

    def score(images: Tensor) -> Tensor:
        logits = detector.detect(images.cpu().numpy())[0]["predictions"]  # (n, 2): clean, attacked
        return torch.from_numpy(logits[:, 1] - logits[:, 0])

    return score_only(score)


def small_classifier(lesson: Lesson) -> nn.Module:
    classes = lesson.classifier.num_classes
    estimator = make_estimator(convnet(classes), lesson.clean.shape[1:], classes, lesson.classifier.device)
    fit(estimator, estimator, torch.cat([lesson.clean, lesson.clean.flip(3)]), lesson.predictions.repeat(2))
    small: nn.Module = estimator.model.eval()
    return small


def read_lesson(config: TrainingConfig, detector: Detector, limit: int | None) -> Lesson:
    unharmed = (CLEAN, *config.twins.labels)
    images, attacked = [], []
    for label in config.labels("fit"):
        shards = [read_shard(path) for path in list_shards(config.work, "attack", "fit", label)]
        pixels, origin, prediction = (
            torch.cat([shard[key] for shard in shards]) for key in ("images", "origin", "prediction")
        )
        if label == CLEAN:
            clean, predictions = pixels[:limit], prediction[:limit]
        images.append((pixels if label in unharmed else pixels[prediction != origin])[:limit])
        attacked.append(torch.full((len(images[-1]),), label not in unharmed))
    return Lesson(detector, clean, predictions, torch.cat(images), torch.cat(attacked))


def learn(lesson: Lesson, seed: int) -> dict[str, Judge]:
    judges = {}
    for name, make in DETECTORS.items():
        print(f"prepare {name}", file=sys.stderr)
        seed_everything(seed)  # each by itself, so that none depends on those before it
        judges[name] = make(lesson)
    return judges


def score_all(
    config: TrainingConfig, judges: Mapping[str, Judge], device: torch.device, limit: int | None
) -> dict[str, dict[str, Scored]]:
    """Folder of the attack stage, e.g. "test/clean" → detector → its answers."""
    attacks = [attack.label for attack in config.attacks]
    folders = [("calibrate", CLEAN), *(("test", label) for label in (CLEAN, *config.twins.labels, *attacks))]
    shards = {folder: list_shards(config.work, "attack", *folder) for folder in folders}
    scored: dict[str, dict[str, Scored]] = {}
    with (
        make_progress() as progress,
        progress.task("score", len(judges) * sum(map(len, shards.values())), unit="shards") as advance,
    ):
        for (split, label), paths in shards.items():
            won = label in attacks
            most = None if label == CLEAN else limit
            said = {
                name: from_images(paths, on(device, judge), successes_only=won, limit=most, advance=advance)
                for name, judge in judges.items()
            }
            scored[f"{split}/{label}"] = {name: each[each.fair] if won else each for name, each in said.items()}
    return scored


def on(device: torch.device, judge: Judge) -> Judge:
    """The same judge for uint8 images on the CPU."""

    @torch.no_grad()
    def answer(images: Tensor) -> Answers:
        answers = judge(unit(images, device))
        return Answers(answers.score.cpu(), answers.recovered.cpu())

    return answer


def compare(config: TrainingConfig, scored: Mapping[str, Mapping[str, Scored]]) -> list[Column]:
    """Every quality, one column each."""
    clean = scored[f"test/{CLEAN}"]
    cuts = {name: threshold_at(answers.score, RATE) for name, answers in scored[f"calibrate/{CLEAN}"].items()}
    sources = [answers["heatward"].source for answers in scored.values()]
    bootstrap = Bootstrap(np.concatenate(sources), seed=config.seed)

    def auroc(name: str, attacked: Scored) -> Estimate:
        negative = clean[name][clean[name].correct]
        return bootstrap.auroc(attacked.score, attacked.source, negative.score, negative.source)

    def flagged_share(name: str, answers: Scored) -> Estimate:
        return bootstrap.rate(flagged(answers.score, cuts[name]), answers.source)

    def recovered(name: str, attacked: Scored) -> Estimate:
        offered = attacked[attacked.recovered[:, 0] >= 0]
        return bootstrap.rate(offered.recovered[:, 0] == offered.origin, offered.source)

    attacks = {attack.label: attack.label + ("" if attack.train else " (unseen)") for attack in config.attacks}
    unharmed = {label: label for label in (CLEAN, *config.twins.labels)}
    return [
        Column(
            table,
            title,
            form,
            labels is unharmed,
            {name: measure(name, answers) for name, answers in scored[f"test/{label}"].items()},
        )
        for table, form, measure, labels in (
            ("AUROC", ".3f", auroc, attacks),
            (f"TPR at {RATE:.0%} FPR", ".1%", flagged_share, attacks),
            ("Recovered label, top-1", ".1%", recovered, attacks),
            (f"FPR, set to {RATE:.0%}", ".1%", flagged_share, unharmed),
        )
        for label, title in labels.items()
    ]


def costs(judges: Mapping[str, Judge], classifier: Classifier, images: Tensor) -> list[Column]:
    """Milliseconds an image: the fastest of a few passes over one batch, taken in turns."""
    passes = [
        {"forward": seconds(classifier, images), **{name: seconds(judge, images) for name, judge in judges.items()}}
        for _ in range(PASSES)
    ]
    taken = {name: 1000 * min(each[name] for each in passes) / len(images) for name in passes[0]}
    forward = taken.pop("forward")
    units = (("ms/image", ".2f", 1.0), (f"times the forward pass ({forward:.2f} ms)", ".1f", forward))
    without = math.nan, math.nan  # no interval
    return [
        Column("Cost", title, form, True, {n: Estimate(ms / per, *without, len(images)) for n, ms in taken.items()})
        for title, form, per in units
    ]


@torch.no_grad()
def seconds(judge: Callable[[Tensor], object], images: Tensor) -> float:
    synchronize(images.device)
    start = time.perf_counter()
    judge(images)
    synchronize(images.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def markdown(columns: Sequence[Column]) -> str:
    """One table for each kind of column, a row a detector."""
    parts = []
    for table in dict.fromkeys(column.table for column in columns):
        chosen = [column for column in columns if column.table == table]
        rows = [[table, *(column.name for column in chosen)], ["---", *("--:" for _ in chosen)]]
        for name in DETECTORS:
            cells = [f"**{column.text(name)}**" if name in column.best else column.text(name) for column in chosen]
            if set(cells) != {"–"}:  # it offers no such thing
                rows.append([name, *cells])
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(parts)


def losses(columns: Sequence[Column]) -> list[str]:
    return [
        f"- {column.table}, {column.name}: {column.with_interval('heatward')}; "
        f"best: {', '.join(column.with_interval(name) for name in column.best)}"
        for column in columns
        if column.best and "heatward" not in column.best
    ]


def run(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config)
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.deterministic = True
    detector = Detector.from_bundle(arguments.bundle, device=arguments.device)
    splits, _ = open_splits(config.images, detector.classifier.classes, config.seed)
    try:
        Job(config, detector.classifier, splits, SilentProgress()).require("attack")
    except DataError as error:
        raise DataError(f"{error}; and give the --bundle that guards its classifier, not another's") from error

    lesson = read_lesson(config, detector, arguments.lesson)
    judges = learn(lesson, arguments.seed)
    device = detector.classifier.device
    timed = read_shard(list_shards(config.work, "attack", "test", CLEAN)[0])["images"][:TIMED_IMAGES]
    columns = [
        *compare(config, score_all(config, judges, device, arguments.limit)),
        *costs(judges, detector.classifier, unit(timed, device)),
    ]
    settings = {
        "bundle": arguments.bundle.name,
        "config": arguments.config.name,
        "second classifier": "the bundle's witness" if detector.extractor.witness else "trained here",
        "limit": arguments.limit,
        "lesson": arguments.lesson,
        "seed": arguments.seed,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in settings.items()))
    print(f"\n{markdown(columns)}\n")
    worse = losses(columns)
    print(f"heatward is not the best in {len(worse)} of {len(columns)} columns:")
    print("\n".join(worse))
    if arguments.json:
        described = [
            {
                "table": column.table,
                "column": column.name,
                "best": column.best,
                "detectors": {name: cell.as_dict() for name, cell in column.cells.items()},
            }
            for column in columns
        ]
        write_json(arguments.json, {"settings": settings, "columns": described, "not_best": worse})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of the training job whose attacks are read")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED, help="must guard the classifier of --config")
    parser.add_argument("--limit", type=int, help="score at most so many attacked images and noise twins of each label")
    parser.add_argument("--lesson", type=int, help="learn from at most so many images of each label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers, with 95 %% intervals, here")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except HeatwardError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
