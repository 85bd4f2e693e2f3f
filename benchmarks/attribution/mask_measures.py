"""What `masks.py` measures of our masks and the recipe's: photographs in; seconds, logits and bytes out.

The recipe's masks are kept, one file per image, under a digest of all that decides them: a killed run goes on.
"""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.attribution.images import AREA, Photographs
from benchmarks.attribution.published_recipe import Pyramid, Recipe, learn
from benchmarks.clock import cpu_seconds
from detector.classifier import Classifier
from detector.heatmaps import extremal, input_gradients
from detector.heatmaps.masks import blend
from detector.heatmaps.reference import cover
from training.progress import Advance
from training.shards import digest, digest_of, read_shard, write_shard

__all__ = [
    "COVERS",
    "FOR_BLURS",
    "NEVER",
    "PeakMemory",
    "StoredMasks",
    "Times",
    "line_through",
    "one_by_one",
    "ours",
    "peaks",
    "seen_through",
    "speed",
    "step_cost",
]

COVERS = ("our blur", "the recipe's blurs")
FOR_BLURS: dict[str, Any] = {"reference": "blurs", "spread": 1 / 28, "steps": 12}
"""Our settings for masks that are seen through the recipe's blurs, where half a mask hides nearly all detail."""
NEVER = 10**6  # patience that does not run out: every row takes every step


class StoredMasks:
    """The recipe's masks of photographs, made once.

    Args:
        classifier: The classifier.
        folder: Where they lie, in one folder per classifier.
        recipe: Its settings.
    """

    def __init__(self, classifier: Classifier, folder: Path, recipe: Recipe) -> None:
        self._classifier, self._recipe = classifier, recipe
        self._folder = folder / classifier.fingerprint[:12]

    def make(self, photograph: Photographs) -> tuple[Tensor, float]:
        """The mask (1, H, W) of one photograph, made now and kept, and the CPU seconds it took."""
        start = time.process_time()
        mask = learn(self._classifier, photograph.pixels[0], int(photograph.classes[0]), AREA, self._recipe)
        seconds = time.process_time() - start
        kept = {"mask": mask, "seconds": torch.tensor(seconds)}
        write_shard(self._path(photograph), kept, self._made_from(photograph))
        return mask[None], seconds

    def has(self, photograph: Photographs) -> bool:
        return digest_of(self._path(photograph)) == self._made_from(photograph)

    def get(self, photographs: Photographs, advance: Advance) -> tuple[Tensor, Tensor]:
        """Masks (N, H, W) and the seconds each took, (N,); what is missing is made."""
        masks, seconds = [], []
        for each in one_by_one(photographs):
            if not self.has(each):
                self.make(each)
            kept = read_shard(self._path(each))
            masks.append(kept["mask"])
            seconds.append(kept["seconds"])
            advance(1)
        return torch.stack(masks), torch.stack(seconds)

    def _path(self, photograph: Photographs) -> Path:
        return self._folder / f"{int(photograph.index[0]):06d}.safetensors"

    def _made_from(self, photograph: Photographs) -> str:
        pixels = hashlib.sha256(photograph.pixels.numpy().data).hexdigest()
        return digest([self._classifier.fingerprint, asdict(self._recipe), AREA, pixels, int(photograph.classes[0])])


def one_by_one(photographs: Photographs) -> list[Photographs]:
    return [photographs[place : place + 1] for place in range(len(photographs))]


def ours(classifier: Classifier, photographs: Photographs, **settings: Any) -> Tensor:
    """(N, H, W): `extremal` at its defaults, all at once unless `chunk` is given."""
    settings = {"chunk": len(photographs), **settings}
    return extremal(classifier, photographs.pixels, photographs.classes[:, None], areas=(AREA,), **settings).masks[
        :, 0, 0
    ]


@dataclass(frozen=True)
class Times:
    """CPU seconds per image, measurement by measurement."""

    recipe: list[float]
    ours: list[float]
    ours_for_blurs: list[float]


def speed(
    classifier: Classifier, photographs: Photographs, stored: StoredMasks, batch: int, timed: int, advance: Advance
) -> Times:
    """The recipe on `timed` single photographs, ours on a batch before, between and after them."""
    ours(classifier, photographs[:batch], steps=1)  # the first use pays for set-up
    found = Times([], [], [])
    for place in range(timed + 1):
        found.ours.append(cpu_seconds(lambda: ours(classifier, photographs[:batch])) / len(photographs[:batch]))
        found.ours_for_blurs.append(cpu_seconds(lambda: ours(classifier, photographs[:batch], **FOR_BLURS)) / batch)
        if place < timed:
            found.recipe.append(stored.make(photographs[place : place + 1])[1])
            advance(1)
    return found


def step_cost(classifier: Classifier, photographs: Photographs, repeats: int, advance: Advance) -> list[float]:
    """CPU time of a step as a multiple of one forward and input gradient of the same batch, `repeats` times.

    A step's time is the difference of a long and a short run over the difference of their steps.
    """
    few, many = 2, 10
    found = []
    classes = photographs.classes[:, None]
    input_gradients(classifier, photographs.pixels, classes)  # the first use pays for set-up

    def gradient_s() -> float:
        return cpu_seconds(lambda: input_gradients(classifier, photographs.pixels, classes))

    for _ in range(repeats):
        short = cpu_seconds(lambda: ours(classifier, photographs, steps=few, patience=NEVER))
        gradients = [
            cpu_seconds(lambda: input_gradients(classifier, photographs.pixels, classes)) for _ in range(many - few)
        ]
        long = cpu_seconds(lambda: ours(classifier, photographs, steps=many, patience=NEVER))
        found.append((long - short) / sum(gradients))
        advance(1)
    return found


def seen_through(
    classifier: Classifier, photographs: Photographs, masks: Tensor, recipe: Recipe, batch: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """By what stands where the mask is not: the logit (N,) of the class, and whether it still comes first, (N,)."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        pictures = (
            blend(photographs.pixels, cover(photographs.pixels, "blur"), masks),
            Pyramid(photographs.pixels, recipe)(masks),
        )
        for name, each in zip(COVERS, pictures, strict=True):
            logits = torch.cat([classifier(some) for some in torch.split(each, batch)])
            own = logits.gather(1, photographs.classes[:, None])[:, 0]
            found[name] = own, logits.argmax(1) == photographs.classes
    return found


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside of it held at once; what one operator needs for itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._held = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in inputs:
                self._hold(leaf.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        weakref.finalize(storage, self._release, storage.nbytes())
        self._held += storage.nbytes()
        self.peak = max(self.peak, self._held)

    def _release(self, count: int) -> None:
        self._held -= count


def peaks(work: Callable[[Photographs], object], photographs: Photographs, batches: Sequence[int]) -> list[int]:
    """Peak bytes of `work` on the first photographs, one batch size at a time."""
    found = []
    for batch in batches:
        counter = PeakMemory()
        with counter:
            work(photographs[:batch])
        found.append(counter.peak)
    return found


def line_through(batches: Sequence[int], held: Sequence[int]) -> tuple[float, float, float]:
    """Least squares: bytes per row, bytes whatever the batch, and the largest deviation as a share of the value."""
    rows, values = (torch.tensor(each, dtype=torch.float64) for each in (batches, held))
    slope, fixed = torch.linalg.lstsq(torch.stack([rows, torch.ones_like(rows)], 1), values).solution.tolist()
    return slope, fixed, float(((slope * rows + fixed - values) / values).abs().max())
