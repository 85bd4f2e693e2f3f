"""Evidence about a batch of images: named groups of numbers, an ordered dictionary of tensors, and its sizes.

B images, C candidates, L depths, V views. Groups that begin with `witness` exist where there is a witness. Those of
`INSIDE` need gradients and layers: evidence about a classifier that shows none is *black-box evidence*, all the others.

    per image (B, …)
    margin.channels             (Σ 3·N)    of each depth with N channels: attribution, gradient norms, mean activations
    witness.answer              (4)        log P(prediction); of image and mirror image, mean P(prediction), highest
                                           mean P, entropy of the mean
    witness.divergence          (2)        KL(witness ‖ classifier), KL(classifier ‖ witness)
    views.stability             (V, L, 3)  how far the channel heatmap moves: cosine of activations, cosine of
                                           attributions, relative distance of attributions
    margin.spread               (Σ N)      where settings ask: standard deviation of activations over space
    witness.channels            (Σ 2·N)    where settings ask, of the witness's depths: mean activations, deviations
    per candidate (B, C, …)
    classes.logit               (1)        centred logit
    views.logit                 (V)        its change under each view
    classes.log_probability     (1)        log P
    views.log_probability       (V)        its change under each view
    witness.log_probability     (2)        log P of the image, of the mirror image
    witness.logit               (1)        centred logit
    witness.log_ratio           (1)        log P(witness) − log P(classifier)

Who reads evidence names its groups. Bundles record the names: whoever changes the columns of a group renames it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

__all__ = [
    "ASKED_FOR",
    "INSIDE",
    "PER_CANDIDATE",
    "PER_IMAGE",
    "VIEWS",
    "Evidence",
    "EvidenceShape",
    "join_views",
    "of_views",
]

ASKED_FOR = ("margin.spread", "witness.channels")
"""Only there where settings ask for them."""
PER_IMAGE = ("margin.channels", "witness.answer", "witness.divergence", "views.stability", *ASKED_FOR)
PER_CANDIDATE = (
    "classes.logit",
    "views.logit",
    "classes.log_probability",
    "views.log_probability",
    "witness.log_probability",
    "witness.logit",
    "witness.log_ratio",
)
VIEWS = "views."
"""How the names of groups begin that take views, a forward pass each; their first dimension V is in the order of
`ViewSettings.names`. A glance has all the others, and of these the views that it takes."""
INSIDE = ("margin.channels", "views.stability", "margin.spread")
"""What is seen inside the classifier, by its gradients and layers."""


@dataclass(frozen=True)
class Evidence:
    """Evidence about B images; the module's docstring lists the groups.

    Candidate 0 is the prediction. With up to 16 classes all follow, by falling logit. With more, the class before an
    attack may be far down the logits: those follow that the witness, or without one the views, find likeliest.
    """

    logits: Tensor  # (B, K)
    candidates: Tensor  # (B, C) class indices; candidate 0 is the prediction
    groups: Mapping[str, Tensor]

    def columns(self, names: Iterable[str]) -> Tensor:
        """(B, n) or (B, C, n): the numbers of some groups side by side, in this order; absent ones are left out."""
        return torch.cat([self.groups[name].flatten(_first(name)) for name in names if name in self.groups], -1)

    def at_a_glance(self, views: Sequence[int] = ()) -> Evidence:
        """What is known with these views alone, by their places; without groups of views where it is none."""
        groups = {
            name: of_views(name, group, views) if name.startswith(VIEWS) else group
            for name, group in self.groups.items()
            if views or not name.startswith(VIEWS)
        }
        return Evidence(self.logits, self.candidates, groups)

    def tensors(self) -> dict[str, Tensor]:
        return {"logits": self.logits, "candidates": self.candidates, **self.groups}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Evidence:
        """The inverse; `tensors` may hold others, too."""
        groups = {name: tensors[name] for name in (*PER_IMAGE, *PER_CANDIDATE) if name in tensors}
        return cls(tensors["logits"], tensors["candidates"], groups)

    @classmethod
    def cat(cls, parts: Sequence[Evidence]) -> Evidence:
        every = [part.tensors() for part in parts]
        return cls.from_tensors({name: torch.cat([each[name] for each in every]) for name in every[0]})

    def __getitem__(self, index: slice | Tensor) -> Evidence:
        return self._each(lambda tensor: tensor[index])

    def __len__(self) -> int:
        return len(self.logits)

    def to(self, device: torch.device | str) -> Evidence:
        return self._each(lambda tensor: tensor.to(device))

    def float(self) -> Evidence:
        return self._each(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Evidence:
        return Evidence.from_tensors({name: change(tensor) for name, tensor in self.tensors().items()})


class EvidenceShape(BaseModel):
    """Sizes of the evidence that a network was built for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: int
    candidates: int
    groups: dict[str, tuple[int, ...]]
    """Group → its sizes beside images and candidates."""

    @property
    def black_box(self) -> bool:
        """Whether nothing was seen inside the classifier."""
        return not any(name in self.groups for name in INSIDE)

    def at_a_glance(self, views: int = 0) -> EvidenceShape:
        """Of what is known with so many views."""
        groups = {
            name: (views, *sizes[1:]) if name.startswith(VIEWS) else sizes
            for name, sizes in self.groups.items()
            if views or not name.startswith(VIEWS)
        }
        return self.model_copy(update={"groups": groups})

    @classmethod
    def of(cls, evidence: Evidence) -> EvidenceShape:
        return cls(
            classes=evidence.logits.shape[1],
            candidates=evidence.candidates.shape[1],
            groups={name: tuple(each.shape[_first(name) :]) for name, each in evidence.groups.items()},
        )

    def columns(self, names: Iterable[str]) -> int:
        """How many numbers `Evidence.columns` gives."""
        return sum(math.prod(self.groups[name]) for name in names if name in self.groups)


def of_views(name: str, group: Tensor, places: Sequence[int]) -> Tensor:
    """Some of the views of a group of views, in this order."""
    at = _first(name)
    return torch.stack([group.select(at, place) for place in places], at)


def join_views(name: str, parts: Sequence[Tensor], places: Sequence[int]) -> Tensor:
    """A group of views from parts of it whose views, one after the other, have these places among all."""
    order = sorted(range(len(places)), key=places.__getitem__)
    return of_views(name, torch.cat(list(parts), _first(name)), order)


def _first(name: str) -> int:
    """The first dimension of a group that is its own."""
    return 2 if name in PER_CANDIDATE else 1
