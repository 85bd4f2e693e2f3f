"""A witness for a classifier that cannot be opened: photographs and the classifier's answers in, weights out.

    fit images ─▶ changed copies (cropped, mirrored, 8 bits) ─▶ the classifier's answers, asked once
    copies at the witness's size, noise on top ─▶ a small net that learns those answers (Hinton et al. 2015)

It learns under Gaussian noise of random strength: what fools the classifier then seldom fools it. A copy costs one
forward pass of the classifier and no label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.architectures import CifarNet, whitening_filters
from detector.classifier import Classifier
from training.data import SplitImages
from training.distilled import MEAN, STD, witness_spec
from training.progress import Progress
from training.settings import DistillationSettings
from training.shards import derived_seed, seed_everything

__all__ = ["agreement", "distil"]

LARGEST = 2**29
"""Bytes of copies that are held; of very many images there are fewer copies each."""
HEAD_RATE = 10.0  # the head's answers are divided by its width: it learns faster
WHITENED = 5000
FEWEST_STEPS = 300
"""With fewer, not even the batch norms have settled: of few images there are more epochs."""
SMALLEST_BATCH = 16
CHECKED = 500
NOTES = 10


@dataclass(frozen=True)
class Lesson:
    """pixels (n, 3, h, w) uint8 at the witness's size; answers (n, K), the classifier's probabilities."""

    pixels: Tensor
    answers: Tensor


def distil(
    classifier: Classifier,
    images: SplitImages,
    settings: DistillationSettings,
    progress: Progress,
    *,
    seed: int,
    batch_size: int,
    skip_unreadable: bool = False,
) -> dict[str, Tensor]:
    """Train a witness; returns its weights.

    Args:
        classifier: Is asked.
        images: The fit split.
        settings: Sizes and schedule.
        progress: Told of images asked about and learnt.
        seed: Decides copies, order and noise.
        batch_size: Images the classifier is asked about at once.
        skip_unreadable: Leave out images that cannot be read.

    Raises:
        DataError: An image cannot be read.
        ClassifierError: The classifier does not answer.
    """
    seed_everything(derived_seed(seed, "witness"))
    size = witness_spec(classifier, settings).input_size
    copies = max(1, min(settings.copies, LARGEST // max(1, len(images) * 3 * size[0] * size[1])))
    lessons = []
    with progress.task("witness: ask", total=len(images) * copies, unit="images") as advance:
        for start in range(0, len(images), batch_size):
            stop = min(start + batch_size, len(images))
            read = images.read(start, stop, classifier.prepare, skip_unreadable=skip_unreadable)
            for copy in range(copies):
                lessons.append(_asked(classifier, _changed(read.pixels.float() / 255, plain=copy == 0), size))
                advance(stop - start)
    lesson = Lesson(torch.cat([each.pixels for each in lessons]), torch.cat([each.answers for each in lessons]))
    return _learnt(lesson, classifier, settings, progress)


@torch.no_grad()
def agreement(classifier: Classifier, witness: Classifier, images: SplitImages) -> float:
    """Share of some images that it never learnt from about which the witness says the same."""
    pixels = images.read(0, CHECKED, classifier.prepare, skip_unreadable=True).pixels
    same = []
    for part in torch.split(pixels, 64):
        looks = part.to(classifier.device).float() / 255
        same.append(classifier(looks).argmax(1) == witness(_sized(looks, witness.input_size)).argmax(1))
    return float(torch.cat(same).float().mean()) if same else 0.0


def _changed(images: Tensor, *, plain: bool) -> Tensor:
    """(n, 3, H, W): each cropped to 80 … 100 % of its sides and mirrored by chance; as they are if `plain`."""
    if plain or not len(images):
        return images
    count = len(images)
    scale = 0.8 + 0.2 * torch.rand(count)
    shift = (1 - scale)[:, None] * (2 * torch.rand(count, 2) - 1)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    top = torch.stack([scale * mirror, zero, shift[:, 0]], 1)
    bottom = torch.stack([zero, scale, shift[:, 1]], 1)
    grid = functional.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.mul(255).round().div(255)


@torch.no_grad()
def _asked(classifier: Classifier, images: Tensor, size: tuple[int, int]) -> Lesson:
    answers = classifier(images.to(classifier.device)).softmax(1).cpu()
    return Lesson(_sized(images, size).mul(255).round().to(torch.uint8), answers)


def _learnt(
    lesson: Lesson, classifier: Classifier, settings: DistillationSettings, progress: Progress
) -> dict[str, Tensor]:
    device = classifier.device
    net = CifarNet(settings.widths, classifier.num_classes)
    with torch.no_grad():
        net.whiten.weight.copy_(whitening_filters(_normalised(lesson.pixels[:WHITENED].float() / 255)))
        nn.init.zeros_(net.whiten.bias)  # type: ignore[arg-type]
        net.head.weight.mul_(1 / net.head.weight.std())
    net.whiten.requires_grad_(False)
    net.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    others = [weight for name, weight in net.named_parameters() if weight.requires_grad and not name.startswith("head")]
    rates = [settings.learning_rate, HEAD_RATE * settings.learning_rate]
    optimiser = torch.optim.AdamW(
        [{"params": others, "lr": rates[0]}, {"params": list(net.head.parameters()), "lr": rates[1]}],
        weight_decay=settings.weight_decay,
    )
    count = len(lesson.pixels)
    batch = min(settings.batch_size, max(min(SMALLEST_BATCH, count), count // 16))
    epochs = max(settings.epochs, math.ceil(FEWEST_STEPS / (count // batch)))
    steps = epochs * (count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.1)
    with progress.task("witness: learn", total=epochs * (count // batch) * batch, unit="images") as advance:
        for epoch in range(epochs):
            total = 0.0
            order = torch.randperm(count)[: count // batch * batch]
            for index in torch.split(order, batch):
                images = lesson.pixels[index].to(device).float() / 255
                sigma = settings.noise * torch.rand(len(images), 1, 1, 1, device=device)
                logits = net(_normalised(images + sigma * torch.randn_like(images)))
                loss = functional.cross_entropy(logits, lesson.answers[index].to(device))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += loss.item()
                advance(len(index))
            if (epoch + 1) % math.ceil(epochs / NOTES) == 0 or epoch + 1 == epochs:
                progress.note(f"witness epoch {epoch + 1}/{epochs}: loss {total * batch / len(order):.4f}")
    return {name: value.detach().cpu().contiguous() for name, value in net.eval().state_dict().items()}


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(each, device=images.device).view(1, 3, 1, 1) for each in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def _sized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True).clamp(0, 1)
