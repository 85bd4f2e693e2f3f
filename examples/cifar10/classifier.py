r"""Train the embedded CIFAR-10 classifier and its witness: ImageFolder in, one safetensors file out.

    python -m examples.cifar10.classifier --data data --out work/cifar10_net.safetensors
    python -m examples.cifar10.classifier --witness-of work/cifar10_net.safetensors \
        --out work/cifar10_witness.safetensors
    python -m examples.cifar10.classifier --begin-with work/cifar10_net.safetensors --masked .01 .02 .05 \
        --out work/cifar10_masked.safetensors

Schedule after K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024): whitening, label smoothing,
alternating flips, short linear decay; convolutions by Muon (Jordan et al. 2024: orthogonalised momentum), the rest by
SGD. The first epochs see images shrunk to 24 px (progressive resizing): 0.56 of the cost. The last `--held-out`
images of every class are never trained on: the detector is fitted and calibrated on them.

The witness costs a fifth of the classifier and learns the classifier's answers, not the labels (Hinton et al. 2015),
under Gaussian noise of random strength: what fools the classifier by its own gradients seldom fools it.

Where patches are looked for under masks (`[patches]`), a classifier that learnt under them (`--masked`) certifies a few
more images at a false-positive rate of one's choice; a net that is trained already goes on (`--begin-with`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from detector.architectures import CIFAR10_MEAN, CIFAR10_STD, CifarNet, cifar10_net, whitening_filters
from detector.classifier.state_dict import load_into
from detector.classifier.weights import read_weights
from detector.errors import ConfigError, DataError
from detector.evidence.covering import Covering
from detector.malloc import keep_freed_memory
from detector.settings import PatchSettings
from examples.cifar10.masked import UnderMasks, masked_loss
from examples.cifar10.muon import Muon
from examples.commands import area, check_out, count, positive, run, whole
from training.data.folders import class_folders, find_images

CLASSES = 10
LOSS_SUM = 1000  # the learning rates below belong to a loss summed over so many images
MUON_LR = 0.17
BIAS_LR, HEAD_LR, SGD_MOMENTUM, WEIGHT_DECAY = 0.053, 0.67, 0.85, 2e-3  # for a loss summed over the batch
LABEL_SMOOTHING = 0.2
SMALL_SIDE = 24
WITNESS_NOISE = 16 / 255  # largest sigma
TUNED = 0.3  # of the learning rates, for a net that is trained already
WATCHED = 300  # held-out images that are looked at under masks

Loss = Callable[[CifarNet, Tensor, Tensor], Tensor]
"""A net, normalised images (B, 3, H, W) and targets (B,) or (B, K) → their mean loss."""


def load_folder(folder: Path, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
    """Images `first:last` of every class: (N, 3, 32, 32) uint8 and (N,) labels.

    Raises:
        DataError: There is no such folder, it has none of these images, or one has another size.
    """
    images, labels = [], []
    folders, _ = class_folders(folder)
    if len(folders) > CLASSES:
        raise DataError(f"{folder} has {len(folders)} class folders, the net tells {CLASSES} classes apart")
    found = find_images(folders).files
    for label, files in enumerate(found):
        for path in files[first:last]:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            if pixels.shape != (32, 32, 3):
                raise DataError(
                    f"{path} has {pixels.shape[1]}×{pixels.shape[0]} pixels, expected 32×32, as CIFAR-10 has"
                )
            images.append(pixels)
            labels.append(label)
    if not images:
        raise DataError(
            f"{folder}: {sum(map(len, found))} images in {len(folders)} class folders, none of them among those asked "
            f"for, [{first}:{'' if last is None else last}] of each class: give more images, or hold out fewer"
        )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def normalise(images: Tensor) -> Tensor:
    mean, std = torch.tensor(CIFAR10_MEAN).view(3, 1, 1), torch.tensor(CIFAR10_STD).view(3, 1, 1)
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, flip: Tensor, side: int) -> Tensor:
    """Translate by up to 2 pixels, flip where told, shrink to `side`."""
    padded = functional.pad(images, (2, 2, 2, 2), mode="reflect")
    shift_y, shift_x = torch.randint(0, 5, (2, len(images), 1))
    rows, columns = shift_y + torch.arange(32), shift_x + torch.arange(32)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(len(images))[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if side < 32:
        cropped = functional.interpolate(cropped, size=(side, side), mode="bilinear", antialias=True)
    return cropped.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(net: CifarNet, images: Tensor, labels: Tensor) -> float:
    net.eval()
    right = 0
    for x, y in zip(torch.split(images, 500), torch.split(labels, 500), strict=True):
        right += int((net(normalise(x)).argmax(1) == y).sum())
    net.train()
    return right / len(labels)


def initialise(net: CifarNet, images: Tensor) -> None:
    """Whitening filters from data; identity-like first filters in every other convolution."""
    with torch.no_grad():
        net.whiten.weight.copy_(whitening_filters(normalise(images[:5000])))
        nn.init.zeros_(net.whiten.bias)  # type: ignore[arg-type]
        for module in net.modules():
            if isinstance(module, nn.Conv2d) and module is not net.whiten:
                nn.init.dirac_(module.weight[: module.in_channels])
        net.head.weight.mul_(1 / net.head.weight.std())


def freeze(net: CifarNet) -> None:
    """Whitening filters and the scales of norm layers are not learned."""
    net.whiten.weight.requires_grad_(False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(False)


@dataclass(frozen=True)
class Recipe:
    """How long, on what sizes and in what batches."""

    widths: tuple[int, int, int]
    small_epochs: int  # at 24 px
    full_epochs: int  # at 32 px
    batch: int
    noise: float = 0.0  # largest sigma of Gaussian noise, in [0, 1] units
    rate: float = 1.0  # of the learning rates above


CLASSIFIER = Recipe(widths=(64, 256, 256), small_epochs=5, full_epochs=4, batch=1000)
WITNESS = Recipe(widths=(32, 96, 96), small_epochs=0, full_epochs=5, batch=500, noise=WITNESS_NOISE)
FURTHER = Recipe(widths=CLASSIFIER.widths, small_epochs=0, full_epochs=2, batch=500, rate=TUNED)


@torch.no_grad()
def answers(net: CifarNet, images: Tensor) -> Tensor:
    """Softmax (N, K) of a trained net."""
    return torch.cat([net(normalise(part)).softmax(1) for part in torch.split(images, 500)])


def plain(net: CifarNet, x: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(net(x), targets, label_smoothing=smoothing)


def train(
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    test: tuple[Tensor, Tensor],
    *,
    begin: CifarNet | None = None,
    loss: Loss | None = None,
    watch: Callable[[CifarNet], str] | None = None,
) -> CifarNet:
    """Train a net on labels (N,) or on another net's answers (N, K).

    Args:
        images: (N, 3, 32, 32) uint8.
        targets: Of each image.
        recipe: How long, on what sizes and in what batches.
        test: Images and labels whose accuracy is printed after each epoch.
        begin: A trained net to go on with, of the recipe's widths; a fresh one where none is given.
        loss: What is minimised; cross-entropy where none is given.
        watch: Asked after each epoch at the full size; its words are printed.

    Raises:
        ConfigError: There is no epoch, or not one batch of images.
    """
    steps = len(images) // recipe.batch
    epochs = recipe.small_epochs + recipe.full_epochs
    if not steps or not epochs:
        raise ConfigError(
            f"{epochs} epochs of {len(images)} images in batches of {recipe.batch}: nothing would be learnt; expected "
            "at least one epoch, and as many images as a batch holds"
        )
    net = begin or cifar10_net(recipe.widths)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if begin is None:
        initialise(net, images)
    freeze(net)
    net.train()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m is not net.whiten]
    muon = Muon([m.weight for m in convolutions])
    norm_biases = [m.bias for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    groups = [
        {"params": [net.whiten.bias], "lr": BIAS_LR, "weight_decay": WEIGHT_DECAY / BIAS_LR},
        {"params": norm_biases, "lr": BIAS_LR, "weight_decay": WEIGHT_DECAY / BIAS_LR},
        {"params": [net.head.weight], "lr": HEAD_LR, "weight_decay": WEIGHT_DECAY / HEAD_LR},
    ]
    sgd = torch.optim.SGD(groups, momentum=SGD_MOMENTUM, nesterov=True)
    base_lrs = [group["lr"] for group in sgd.param_groups]
    smoothing = LABEL_SMOOTHING if targets.ndim == 1 else 0.0  # answers are soft by themselves
    loss = loss or partial(plain, smoothing=smoothing)
    noise = recipe.noise / torch.tensor(CIFAR10_STD).view(3, 1, 1)
    # alternating flip: a fixed random half is flipped in even epochs, the other half in odd ones
    flipped = torch.rand(len(images)) < 0.5
    started, done = time.monotonic(), 0
    for epoch in range(epochs):
        side = SMALL_SIDE if epoch < recipe.small_epochs else 32
        total = 0.0
        for batch in torch.split(torch.randperm(len(images))[: steps * recipe.batch], recipe.batch):
            left = recipe.rate * (1 - done / (steps * epochs))
            x = augment(normalise(images[batch]), flipped[batch] ^ (epoch % 2 == 1), side)
            if recipe.noise:
                x = x + torch.randn_like(x) * torch.rand(len(x), 1, 1, 1) * noise
            value = loss(net, x, targets[batch]) * LOSS_SUM
            value.backward()  # type: ignore[no-untyped-call]
            for group, lr in zip(sgd.param_groups, base_lrs, strict=True):
                group["lr"] = lr * left
            sgd.param_groups[0]["lr"] *= max(0.0, 1 - done / (3 * steps))
            sgd.step()
            sgd.zero_grad(set_to_none=True)
            muon.step(MUON_LR * left)
            total += value.item()
            done += 1
        seconds = time.monotonic() - started
        note = f" test {accuracy(net, *test):.4f}" if side == 32 else ""
        note += f" {watch(net)}" if watch is not None and side == 32 else ""
        print(
            f"epoch {epoch + 1}/{epochs} side {side} loss {total / steps / LOSS_SUM:.4f}{note} {seconds:.0f} s",
            flush=True,
        )
    net.eval()
    return net


def under_masks(held_out: tuple[Tensor, Tensor], area: float) -> UnderMasks:
    """What some held-out images are under the masks against patches of this share of the area."""
    some = torch.randperm(len(held_out[0]))[:WATCHED]
    x = normalise(held_out[0][some])
    return UnderMasks(x, held_out[1][some], Covering.of((x.shape[-2], x.shape[-1]), PatchSettings(area=area)))


def load_net(path: Path, widths: tuple[int, int, int] = CLASSIFIER.widths) -> CifarNet:
    """A trained net of these widths.

    Raises:
        ClassifierSpecError: There is no such file, or it holds no weights of such a net.
    """
    net = cifar10_net(widths).eval()
    weights = {name: t.float() for name, t in read_weights(path).items()}
    load_into(net, weights, f"{path}, read as a net of the widths {' '.join(map(str, widths))},")
    return net


def save_net(net: CifarNet, path: Path) -> None:
    """Write weights in half precision, which the bundle stores; round the net's own before anything is measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {n: t.half() if t.is_floating_point() else t for n, t in net.state_dict().items()}
    net.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, str(path))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with train/ and test/ ImageFolders")
    parser.add_argument("--out", type=Path, default=Path("work/cifar10_net.safetensors"))
    parser.add_argument("--held-out", type=count, default=600, help="images of each class kept for the detector")
    parser.add_argument("--witness-of", type=Path, help="weights of the classifier: train its witness instead")
    parser.add_argument("--begin-with", type=Path, help="weights of a classifier: trained on, at lower rates")
    parser.add_argument(
        "--masked", type=area, nargs="+", metavar="AREA", help="learn under masks against patches of these shares"
    )
    parser.add_argument("--rate", type=positive, help=f"of the learning rates; with --begin-with {TUNED}, else 1")
    parser.add_argument("--images", type=count, help="to train on, drawn; all where it is not given")
    parser.add_argument("--small-epochs", type=whole, help="epochs at 24 px")
    parser.add_argument("--full-epochs", type=whole, help="epochs at 32 px")
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.witness_of and (given.begin_with or given.masked):
        parser.error("--witness-of trains a witness; --begin-with and --masked belong to a classifier")
    check_out(given.out)
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    test = load_folder(given.data / "test")
    images, labels = load_folder(given.data / "train", last=-given.held_out)
    held_out = load_folder(given.data / "train", first=-given.held_out)
    print(f"{len(images)} training images, {len(held_out[0])} held out for the detector", flush=True)
    targets, recipe = labels, CLASSIFIER
    if given.witness_of is not None:
        classifier = load_net(given.witness_of)
        targets, recipe = answers(classifier, images), WITNESS
        held_out = (held_out[0], answers(classifier, held_out[0]).argmax(1))
        print("'test' and held-out accuracy below are agreement with the classifier", flush=True)
    begin = None if given.begin_with is None else load_net(given.begin_with)
    recipe = recipe if begin is None else FURTHER
    told = {"small_epochs": given.small_epochs, "full_epochs": given.full_epochs, "rate": given.rate}
    recipe = replace(recipe, **{name: value for name, value in told.items() if value is not None})
    loss: Loss | None = None
    watch: UnderMasks | None = None
    if given.masked:
        loss = partial(masked_loss, areas=tuple(given.masked), smoothing=LABEL_SMOOTHING)
        watch = under_masks(held_out, min(given.masked, key=lambda area: abs(area - PatchSettings().area)))
        if begin is not None:
            print(f"before: test {accuracy(begin, *held_out):.4f} {watch(begin)}", flush=True)
    if given.images is not None:
        drawn = torch.randperm(len(images))[: given.images]
        images, targets = images[drawn], targets[drawn]
    net = train(images, targets, recipe, held_out, begin=begin, loss=loss, watch=watch)
    save_net(net, given.out)
    print(f"held-out accuracy {accuracy(net, *held_out):.4f}, test accuracy {accuracy(net, *test):.4f}")


if __name__ == "__main__":
    run(main)
