"""The whole road: images in, verdicts out.

    images (B, 3, H, W) ─▶ evidence ─▶ heatmap networks ─▶ attack score ─▶ conformal p-value ─▶ Verdict
                                             ├─▶ origin probabilities ─▶ recovered and corrected label
                                             └─▶ with the evidence ─▶ risk ─▶ error rate promised of the prediction

With a cascade a glance clears some images, and only the other rows of the batch go on to the other views
(`detector.scoring.cascade`).
A detector belongs to one thread at a time: evidence observes the classifier through hooks that live for one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.bundle import Bundle, Manifest, load_bundle
from detector.bundle.contents import (
    cascade_of,
    check_match,
    check_witness,
    patches_of,
    settings_of,
    stored_calibration,
    whole_settings_of,
)
from detector.classifier import Classifier, ClassifierSpec, load_classifier
from detector.evidence import Evidence, EvidenceExtractor, EvidenceSettings
from detector.images.batch import check_images, check_labels, check_range
from detector.keys import PublicKeys
from detector.scoring.calibration import Calibration
from detector.scoring.cascade import Cascade
from detector.scoring.groups import Groups
from detector.scoring.labels import pairs, recovered
from detector.scoring.network import EvidenceShape, HeatmapNetwork, NetworkSettings, score
from detector.scoring.patches import Patches, looked_for
from detector.scoring.reliability import Reliability
from detector.scoring.tail import Tail, TailEstimate

__all__ = ["Detector", "Verdict"]

TOP = 5


@dataclass(frozen=True)
class Verdict:
    """What is said about one image. It is flagged at false-positive rate a where `p_value <= a`."""

    label: int
    """The classifier's prediction."""
    probability: float
    """Its softmax probability."""
    top: tuple[tuple[int, float], ...]
    """The classifier's most probable classes with their probabilities, best first."""
    attack_score: float
    """−log P(clean) of the heatmap classifier and a share of the novelty, or the floor under the witness's answer where
    that is greater (ADR 34): 0 and up, higher is more attack-like. Below 0 where a glance cleared the image: by how
    far."""
    p_value: float
    """Share of clean calibration images (of its group, if any) that look at least as attacked, in (0, 1]."""
    recovered: tuple[tuple[int, float], ...]
    """Given that the image was attacked: labels before the attack with their probabilities, best first; never `label`,
    which is what the attack wanted."""
    corrected: tuple[int, float]
    """Over all images, attacked or not: the likeliest label and its probability. `label` where that is likelier."""
    heatmap: NDArray[np.float32]
    """(h, w): activation × gradient for the predicted class, signed, unscaled. Of a classifier that is a black box it
    is the witness's (`Detector.extractor.map_from`): what the witness sees of that class, not what the classifier
    looked at."""
    evidence: Mapping[str, NDArray[Any]] | None = None
    """What the heatmap network read, by name (`detector.evidence.Evidence`); None unless it was asked for. Of a cleared
    image it lacks the views that the glance did not take."""
    error_rate: float | None = None
    """The smallest promised share of wrong predictions among accepted ones at which `label` is still accepted, in
    (0, 1]; 1: at none. The prediction can be relied on where this is at most what the caller bears. None where the
    bundle promises nothing."""
    calibration_group: str = ""
    """The group of clean images that it was ranked among; "" where all are one."""
    tail: TailEstimate | None = None
    """How rare the score may be, where it is higher than those of all clean images; None where nothing estimates it."""
    cleared: bool = False
    """Whether a glance let the image go: `recovered` and `corrected` are then the glance networks'."""
    patch: float | None = None
    """P-value that no patch made the prediction (`detector.scoring.patches`); None where nobody looked for one."""


