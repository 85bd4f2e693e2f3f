"""A worker: settings in, once; then shard plans in, shards on disk out. It holds the classifier and its witness.

    images ──▶ clean shard ──▶ shard of attacked, noise-twin or corrupted images ──▶ shard of evidence

What the shards hold: training/stages/attack.py and attribute.py. One shard of images is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from detector.classifier import Classifier, load_classifier
from detector.errors import DataError
from detector.evidence import Evidence, EvidenceExtractor
from training.attacks import Distance, attack_images, noise_twin
from training.attacks.corruptions import corrupt
from training.attacks.deliver import deliver, deliver_each
from training.attacks.native import NATIVE, attack_native, pack, prepared, unpack
from training.attacks.through import foreseeing
from training.attacks.transfer import stand_in, target_of
from training.config import AttackSpec, Split, TrainingConfig
from training.data.collected import open_collected
from training.data.sources import Item, Source, open_named
from training.data.splits import read_items
from training.devices import device_named
from training.runners.plans import ShardMade, ShardPlan
from training.shards import read_columns, read_shard, write_shard

__all__ = ["Weights", "Worker", "device_of", "load_classifiers", "predict", "prepare_torch"]

COLUMNS = ("index", "truth", "origin", "prediction", "linf", "l2")
FULL_PRECISION = ("logits",)
Weights = tuple[dict[str, Tensor] | None, dict[str, Tensor] | None]
HALF_MAX = torch.finfo(torch.float16).max


class Worker:
    """Makes shards, each from its plan and its sources alone.

    Args:
        config: The job's.
        classifier: What is attacked and looked at.
        witness: The second classifier, if there is one.
        sources: Name → source of images that is open already; others are opened when a plan asks for them.
    """

    def __init__(
        self,
        config: TrainingConfig,
        classifier: Classifier,
        witness: Classifier | None,
        sources: Mapping[str, Source] | None = None,
    ) -> None:
        self.config, self.classifier, self.witness = config, classifier, witness
        self.sources = dict(sources or {})

    @classmethod
    def open(cls, settings: Mapping[str, Any], classes: tuple[str, ...], weights: Weights = (None, None)) -> Self:
        """Open a worker in a process of its own.

        Args:
            settings: `TrainingConfig.model_dump(mode="json")` of the job.
            classes: Class names in the order of the logits.
            weights: Of classifier and witness, where their files do not lie here.
        """
        config = TrainingConfig(**settings)
        prepare_torch(config)
        return cls(config, *load_classifiers(config, classes, weights))

    @cached_property
    def extractor(self) -> EvidenceExtractor:
        """What looks at images.

        Raises:
            NoGradientError: The classifier has no gradients or no layers to look at.
        """
        return EvidenceExtractor(self.classifier, self.config.evidence, self.witness)

    @cached_property
    def _made_on(self) -> Classifier | None:
        """What attacks are made on that need gradients, where the classifier has none."""
        if self.classifier.differentiable or self.witness is None:
            return None
        return stand_in(self.classifier, self.witness)

    def make(self, plan: ShardPlan) -> ShardMade:
        """Write one shard, whole or not at all.

        Raises:
            DataError: An image cannot be read, an attack broke its epsilon, or evidence is not finite.
            ConfigError: An attack fails.
        """
        source, skipped = self.read(plan)
        tensors = self.compute(plan, source)
        write_shard(plan.path, tensors, plan.digest)
        return ShardMade.of(plan, tensors, skipped)

    def target(self, attack: AttackSpec) -> Classifier:
        """What an attack is made on: the classifier or what stands in for it, behind what the attack foresees."""
        return foreseeing(target_of(attack, self.classifier, self._made_on), self.config.foreseen(attack))

    def read(self, plan: ShardPlan) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """What a shard is made from, and the names of images that could not be read.

        Raises:
            DataError: An image or a shard cannot be read.
        """
        if not isinstance(plan.made_from, tuple):
            return read_shard(plan.made_from) | self._natives(plan), ()
        skip = self.config.images.skip_unreadable and plan.originals is None
        images = read_items(plan.made_from, self._source, self.classifier.prepare, skip_unreadable=skip)
        found = {"images": images.pixels, "index": images.index, "truth": images.truth}
        if plan.originals is not None:
            pairs = zip(plan.made_from, plan.originals, strict=True)
            clean = read_items([one or other for other, one in pairs], self._source, self.classifier.prepare)
            found |= {"clean": clean.pixels, "known": torch.tensor([each is not None for each in plan.originals])}
        return found, images.skipped

    def _natives(self, plan: ShardPlan) -> dict[str, Tensor]:
        """The photographs of the rows that are made, at their own size; nothing where they are not needed."""
        if not plan.natives or isinstance(plan.made_from, tuple):
            return {}
        items = {item.index: item for item in plan.natives}
        rows = read_columns(plan.made_from, ("index",))["index"][: plan.rows].tolist()
        found = [self._source(items[row]).pixels(items[row].position) for row in rows]
        return pack([torch.tensor(np.ascontiguousarray(each)).permute(2, 0, 1) for each in found])

    def compute(self, plan: ShardPlan, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a shard, from what `read` read: touches no file.

        Raises:
            DataError: An attack broke its epsilon, or evidence is not finite.
            ConfigError: An attack fails.
        """
        if plan.originals is not None:
            return self._collected(source)
        if isinstance(plan.made_from, tuple):
            return self._clean(source)
        return self._from_clean(plan, source) if plan.stage == "attack" else self._evidence(plan, source)

    def _source(self, item: Item) -> Source:
        if item.source not in self.sources:
            collected = open_collected(self.config.images, self.config.attacks, item.source)
            self.sources[item.source] = collected or open_named(self.config.images, item.source)
        return self.sources[item.source]

    def _clean(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels = images["images"]
        origin = predict(self.classifier, pixels, self.config.batch_size)
        return _tensors(pixels, pixels, images["index"], images["truth"], origin, origin)

    def _collected(self, source: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images that are attacked already; where the original is not known, its truth stands for its prediction."""
        images, clean, truth, known = (source[name] for name in ("images", "clean", "truth", "known"))
        prediction, before = (predict(self.classifier, each, self.config.batch_size) for each in (images, clean))
        origin = torch.where(known.bool(), before, truth)
        tensors = _tensors(images, clean, source["index"], truth, origin, prediction)
        sizes = {name: torch.where(known.bool(), tensors[name], torch.nan) for name in ("linf", "l2")}
        return tensors | sizes

    def _from_clean(self, plan: ShardPlan, clean: dict[str, Tensor]) -> dict[str, Tensor]:
        photographs = unpack(clean)[: plan.rows]
        clean = {name: column[: plan.rows] for name, column in clean.items() if name not in NATIVE}
        pixels, origin = clean["images"], clean["origin"]
        config, batch_size = self.config, self.config.batch_size
        if (way := config.delivery(plan.label)) is not None:
            if way.native:
                arrived = [image for image, _ in deliver_each(photographs, way.steps, plan.seed)]
                changed = prepared(self.classifier, arrived)
            else:
                changed = deliver(pixels, way.steps, plan.seed)
            sizes = {name: clean[name] for name in ("linf", "l2")}  # of what the attack did, not of the way
            return self._seen(changed, pixels, clean) | sizes
        attack = config.attack(plan.label)
        if attack is not None:
            target = self.target(attack)
            if attack.native:
                expected = config.foreseen(attack, native=True)
                attacked, size = attack_native(
                    attack, target, self.classifier, photographs, origin, foreseen=expected, seed=plan.seed
                )
                seen = self._seen(prepared(self.classifier, attacked), pixels, clean)
                return seen | {"linf": size.linf, "l2": size.l2} | pack(attacked)
            changed = attack_images(attack, target, pixels, origin, seed=plan.seed, batch_size=batch_size)
        elif plan.label in config.corruptions.labels:
            changed = corrupt(pixels, *config.corruptions.labels[plan.label], plan.seed)
        else:
            changed = noise_twin(pixels, config.twins.labels[plan.label], plan.seed)
        return self._seen(changed, pixels, clean)

    def _seen(self, changed: Tensor, pixels: Tensor, clean: dict[str, Tensor]) -> dict[str, Tensor]:
        prediction = predict(self.classifier, changed, self.config.batch_size)
        return _tensors(changed, pixels, clean["index"], clean["truth"], clean["origin"], prediction)

    def _evidence(self, plan: ShardPlan, attack: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.config.attack(plan.label) is not None:
            success = attack["prediction"] != attack["origin"]
            attack = {name: tensor[success] for name, tensor in attack.items() if name not in NATIVE}
        evidence = _extract(self.extractor, attack["images"], self.config.batch_size)
        stored = {name: _stored(name, tensor, plan.split) for name, tensor in evidence.tensors().items()}
        for name, tensor in stored.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise DataError(f"{plan.path}: evidence {name!r} is not finite; check the classifier's activations")
        return stored | {name: attack[name] for name in COLUMNS}


def predict(classifier: Classifier, pixels: Tensor, batch_size: int) -> Tensor:
    """Predicted labels (n,) of uint8 images (n, 3, H, W), on the CPU."""
    labels = []
    with torch.no_grad():
        for batch in torch.split(pixels, batch_size) if len(pixels) else ():
            labels.append(classifier(batch.to(classifier.device).float() / 255).argmax(1).cpu())
    return torch.cat(labels) if labels else torch.zeros(0, dtype=torch.int64)


def prepare_torch(config: TrainingConfig) -> None:
    """Threads as the job asks, and the same numbers every time."""
    torch.set_num_threads(config.thread_count)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # as where the detector serves: p-values are ranks among such scores


def load_classifiers(
    config: TrainingConfig, classes: tuple[str, ...], weights: Weights = (None, None)
) -> tuple[Classifier, Classifier | None]:
    """The classifier to guard, and the witness if there is one.

    Args:
        config: The job's.
        classes: Class names in the order of the logits.
        weights: Of both, that win over the configuration's.

    Raises:
        ClassifierError: One of them cannot be used.
    """
    device = device_of(config)
    own, other = weights
    classifier = load_classifier(config.classifier.spec(classes), device=device, state_dict=own)
    if config.witness is None:
        return classifier, None
    return classifier, load_classifier(config.witness.spec(classes), device=device, state_dict=other)


def device_of(config: TrainingConfig) -> torch.device:
    """`device`, with `auto` decided.

    Raises:
        ConfigError: There is no such device here.
    """
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device_named(config.device, known="cpu, cuda, cuda:1 or auto")


def _tensors(
    images: Tensor, clean: Tensor, index: Tensor, truth: Tensor, origin: Tensor, prediction: Tensor
) -> dict[str, Tensor]:
    distance = Distance.between(clean, images)
    return {
        "images": images,
        "index": index,
        "truth": truth,
        "origin": origin,
        "prediction": prediction,
        "linf": distance.linf,
        "l2": distance.l2,
    }


def _extract(extractor: EvidenceExtractor, pixels: Tensor, batch_size: int) -> Evidence:
    device = extractor.classifier.device
    if not len(pixels):
        # no row, but the shapes of one: whoever reads shards can always concatenate them
        blank = torch.zeros((1, 3, *extractor.classifier.input_size), device=device)
        return extractor(blank).to("cpu")[:0]
    parts = [extractor(batch.to(device).float() / 255).to("cpu") for batch in torch.split(pixels, batch_size)]
    return Evidence.cat(parts)


def _stored(name: str, tensor: Tensor, split: Split) -> Tensor:
    if not tensor.is_floating_point() or name in FULL_PRECISION or split == "calibrate":
        return tensor
    return tensor.clamp(-HALF_MAX, HALF_MAX).to(torch.float16)
