"""Pieces of work → finished **parts on the disk**: an attack under one budget on a few images each, judged.

    images ─▶ attack ─▶ images of 8 bits within the budget ─▶ the real detector ─▶ label, p-value, corrected label

A part is a file with the digest of all that decides it, so a killed job goes on, and a changed setting makes anew what
it touches. What an attack says of its own success counts for nothing: the detector judges what it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detector.detector import Detector
from detector.errors import DataError
from training.progress import Progress
from training.redteam.oracles import AT_ONCE, to_8_bits
from training.redteam.targets import Targets
from training.redteam.values import Budget, Norm, Outcome
from training.shards import derived_seed, digest, digest_of, read_shard, write_shard

__all__ = ["Judged", "Part", "Piece", "Workshop", "distance", "judge"]

VERSION = 3
"""Of parts. Raise it when an attack of this package changes: finished parts are made again."""
ROUNDING = 1e-4


@dataclass(frozen=True)
class Piece:
    """One attack under one budget."""

    row: int
    method: str
    budget: Budget
    run: Callable[[Tensor, int], Outcome]
    """Images (B, 3, H, W) and a seed → what came of it."""
    least: bool = False
    """Whether it looks for the least change: it counts under every budget that this lies within."""
    purpose: str = ""
    """Of a check: its name."""
    against: str = ""
    """What it is made against or asks, where that is not the bundle: a twin's digest, a server."""

    @property
    def name(self) -> str:
        """Of its folder."""
        size = f"{'least' if self.least else ''}{self.budget.eps:.5f}"
        return "-".join(
            part
            for part in (
                self.purpose,
                f"row{self.row}",
                self.method,
                self.budget.norm.lower(),
                size,
                f"{self.budget.steps}x{self.budget.restarts}",
            )
            if part
        )


@dataclass(frozen=True)
class Judged:
    """What the real detector says of N images."""

    label: Tensor  # (N,)
    p_value: Tensor  # (N,) float64
    corrected: Tensor  # (N,)

    def __getitem__(self, rows: slice | Tensor) -> Judged:
        """Of some of them."""
        return Judged(self.label[rows], self.p_value[rows], self.corrected[rows])


@dataclass(frozen=True)
class Part:
    """N attacked images, judged."""

    images: Tensor  # (N, 3, H, W)
    judged: Judged
    spent: Tensor  # (N,)
    cpu_s: float
    curve: tuple[float, ...]


def judge(detector: Detector, images: Tensor) -> Judged:
    """What a detector says of images (N, 3, H, W), of 8 bits."""
    verdicts = [each for batch in torch.split(to_8_bits(images), AT_ONCE) for each in detector.detect(batch)]
    return Judged(
        torch.tensor([each.label for each in verdicts], dtype=torch.long),
        torch.tensor([each.p_value for each in verdicts], dtype=torch.float64),
        torch.tensor([each.corrected[0] for each in verdicts], dtype=torch.long),
    )


def distance(images: Tensor, originals: Tensor, norm: Norm) -> Tensor:
    """(N,) how far images are from their originals."""
    change = (images - originals).flatten(1)
    return change.abs().amax(1) if norm == "Linf" else change.norm(dim=1)


@dataclass(frozen=True)
class Workshop:
    """Where pieces are made.

    Attributes:
        folder: Of the parts.
        detector: Judges.
        decides: What decides all parts: the bundle's digest, and the rate.
        seed: Of everything random.
        batch_size: Images a part.
    """

    folder: Path
    detector: Detector
    decides: tuple[str | float, ...]
    seed: int
    batch_size: int
    progress: Progress

    def make(self, piece: Piece, targets: Targets) -> Part:
        """Make what is missing of a piece.

        Raises:
            DataError: The attack left its budget.
        """
        wanted = []
        for number, start in enumerate(range(0, len(targets), self.batch_size)):
            batch = slice(start, start + self.batch_size)
            part = targets[batch]
            path = self.folder / piece.name / f"{number:05d}.safetensors"
            made_from = digest([VERSION, piece.name, self.seed, number, part.digest, piece.against, *self.decides])
            wanted.append((path, part, made_from))
        done = [digest_of(path) == made_from for path, _, made_from in wanted]
        finished = sum(len(part) for (_, part, _), there in zip(wanted, done, strict=True) if there)
        with self.progress.task(piece.name, len(targets), finished) as advance:
            for number, ((path, part, made_from), there) in enumerate(zip(wanted, done, strict=True)):
                if not there:
                    write_shard(path, self._attack(piece, part, derived_seed(self.seed, piece.name, number)), made_from)
                    advance(len(part))
        return _joined([read_shard(path) for path, _, _ in wanted])

    def _attack(self, piece: Piece, part: Targets, seed: int) -> dict[str, Tensor]:
        outcome = piece.run(part.images, seed)
        images = to_8_bits(outcome.images.detach().cpu())
        if images.shape != part.images.shape:
            raise DataError(f"{piece.method}: answered images of {tuple(images.shape)} for {tuple(part.images.shape)}")
        furthest = float(distance(images, part.images, piece.budget.norm).max())
        if not piece.least and furthest > piece.budget.eps + ROUNDING:
            raise DataError(
                f"{piece.method}: changed an image by {furthest:.5f} ({piece.budget.norm}), its budget is "
                f"{piece.budget.eps:.5f}: the attack does not keep its promise, leave it out"
            )
        judged = judge(self.detector, images)
        curve = torch.zeros(0) if outcome.curve is None else outcome.curve.detach().cpu().float()
        return {
            "images": images.mul(255).round().to(torch.uint8),
            "label": judged.label,
            "p_value": judged.p_value,
            "corrected": judged.corrected,
            "spent": outcome.spent.cpu().long(),
            "cpu_s": torch.tensor([outcome.cpu_s], dtype=torch.float64),
            "curve": curve,
        }


def _joined(parts: Sequence[dict[str, Tensor]]) -> Part:
    def column(name: str) -> Tensor:
        return torch.cat([part[name] for part in parts])

    return Part(
        column("images").float() / 255,
        Judged(column("label"), column("p_value"), column("corrected")),
        column("spent"),
        float(column("cpu_s").sum()),
        _mean_curve([part["curve"] for part in parts]),
    )


def _mean_curve(curves: Sequence[Tensor]) -> tuple[float, ...]:
    """Of curves of different lengths: a search that has ended stays where it is."""
    longest = max(len(curve) for curve in curves)
    known = [curve for curve in curves if len(curve)]
    if not known:
        return ()
    padded = [torch.cat([curve, curve[-1:].expand(longest - len(curve))]) for curve in known]
    return tuple(round(value, 6) for value in torch.stack(padded).nanmean(0).tolist())