class Detector:
    """A classifier under guard, its heatmap networks and their calibration, ready to judge images.

    Args:
        classifier: The classifier under guard.
        extractor: Computes the evidence the networks were trained on.
        networks: The ensemble, in eval mode.
        calibration: Attack scores of clean images.
        manifest: Of the bundle all this came from, if any.
        reliability: What may be promised of predictions, if anything.
        groups: Attack scores of clean images by group, if p-values are to be ranks among an image's own group.
        tail: Whether to estimate how rare a score is that is higher than all clean ones.
        cascade: The first look; None: every image is looked at in full.
        patches: How to look for patches, if it is to be asked for.
    """

    patches: Patches | None = None
    looks_for_patches = False
    groups: Groups | None = None
    tails: tuple[Tail | None, ...] = ()
    """Of each group; empty where nothing is to be estimated."""
    cascade: Cascade | None = None

    def __init__(
        self,
        classifier: Classifier,
        extractor: EvidenceExtractor,
        networks: Sequence[HeatmapNetwork],
        calibration: Calibration,
        manifest: Manifest | None = None,
        reliability: Reliability | None = None,
        groups: Groups | None = None,
        tail: bool = False,
        cascade: Cascade | None = None,
        patches: Patches | None = None,
    ) -> None:
        self.classifier = classifier
        self.extractor = extractor
        self.networks = tuple(networks)
        self.calibration = calibration
        self.manifest = manifest
        self.reliability = reliability
        self.groups = groups
        self.group_names = groups.names(classifier.classes) if groups else ("",)
        if tail:
            calibrations = groups.calibrations if groups else (calibration,)
            self.tails = tuple(Tail.of(each.scores.numpy()) for each in calibrations)
        self.cascade = cascade
        self.patches = patches

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        allow: Collection[str] = (),
        placed: Callable[[ClassifierSpec], ClassifierSpec] = lambda spec: spec,
        keys: PublicKeys | None = None,
    ) -> Detector:
        """Load and verify a bundle.

        Args:
            path: A directory or a `.heatward` file.
            device: Where to compute.
            allow: Modules a `python:` classifier may come from, besides ours (importing a module runs its code), and
                servers (`HOST:PORT`) that a `kserve:` classifier may send images to.
            placed: Says where the classifier and the witness are, if not where the bundle says.
            keys: One of these must have signed the bundle; None: nobody need have.

        Raises:
            BundleError: Damaged, foreign, too new, not signed, or made for another classifier.
            ClassifierSpecError: The classifier cannot be built.
        """
        return cls.assemble(load_bundle(path, keys), device=device, allow=allow, placed=placed)

    @classmethod
    def assemble(
        cls,
        bundle: Bundle,
        *,
        device: torch.device | str = "cpu",
        allow: Collection[str] = (),
        placed: Callable[[ClassifierSpec], ClassifierSpec] = lambda spec: spec,
    ) -> Detector:
        """Build a detector from a bundle in memory; arguments and errors as `from_bundle`."""
        manifest = bundle.manifest
        classifier = load_classifier(
            placed(manifest.classifier), device=device, state_dict=bundle.classifier_weights, allow=allow
        )
        check_match("guards classifier", classifier, manifest.fingerprint)
        witness = None
        if manifest.witness is not None:
            witness = load_classifier(
                placed(manifest.witness), device=device, state_dict=bundle.witness_weights, allow=allow
            )
            check_match("has the witness", witness, manifest.witness_fingerprint)
        shape = settings_of(EvidenceShape, manifest.network.get("shape"), "network.shape")
        check_witness(shape, witness)
        networks = HeatmapNetwork.ensemble(
            shape,
            len(manifest.families),
            whole_settings_of(NetworkSettings, manifest.network.get("settings"), "network.settings"),
            bundle.network_weights,
        )
        return cls(
            classifier,
            EvidenceExtractor(
                classifier,
                whole_settings_of(EvidenceSettings, manifest.evidence, "evidence"),
                witness,
                black_box=shape.black_box,
            ),
            [network.to(device) for network in networks],
            Calibration.fit(bundle.calibration_scores),
            manifest,
            None if bundle.reliability is None else Reliability.from_tensors(bundle.reliability),
            *stored_calibration(bundle, classifier.num_classes),
            None if (cascade := cascade_of(bundle)) is None else cascade.to(device),
            patches_of(bundle),
        )

    @property
    def scarcest(self) -> Calibration:
        """Of the fewest clean images that any image is ranked among: a smaller rate than its own is not promised."""
        return self.groups.scarcest if self.groups else self.calibration

    def ranked_among(self, prediction: int) -> int:
        """How many clean images an image of this predicted class is ranked among."""
        if self.groups is None:
            return len(self.calibration.scores)
        return self.groups.sizes[int(self.groups.of_class[prediction])]

    def p_value(self, scores: Tensor, predictions: Tensor) -> Tensor:
        """P-values (B,) float64 of attack scores (B,) of images of these predicted classes (B,)."""
        return self.groups.p_value(scores, predictions) if self.groups else self.calibration.p_value(scores)

    def detect(self, images: Tensor, *, keep_evidence: bool = False) -> list[Verdict]:
        """Judge images (B, 3, H, W) in [0, 1], float32, of the classifier's input size, on any device.

        One verdict each, in order; with `keep_evidence`, the evidence as well.

        Raises:
            ImageShapeError: They are no such batch; `Classifier.prepare` makes images of photographs.
            NonFiniteLogitsError: The classifier answered NaN or infinity.
        """
        check_images(images, size=self.classifier.input_size)
        seen = self._judge(images.to(self.classifier.device))
        scores, origin = seen.scores.cpu(), seen.origin.cpu()  # whole: each copy waits for the GPU
        probabilities, labels = seen.evidence.logits.cpu().softmax(1).topk(min(TOP, self.classifier.num_classes))
        candidates = seen.evidence.candidates.cpu()
        top, before, corrected = pairs(labels, probabilities), recovered(candidates, origin), origin.max(1)
        corrected_labels = candidates.gather(1, corrected.indices[:, None])[:, 0].tolist()
        corrected_probabilities = corrected.values.tolist()
        attack_scores, p_values = scores.tolist(), self.p_value(scores, labels[:, 0]).tolist()
        groups = self.groups.of(labels[:, 0]).tolist() if self.groups else [0] * len(images)
        error_rates: Sequence[float | None] = [None] * len(images)
        if self.reliability is not None:
            read = seen.evidence if self.cascade is None else seen.evidence.at_a_glance()  # what every image has
            error_rates = self.reliability.error_rate(read, scores, origin).tolist()
        heatmaps = seen.heatmaps.cpu().numpy()
        patched: Sequence[float | None] = [None] * len(images)
        if self.looks_for_patches:
            patched = looked_for(self.patches).p_value(self.classifier, images, labels[:, 0]).tolist()
        kept = seen.kept() if keep_evidence else [None] * len(images)
        return [
            Verdict(
                label=top[i][0][0],
                probability=top[i][0][1],
                top=top[i],
                attack_score=attack_scores[i],
                p_value=p_values[i],
                recovered=before[i],
                corrected=(corrected_labels[i], corrected_probabilities[i]),
                heatmap=heatmaps[i].astype(np.float32),
                evidence=kept[i],
                error_rate=error_rates[i],
                calibration_group=self.group_names[groups[i]],
                tail=self._tail(groups[i], attack_scores[i], p_values[i]),
                cleared=attack_scores[i] < 0 and self.cascade is not None,
                patch=patched[i],
            )
            for i in range(len(images))
        ]

    def _judge(self, images: Tensor) -> _Seen:
        if self.cascade is None:
            evidence, heatmaps = self.extractor.with_heatmap(images)
            return _Seen(*score(self.networks, evidence), heatmaps, evidence)
        glance = self.extractor.glance(images, self.cascade.views)
        looks: list[Evidence] = []

        def look(rows: Tensor) -> Evidence:
            looks.append(self.extractor.look(glance[rows]))
            return looks[0]

        scores, origin, rows = self.cascade.judge(glance.evidence, self.networks, look)
        return _Seen(scores, origin, glance.heatmaps, glance.evidence, rows.tolist(), looks[0] if looks else None)

    def in_full(self) -> Detector:
        """The same detector, whose glance clears nothing: what a batch costs at most."""
        if self.cascade is None:
            return self
        other = copy(self)
        other.cascade = replace(self.cascade, threshold=-math.inf)
        return other

    def looking_for_patches(self) -> Detector:
        """The same detector, whose verdicts have a `patch`: a forward pass more a mask; `ConfigError` if it cannot."""
        other = copy(self)
        other.looks_for_patches = looked_for(self.patches) is not None
        return other

    def certify(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B,) float64: the largest `Verdict.patch` that any patch on clean images (B, 3, H, W) can have.

        Of those patches that make the prediction another than the label (B,), or than the prediction without them.
        Where it is at most a, whoever flags at rate a flags each of them (`detector.scoring.patches`).

        Raises:
            ConfigError: The bundle was not made to look for patches.
            ImageShapeError: The images are no such batch, or their values lie outside [0, 1]; or the labels do not fit.
        """
        patches = looked_for(self.patches)
        check_images(images, size=self.classifier.input_size)
        check_range(images)
        if labels is not None:
            check_labels(labels, len(images), self.classifier.num_classes)
        return patches.certificate(self.classifier, images, labels)

    def _tail(self, group: int, attack_score: float, p_value: float) -> TailEstimate | None:
        tail = self.tails[group] if self.tails else None
        return tail.estimate(attack_score) if tail and p_value <= 1 / (tail.count + 1) else None

    def warm_up(self, sizes: Iterable[int]) -> None:
        """Judge grey images in full, in batches of each size, so that no caller pays for first-use costs."""
        whole = self.in_full()
        for size in sizes:
            whole.detect(torch.full((size, 3, *self.classifier.input_size), 0.5))


@dataclass(frozen=True)
class _Seen:
    """What was seen of B images, and by which look."""

    scores: Tensor  # (B,)
    origin: Tensor  # (B, C)
    heatmaps: Tensor  # (B, h, w)
    evidence: Evidence
    rows: Sequence[int] = ()  # that went on
    full: Evidence | None = None  # about these

    def kept(self) -> list[Mapping[str, NDArray[Any]] | None]:
        """The evidence of each image, as far as it was looked at."""
        kept = _rows(self.evidence)
        if self.full is not None:
            for row, evidence in zip(self.rows, _rows(self.full), strict=True):
                kept[row] = evidence
        return list(kept)


def _rows(evidence: Evidence) -> list[Mapping[str, NDArray[Any]]]:
    arrays = {name: each.cpu().contiguous().numpy() for name, each in evidence.tensors().items()}
    return [{name: each[i] for name, each in arrays.items()} for i in range(len(evidence))]
