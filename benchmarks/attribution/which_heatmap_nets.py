"""Learning curves for which_heatmap.py: maps of clean and attacked images in; accuracy and AUROC out.

One small network for all methods, with the same steps and seeds. It sees a map twice: signed, over one constant per
method (the mean size of its training maps), and the logarithm of its size; never a map over its own size, save where
"shape alone" is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.attribution.which_heatmap_maps import SIDE, Case, Maps
from training.config import CLEAN, Split
from training.evaluation.metrics import Bootstrap, mean_of
from training.progress import Advance

SEEDS, EPOCHS, BATCH, LEARNING_RATE, WIDTH = 3, 18, 48, 2e-3, 12
FEWEST_STEPS = 200
FLOOR = 1e-3  # of the typical size, before the logarithm
CLIP = 30.0  # times the typical size
SCHEDULE = (SEEDS, EPOCHS, FEWEST_STEPS, BATCH, LEARNING_RATE, WIDTH, FLOOR, CLIP)

Json = dict[str, Any]
MapsOf = Mapping[tuple[Split, str], tuple[Case, Maps]]


class MapNet(nn.Module):
    """Maps (n, 2, SIDE, SIDE) to the logit of "attacked" (n,)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((2, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3))
        self.head = nn.Linear(4 * width * (SIDE // 8) ** 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(maps))
        return logits[:, 0]


def channels(maps: Maps, rows: Tensor, constant: float) -> Tensor:
    """What the network sees, (n, 2, SIDE, SIDE): the signed map over the constant, and the logarithm of its size."""
    signed, size = maps.signed[rows] / constant, maps.size[rows] / constant
    return torch.stack([signed.clamp(-CLIP, CLIP), (size + FLOOR).log10()], dim=1).to(memory_format=torch.channels_last)


def shape_only(maps: Maps) -> Maps:
    """Every map over its own mean size: where, but no longer how much."""
    own = maps.size.mean((1, 2), keepdim=True).clamp_min(1e-12)
    return Maps(maps.signed / own, maps.size / own, maps.seconds)


def train(inputs: Tensor, attacked: Tensor, seed: int) -> MapNet:
    """The same number of epochs, however many maps there are; but no fewer than `FEWEST_STEPS` batches."""
    torch.manual_seed(seed)
    steps = max(FEWEST_STEPS, EPOCHS * len(inputs) // BATCH)
    net: MapNet = MapNet().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.randperm(len(inputs))[:BATCH]
        batch = inputs[rows] if torch.rand(()) < 0.5 else inputs[rows].flip(3)
        loss = functional.binary_cross_entropy_with_logits(net(batch), attacked[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


class Lesson:
    """One method, one attack: maps of both splits, clean and attacked, row by row of the same source images."""

    def __init__(self, attack: str, maps: MapsOf) -> None:
        splits: tuple[Split, ...] = ("fit", "test")
        self.pairs: dict[Split, list[tuple[Maps, Tensor]]] = {}
        for split in splits:
            (case, attacked), (clean_case, clean) = maps[split, attack], maps[split, CLEAN]
            self.pairs[split] = [(clean, clean_case.of(case.index)), (attacked, torch.arange(len(case)))]
        self.sources = maps["test", attack][0].index.numpy()

    def measure(self, images: int, twins: Maps | None = None) -> dict[str, list[Any]]:
        """Train on the first `images` source images; per seed: test scores of clean and attacked, of twins."""
        parts = [(maps, rows[:images]) for maps, rows in self.pairs["fit"]]
        constant = float(torch.cat([maps.size[rows] for maps, rows in parts]).mean().clamp_min(1e-12))
        inputs = torch.cat([channels(maps, rows, constant) for maps, rows in parts])
        attacked = torch.arange(len(inputs)).ge(images).float()
        tests = [channels(maps, rows, constant) for maps, rows in self.pairs["test"]]
        if twins is not None:
            tests.append(channels(twins, torch.arange(len(twins.size)), constant))
        scores: dict[str, list[Any]] = {"clean": [], "attacked": [], "twin": []}
        for seed in range(SEEDS):
            net = train(inputs, attacked, seed)
            with torch.no_grad():
                for name, test in zip(scores, tests, strict=False):
                    scores[name].append(net(test).double().numpy())
        return scores


def rates(scores: Mapping[str, Sequence[Any]], sources: Any, bootstrap: Bootstrap) -> Json:
    """Mean over the seeds of accuracy (as many clean as attacked: balanced) and AUROC, with 95 % intervals."""
    both = np.concatenate([sources, sources])
    accuracy, auroc = [], []
    for clean, attacked in zip(scores["clean"], scores["attacked"], strict=True):
        accuracy.append(bootstrap.rate(np.concatenate([clean <= 0, attacked > 0]), both))
        auroc.append(bootstrap.auroc(attacked, sources, clean, sources))
    return {
        "accuracy": mean_of(accuracy).as_dict(),
        "auroc": mean_of(auroc).as_dict(),
        "accuracy_of_seeds": [each.value for each in accuracy],
    }


def learn(maps: MapsOf, attack: str, sizes: Sequence[int], twin: str | None, tell: Advance) -> Json:
    """The learning curve of one method on one attack; at its end, shape alone and false alarms on noise twins."""
    lesson = Lesson(attack, maps)
    bootstrap = Bootstrap(lesson.sources)
    curve = []
    twins = maps["test", twin] if twin else None
    for images in sizes:
        last = images == sizes[-1]
        scores = lesson.measure(images, twins[1] if twins and last else None)
        curve.append({"images": images, **rates(scores, lesson.sources, bootstrap)})
        tell(1)
    found: Json = {"curve": curve}
    if twins:
        alarms = Bootstrap(twins[0].index.numpy())
        found["twins_flagged"] = mean_of(
            [alarms.rate(each > 0, twins[0].index.numpy()) for each in scores["twin"]]
        ).as_dict()
    shapes = {key: (case, shape_only(each)) for key, (case, each) in maps.items()}
    found["shape_alone"] = rates(Lesson(attack, shapes).measure(sizes[-1]), lesson.sources, bootstrap)
    tell(1)
    return found
