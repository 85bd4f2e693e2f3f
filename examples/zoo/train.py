r"""Train a foreign classifier for CIFAR-10: a recipe beside this file in, the classifier's weights out.

    python -m examples.zoo.train vit --data data
    heatward train --config examples/zoo/vit.toml

The net is the one that the recipe's `[classifier]` names, and its weights go where the recipe looks for them. It learns
half from the labels and half from the embedded classifier's answers (Hinton et al. 2015), on the images that the
embedded classifier learned from. Matrices are trained by Muon (Jordan et al. 2024), the rest by AdamW: both timm's. The
state is kept after each epoch, so run the same command after an interruption.

The witness of all recipes is the embedded bundle's: its weights are written beside the classifier's.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from timm.layers.patch_dropout import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from timm.optim.muon import Muon
from torch import Tensor, nn
from torch.nn import functional

from detector.bundle import EMBEDDED, Bundle, load_bundle
from detector.classifier.sources import build_net
from detector.files import replacing
from detector.malloc import keep_freed_memory
from detector.spec import ClassifierSpec
from examples.cifar10.classifier import augment, load_folder, normalise
from training.load import load_config

RECIPES = Path(__file__).parent
HELD_OUT = 600  # images of each class that the embedded classifier did not learn from
SMALL_SIDE = 24
BATCH = 500
WEIGHT_DECAY = 0.05
WARM_UP = 0.15  # share of all steps


@dataclass(frozen=True)
class Schedule:
    """How long a net learns, and how fast.

    Attributes:
        light_epochs: On images of 24 px (`shrink`), or on half of the patches: cheap, and first.
        epochs: At full cost.
        rate: Highest learning rate, of matrices.
        rest: That of all else, as a share of it.
        shrink: Whether the net takes images of any size.
        seed: Decides everything random.
    """

    light_epochs: int
    epochs: int
    rate: float
    rest: float = 1.0
    shrink: bool = False
    seed: int = 0


SCHEDULES = {
    "resnet18": Schedule(light_epochs=0, epochs=7, rate=0.03, rest=0.2, shrink=True),
    "vit": Schedule(light_epochs=10, epochs=6, rate=4e-3),
    "mixer": Schedule(light_epochs=0, epochs=12, rate=4e-3),
    "convnext": Schedule(light_epochs=6, epochs=6, rate=4e-3, shrink=True),
}


@torch.no_grad()
def right(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that the net calls by their label."""
    net.eval()
    parts = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    return sum(int((net(normalise(x)).argmax(1) == y).sum()) for x, y in parts) / len(labels)


@torch.no_grad()
def answers(net: nn.Module, images: Tensor) -> Tensor:
    """Softmax (N, K)."""
    return torch.cat([net(normalise(x)).softmax(1) for x in torch.split(images, BATCH)])


def trained(
    net: nn.Module, images: Tensor, targets: Tensor, test: tuple[Tensor, Tensor], schedule: Schedule, kept: Path
) -> None:
    """Train `net` in place.

    Args:
        net: What learns.
        images: (N, 3, 32, 32) uint8.
        targets: (N, K) probabilities.
        test: Images and labels to report on.
        schedule: How long.
        kept: Where the state of a run lies.
    """
    optimiser = Muon(
        net.parameters(), lr=schedule.rate, fallback_lr_scale=schedule.rest, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    epochs, steps = schedule.light_epochs + schedule.epochs, len(images) // BATCH
    torch.manual_seed(schedule.seed)
    mirrored = torch.rand(len(images)) < 0.5  # in even epochs; the others in odd ones (K. Jordan 2024)
    first = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epochs"]
    for epoch in range(first, epochs):
        torch.manual_seed(schedule.seed + 1 + epoch)
        light, total, started = epoch < schedule.light_epochs, 0.0, time.process_time()
        net.train()
        if isinstance(net, VisionTransformer):
            net.patch_drop = PatchDropout(0.5 if light else 0.0, net.num_prefix_tokens)
        for step, batch in enumerate(torch.split(torch.randperm(len(images))[: steps * BATCH], BATCH)):
            done = (epoch * steps + step) / (epochs * steps)
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
            flip = mirrored[batch] ^ (epoch % 2 == 1)
            x = augment(normalise(images[batch]), flip, SMALL_SIDE if light and schedule.shrink else 32)
            loss = functional.cross_entropy(net(x), targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()  # type: ignore[no-untyped-call]
            optimiser.zero_grad(set_to_none=True)
            total += loss.item()
        seconds = time.process_time() - started
        note = f"held out {right(net, *test):.4f}, {seconds:.0f} s of CPU"
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {note}", flush=True)
        with replacing(kept) as stream:
            torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epoch + 1}, stream)


def load_answers(path: Path, bundle: Bundle, images: Tensor) -> Tensor:
    """The embedded classifier's answers, computed once."""
    if not path.exists():
        spec = bundle.manifest.classifier
        teacher = build_net(spec, device=torch.device("cpu"), state_dict=bundle.classifier_weights)
        save_file({"answers": answers(teacher.module, images)}, path)
    return load_file(path)["answers"]


def fresh(spec: ClassifierSpec) -> nn.Module:
    """The net of a spec, not yet trained."""
    net = build_net(spec.model_copy(update={"weights": None}), device=torch.device("cpu")).module
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=SCHEDULES)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with train/ and test/ ImageFolders")
    parser.add_argument("--light-epochs", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    told = {name: getattr(arguments, name) for name in ("light_epochs", "epochs", "rate", "seed")}
    schedule = replace(SCHEDULES[arguments.net], **{name: value for name, value in told.items() if value is not None})
    config = load_config(RECIPES / f"{arguments.net}.toml")
    bundle = load_bundle(EMBEDDED)
    weights, witness = Path(str(config.classifier.weights)), Path(str(config.witness and config.witness.weights))
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(bundle.witness_weights or {}, witness)
    images, labels = load_folder(arguments.data / "train", last=-HELD_OUT)
    held_out = load_folder(arguments.data / "train", first=-HELD_OUT)
    taught = load_answers(weights.with_name("answers.safetensors"), bundle, images)
    spec = config.classifier.spec(bundle.manifest.classifier.classes)
    net = fresh(spec)
    print(f"{spec.source}: {sum(p.numel() for p in net.parameters())} parameters, {len(images)} images", flush=True)
    targets = (taught + functional.one_hot(labels, taught.shape[1])) / 2
    a_third = (held_out[0][::3], held_out[1][::3])
    trained(net, images, targets, a_third, schedule, weights.with_suffix(".checkpoint"))
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, weights)
    test = load_folder(arguments.data / "test")
    print(f"held out {right(net, *held_out):.4f}, test {right(net, *test):.4f}: {weights}")


if __name__ == "__main__":
    main()
