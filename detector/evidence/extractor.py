"""What the heatmap classifier reads: heatmaps over channels, and their stability under small views.

    at a glance
    images (B, 3, H, W) ─▶ one forward ─▶ logits, activations at several depths
                             ├─ backward of the margin top1 − top2 ─▶ channel attribution (every depth)
                             └─ backward of the predicted class from one deep layer ─▶ the heatmap people are shown
    the witness, a second classifier ─▶ forward only ─▶ its logits for the same classes, against the classifier's

    in full
    views of the images  ─▶ forward only ─▶ logits per class, attribution under the view against the original's

A cascade takes the second step for some rows of a batch only (`glance`, then `look`); its glance may take some of the
views itself. Nothing is computed twice.

A classifier that shows no gradients or no layers is a black box: it is asked for logits alone, and the witness must be
there (docs/black-box.md). Image and views that are looked at together are asked about in one batch. The
heatmap people are shown is then the witness's for the class that the classifier predicts.

Every magnitude is kept: a heatmap scaled to [0, 1] loses the strongest signal. Nothing depends on the other images of
the batch. Sources: Fong & Vedaldi 2018 (Net2Vec) and Fong et al. 2019 section 5 (channel attribution); Selvaraju et al.
2017 (activation × gradient at a layer); Roth et al. 2019 (logits under noise); Wei et al. 2024, "PID" (a second model's
view of the same image).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional

from detector.classifier import Classifier
from detector.errors import ConfigError, LayerNotFoundError, NoGradientError
from detector.evidence.answers import answers, answers_under_views
from detector.evidence.glance import Glance
from detector.evidence.groups import ASKED_FOR, PER_CANDIDATE, PER_IMAGE, Evidence
from detector.evidence.views import CONSTANTS as VIEW_CONSTANTS
from detector.evidence.views import make_views
from detector.evidence.witness import testify
from detector.heatmaps.channels import (
    LayerAttribution,
    attribute_classes,
    attribute_margin,
    class_activation_gradients,
    spread,
)
from detector.heatmaps.occlusion import occlusion
from detector.images.batch import check_images, check_range
from detector.settings import EvidenceSettings

__all__ = ["ALL_CLASSES_UP_TO", "CONSTANTS", "EvidenceExtractor", "EvidenceSettings", "hidden_by"]

ALL_CLASSES_UP_TO = 16
EPSILON = 1e-8
DEPTHS = 4  # where no layers are named
MAP_SIDE = 6  # cells a side, at least, of the heatmap that people are shown
WITNESS_SEED = 1
NOTHING: Mapping[str, Any] = MappingProxyType({})
CONSTANTS: dict[str, JsonValue] = {
    "all_classes_up_to": ALL_CLASSES_UP_TO,
    "evidence_epsilon": EPSILON,
    "evidence_groups": [name for name in (*PER_IMAGE, *PER_CANDIDATE) if name not in ASKED_FOR],
    "witness_seed": WITNESS_SEED,
    "depths": DEPTHS,
    **VIEW_CONSTANTS,
}
"""What decides the evidence and is no setting; a bundle belongs to these."""


class EvidenceExtractor:
    """Images in [0, 1] → `Evidence`, with settings fixed at construction.

    Args:
        classifier: The classifier under guard.
        settings: What is looked at.
        witness: A second classifier of the same classes; a black box needs one.
        black_box: Whether to look at answers alone; None: where the classifier shows no more.

    Attributes:
        black_box: Whether it does.
        layers: Depths of channel attribution; () of a black box.
        map_layer: Of the heatmap that people are shown, where `map_from` shows layers.
        map_from: Whose heatmap that is: the classifier, or of a black box the witness.
        on_graph: Whether evidence stays on the graph of the images (`detector.differentiable`).

    Raises:
        NoGradientError: The classifier shows no gradients or no layers, and there is no witness.
        LayerNotFoundError: A named layer does not exist.
        ConfigError: The witness knows other classes, no view is left, or `spread` is asked of black boxes alone.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: EvidenceSettings,
        witness: Classifier | None = None,
        *,
        black_box: bool | None = None,
    ) -> None:
        hidden = hidden_by(classifier)
        self.black_box = bool(hidden) if black_box is None else black_box
        if hidden and black_box is False:
            raise NoGradientError(
                f"{hidden}, which channel attribution needs: train the bundle again with this classifier"
            )
        if self.black_box and witness is None:
            raise NoGradientError(
                f"{hidden or 'a black box shows neither gradients nor layers'}, so its evidence needs a witness: give "
                "a second classifier of the same classes as [witness], or let `heatward train` make one"
            )
        if hidden and settings.layers:
            raise LayerNotFoundError(f"evidence.layers: {hidden}; leave it empty")
        layers = () if self.black_box else settings.layers or classifier.depths(DEPTHS)
        self.classifier = classifier
        self.settings = settings
        self.views = make_views(settings.views, classifier.input_size, classifier.device)
        if not self.views:
            raise ConfigError(
                "evidence.views: no view is left; keep at least one (noise, flip, shifts, blur, rescale, jpeg)"
            )
        self.layers = tuple(layers)
        few = classifier.num_classes <= ALL_CLASSES_UP_TO
        self.candidates = classifier.num_classes if few else settings.candidates
        self.witness = witness
        self.on_graph = False
        noise = torch.randn(1, 3, *classifier.input_size, generator=torch.Generator().manual_seed(WITNESS_SEED))
        self.witness_noise = (noise * settings.witness_noise / 255).to(classifier.device)
        if witness is not None and witness.classes != classifier.classes:
            raise ConfigError("the witness must have the classifier's classes, in the same order")
        self.witness_layers = witness.depths(DEPTHS) if witness is not None and settings.spread else ()
        if settings.spread and not self.layers and not self.witness_layers:
            raise ConfigError("evidence.spread: neither classifier nor witness shows inner layers; leave it out")
        self.map_from = witness if self.black_box and witness is not None else classifier
        shown = self.layers or self.map_from.depths(DEPTHS)
        self.map_layer = _map_layer(self.map_from, shown) if shown and self.map_from.differentiable else ""

    def __call__(self, images: Tensor) -> Evidence:
        """Evidence about `images` (B, 3, H, W) in [0, 1], float32, of the classifier's input size and on its device.

        Raises:
            ImageShapeError: They are no such batch.
            NonFiniteLogitsError: The classifier answered NaN or infinity.
        """
        return self.with_heatmap(images)[0]

    def with_heatmap(self, images: Tensor) -> tuple[Evidence, Tensor]:
        """The evidence, and what no network reads: the heatmap that people are shown, (B, h, w).

        It is activation × gradient of the predicted class at `map_layer` of `map_from`, summed over channels; block
        occlusion of a witness that is a black box itself.
        """
        self._check(images)
        evidence, heatmaps = [], []
        for chunk in torch.split(images, self.settings.forward_batch):
            seen = self._glance(chunk, range(len(self.views)))
            evidence.append(seen.evidence)
            heatmaps.append(seen.heatmaps)
        return Evidence.cat(evidence), torch.cat(heatmaps)

    @property
    def glances(self) -> bool:
        """Whether there is evidence without views: not where views propose the candidates."""
        return self.witness is not None or self.candidates == self.classifier.num_classes

    def glance(self, images: Tensor, views: Sequence[int] = ()) -> Glance:
        """The first step of a cascade, with views of these places alone; images and errors as of a call.

        Raises:
            ConfigError: Views propose the candidates, so nothing is known without them.
        """
        self.check_glance()
        self._check(images)
        return Glance.cat([self._glance(chunk, views) for chunk in torch.split(images, self.settings.forward_batch)])

    def check_glance(self) -> None:
        """See that there is evidence without views.

        Raises:
            ConfigError: There is none.
        """
        if not self.glances:
            raise ConfigError(
                f"a cascade needs a [witness] where there are more than {ALL_CLASSES_UP_TO} classes, here "
                f"{self.classifier.num_classes}: without one it takes the views to know which classes to look at"
            )

    def look(self, glance: Glance) -> Evidence:
        """All evidence about the images of a glance, of which nothing is computed again: the second step."""
        left = [place for place in range(len(self.views)) if place not in glance.views]
        return Evidence.cat([self._more(chunk, left).evidence for chunk in glance.split(self.settings.forward_batch)])

    def _check(self, images: Tensor) -> None:
        check_images(images, device=self.classifier.device, size=self.classifier.input_size)
        check_range(images)

    def _glance(self, images: Tensor, views: Sequence[int]) -> Glance:
        if self.black_box:
            said = self._ask_about([images, *self._under(views, images)])
            return self._joined(self._first(images, said[0]), views, said[1:].transpose(0, 1))
        with torch.enable_grad():
            logits, activations = self.classifier.activations(images, self.layers)
            depths = attribute_margin(logits, activations, retain_graph=True, attached=self.on_graph)
            heatmaps, _ = attribute_classes(logits, activations[self.map_layer], retain_graph=self.on_graph)
        inside = NOTHING
        if self.settings.spread:
            inside = {"margin.spread": torch.cat([spread(self._cut(maps)) for maps in activations.values()], dim=1)}
        return self._more(self._first(images, self._cut(logits), depths, heatmaps[:, 0], inside), views)

    def _first(
        self,
        images: Tensor,
        logits: Tensor,
        depths: Mapping[str, LayerAttribution] = NOTHING,
        heatmaps: Tensor | None = None,
        inside: Mapping[str, Tensor] = NOTHING,
    ) -> Glance:
        """What is seen without views: in the answer, inside, and by the witness."""
        said, of_witness = (None, {}) if self.witness is None else self._ask_witness(self.witness, images)
        candidates = self._candidates(logits, (logits[:, None] if said is None else said).softmax(-1).mean(1))
        groups = {**answers(logits, candidates), **inside}
        if depths:
            channels = [c for d in depths.values() for c in (d.attribution, d.gradient_norm, d.activation)]
            groups |= {"margin.channels": torch.cat(channels, dim=1)}
        if said is not None:
            groups |= {**testify(logits, said, candidates), **of_witness}
        evidence = Evidence.from_tensors({"logits": logits, "candidates": candidates, **groups})
        if heatmaps is None:
            heatmaps = self._map_of_witness(images, logits.argmax(1))
        return Glance(images, evidence, depths, heatmaps)

    def _more(self, glance: Glance, views: Sequence[int]) -> Glance:
        """A glance with these views as well."""
        if not views:
            return glance
        changed = self._under(views, glance.images)
        if self.black_box:
            return self._joined(glance, views, self._ask_about(changed).transpose(0, 1))
        view_logits, stability = self._seen_inside(changed, glance.depths)
        return self._joined(glance, views, view_logits, {"views.stability": stability})

    def _joined(
        self, glance: Glance, views: Sequence[int], view_logits: Tensor, inside: Mapping[str, Tensor] = NOTHING
    ) -> Glance:
        """A glance, and what these views (B, V, K) show beside it."""
        if not views:
            return glance
        logits, candidates, proposed = glance.evidence.logits, glance.evidence.candidates, {}
        if not self.glances:  # the views propose the candidates
            candidates = self._candidates(logits, view_logits.softmax(-1).mean(1))
            proposed = {"candidates": candidates, **answers(logits, candidates)}
        return glance.joined(views, {**proposed, **inside, **answers_under_views(logits, view_logits, candidates)})

    def _under(self, views: Sequence[int], images: Tensor) -> list[Tensor]:
        """The images under each of these views."""
        every = list(self.views.values())
        return [every[place](images) for place in views]

    def _ask_about(self, looks: Sequence[Tensor]) -> Tensor:
        """Logits of a black box (n, B, K) about n batches (B, 3, H, W), asked about together."""
        chunks = torch.split(torch.cat(list(looks)), self.settings.forward_batch)
        with torch.set_grad_enabled(self.on_graph):
            said = [self.classifier(chunk) for chunk in chunks]
        return torch.cat(said).view(len(looks), -1, self.classifier.num_classes)

    def _map_of_witness(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B, h, w): what speaks for these labels, to the witness."""
        images = _at_size_of(self.map_from, images)
        if self.map_layer:
            return class_activation_gradients(self.map_from, images, self.map_layer, labels[:, None]).maps[:, 0]
        return occlusion(self.map_from, images, labels[:, None], grid=min(MAP_SIDE, *images.shape[2:])).maps[:, 0]

    def _candidates(self, logits: Tensor, votes: Tensor) -> Tensor:
        """(B, C) classes to look at."""
        if self.candidates == logits.shape[1]:
            return logits.topk(self.candidates).indices
        return votes.scatter(1, logits.argmax(1, keepdim=True), torch.inf).topk(self.candidates).indices

    def _cut(self, seen: Tensor) -> Tensor:
        return seen if self.on_graph else seen.detach()

    def _ask_witness(self, witness: Classifier, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 2, K) logits of the image, and of the mirrored and noisy image; what is seen inside."""
        look, mirrored = (
            _at_size_of(witness, each) for each in (images, (images.flip(-1) + self.witness_noise).clamp(0, 1))
        )
        with torch.set_grad_enabled(self.on_graph):
            if not self.witness_layers:
                return torch.stack([witness(look), witness(mirrored)], dim=1), {}
            logits, activations = witness.activations(look, self.witness_layers)
            channels = [part for maps in activations.values() for part in (maps.mean((2, 3)), spread(maps))]
            return torch.stack([logits, witness(mirrored)], dim=1), {"witness.channels": torch.cat(channels, dim=1)}

    def _seen_inside(self, changed: Sequence[Tensor], depths: Mapping[str, LayerAttribution]) -> tuple[Tensor, Tensor]:
        """Logits under each of V views (B, V, K); how far each depth's channel heatmap moves (B, V, L, 3)."""
        count, batch = len(changed), len(changed[0])
        chunks = torch.split(torch.cat(list(changed)), self.settings.forward_batch)
        with torch.set_grad_enabled(self.on_graph):
            outputs = [self.classifier.activations(chunk, self.layers) for chunk in chunks]
        logits = torch.cat([output[0] for output in outputs]).view(count, batch, self.classifier.num_classes)
        moved = []
        for name, depth in depths.items():
            pooled = torch.cat([activations[name].mean((2, 3)) for _, activations in outputs])
            pooled = pooled.view(count, batch, pooled.shape[1])  # (V, B, N)
            attribution = pooled * depth.weights
            original = depth.activation * depth.weights
            distances = [
                functional.cosine_similarity(pooled, depth.activation[None], dim=-1),
                functional.cosine_similarity(attribution, original[None], dim=-1),
                (attribution - original).norm(dim=-1) / (original.norm(dim=-1) + EPSILON),
            ]
            moved.append(torch.stack(distances, dim=-1))  # (V, B, 3)
        return logits.transpose(0, 1), torch.stack(moved, dim=-2).transpose(0, 1)


def hidden_by(classifier: Classifier) -> str:
    """What a classifier does not show, and why; empty where it shows gradients and layers."""
    if not classifier.differentiable:
        return f"classifier {classifier.spec.source!r} gives no gradients ({classifier.no_gradient})"
    if not classifier.layers:
        return f"classifier {classifier.spec.source!r} shows no inner layers ({classifier.no_layers})"
    return ""


def _at_size_of(classifier: Classifier, images: Tensor) -> Tensor:
    """The images at the size that the classifier takes."""
    if classifier.input_size == tuple(images.shape[-2:]):
        return images
    return functional.interpolate(images, size=classifier.input_size, mode="bilinear", antialias=True)


def _map_layer(classifier: Classifier, layers: Sequence[str]) -> str:
    """The deepest layer that is fine enough to be looked at."""
    probe = torch.zeros(1, 3, *classifier.input_size, device=classifier.device)
    with torch.no_grad():
        _, activations = classifier.activations(probe, layers)
    fine = [name for name in layers if min(activations[name].shape[-2:]) >= MAP_SIDE]
    return fine[-1] if fine else layers[0]
