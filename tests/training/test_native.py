"""Photographs attacked and delivered at their own size, and what of that reaches the classifier."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny_job import configure, write_source
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import ConfigError
from detector.settings import Preprocessing
from training.attacks.deliver import deliver, deliver_each
from training.attacks.native import at_size, attack_native, pack, prepared, unpack
from training.config import CLEAN, AttackSpec, TrainingConfig
from training.deliveries import Step
from training.job import open_job
from training.progress import SilentProgress
from training.shards import read_shard
from training.stages import attack as attack_stage
from training.stages.attack import predict

PGD: dict[str, Any] = {"eps": "24/255", "alpha": {"of_eps": 0.25}, "steps": 5}
ATTACK = AttackSpec(name="PGD", label="a", family="b", parameters=PGD, native=True)
SIZES = [(24, 32), (40, 20), (16, 16)]
CROPPED = {"resize": 18, "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


@pytest.fixture(scope="module", params=["bilinear", "bicubic", "lanczos"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """The tiny one, of photographs that are resized and cropped."""
    made = tiny.classifier()
    changed = made.spec.preprocessing.model_copy(update={"resize": 18, "interpolation": request.param})
    made.spec = made.spec.model_copy(update={"preprocessing": Preprocessing.model_validate(changed)})
    return made


@pytest.fixture(scope="module")
def photographs() -> list[Tensor]:
    drawn = tiny.images(len(SIZES), seed=3).images
    resized = [
        torch.nn.functional.interpolate(x[None], size, mode="bicubic")[0] for x, size in zip(drawn, SIZES, strict=True)
    ]
    return [each.clamp(0, 1).mul(255).round().to(torch.uint8) for each in resized]


def test_photographs_of_different_sizes_lie_in_a_shard(photographs: list[Tensor]) -> None:
    again = unpack(pack(photographs))
    assert all(torch.equal(one, other) for one, other in zip(photographs, again, strict=True))
    assert unpack(pack([])) == []
    assert unpack({"images": torch.zeros(1)}) == []


def test_the_classifier_sees_what_it_prepares(classifier: Classifier, photographs: list[Tensor]) -> None:
    seen = prepared(classifier, photographs)
    for photograph, one in zip(photographs, seen, strict=True):
        behind = at_size(classifier, classifier, (photograph.shape[1], photograph.shape[2]))
        assert torch.equal(behind(photograph[None] / 255), classifier(one[None] / 255))


def test_the_gradient_is_that_of_resize_and_crop(classifier: Classifier, photographs: list[Tensor]) -> None:
    photograph, generator = photographs[0].float()[None] / 255 * 0.6 + 0.2, torch.Generator().manual_seed(1)
    change = torch.nn.functional.interpolate(torch.randn(1, 3, 12, 16, generator=generator), (24, 32), mode="bicubic")
    change *= 0.05
    behind, seen = at_size(classifier, classifier, (24, 32)), []
    behind.module.module = torch.nn.Sequential()  # looks at what the net would be given
    photograph.requires_grad_()
    seen = [behind.module(each) for each in (photograph, (photograph + change).detach())]
    moved = seen[1] - seen[0].detach()
    (gradient,) = torch.autograd.grad((seen[0] * moved).sum(), photograph)
    assert float((gradient * change).sum()) == pytest.approx(float(moved.square().sum()), rel=0.1)


def test_a_photograph_is_attacked_at_its_own_size(classifier: Classifier, photographs: list[Tensor]) -> None:
    origin = predict(classifier, prepared(classifier, photographs), 4)

    def attacked(seed: int, **how: Any) -> list[Tensor]:
        torch.rand(seed + 1)  # whatever ran before must not matter
        return attack_native(ATTACK, classifier, classifier, photographs, origin, seed=seed, **how)[0]

    once = attacked(1)
    assert [each.shape for each in once] == [each.shape for each in photographs]
    assert all(torch.equal(one, other) for one, other in zip(once, attacked(1), strict=True))
    assert not torch.equal(once[0], attacked(2)[0])
    assert not torch.equal(once[0], attacked(1, foreseen=[Step(jpeg=50)])[0])
    assert (predict(classifier, prepared(classifier, once), 4) != origin).any()
    _, size = attack_native(ATTACK, classifier, classifier, photographs, origin, seed=1)
    for photograph, other, linf in zip(photographs, once, size.linf, strict=True):
        assert float(linf) == pytest.approx(int((other.int() - photograph.int()).abs().max()) / 255)
        assert linf <= 24 / 255 + 1e-6


NATIVE_WAY: dict[str, Any] = {"label": "jpeg", "steps": [{"jpeg": 70}], "native": True}
NATIVE: dict[str, Any] = {
    "name": "PGD",
    "label": "pgd-native",
    "family": "iterative",
    "parameters": PGD,
    "native": True,
    "through": "jpeg",
}
SMALL: dict[str, Any] = {"name": "FGSM", "label": "fgsm", "family": "one-step", "parameters": {"eps": "24/255"}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny job's images, larger and of two sizes."""
    folder = write_source(tmp_path_factory.mktemp("source"))
    for number, path in enumerate(sorted((folder / "images").rglob("*.png"))):
        with Image.open(path) as image:
            image.resize((40, 24) if number % 2 else (24, 36), Image.Resampling.BICUBIC).save(path)
    return folder


def config(source: Path, place: Path, **changes: Any) -> TrainingConfig:
    classifier = {"preprocessing": CROPPED}
    return configure(source, place, **({"classifier": classifier, "attacks": [NATIVE, SMALL]} | changes))


def test_a_job_attacks_and_delivers_photographs_before_they_are_resized(source: Path, tmp_path: Path) -> None:
    after = {"label": "thumb", "steps": [{"jpeg": 70}]}
    job = open_job(config(source, tmp_path, deliveries=[NATIVE_WAY, after]), SilentProgress())
    labels = (CLEAN, "pgd-native", "pgd-native@jpeg", "pgd-native@thumb", "clean@jpeg")
    plans = {label: job.plan("attack", "test", label)[0] for label in labels}
    list(job.runner.run(plans.values()))
    made = {label: read_shard(plan.path) for label, plan in plans.items()}
    split = job.splits["test"]
    files = [torch.from_numpy(np.array(split.pixels(item))).permute(2, 0, 1) for item in split.items[:16]]
    attacked = unpack(made["pgd-native"])
    assert [each.shape for each in attacked] == [each.shape for each in files]
    assert made["pgd-native"]["linf"].max() <= 24.01 / 255
    assert torch.equal(made["pgd-native"]["images"], prepared(job.classifier, attacked))
    arrived = [image for image, _ in deliver_each(attacked, [Step(jpeg=70)], seed=0)]
    assert torch.equal(made["pgd-native@jpeg"]["images"], prepared(job.classifier, arrived))
    assert torch.equal(made["pgd-native@jpeg"]["linf"], made["pgd-native"]["linf"])
    assert torch.equal(made["pgd-native@thumb"]["images"], deliver(made["pgd-native"]["images"], [Step(jpeg=70)], 0))
    arrived = [image for image, _ in deliver_each(files, [Step(jpeg=70)], seed=0)]
    assert torch.equal(made["clean@jpeg"]["images"], prepared(job.classifier, arrived))
    evidence = job.plan("attribute", "test", "pgd-native")[0]
    list(job.runner.run([evidence]))
    success = int((made["pgd-native"]["prediction"] != made["pgd-native"]["origin"]).sum())
    assert len(read_shard(evidence.path)["origin"]) == success > 0


OWN = """
import torch

def refuses(classifier, images, labels):
    behind = not torch.equal(classifier(images), classifier(images))
    raise IndexError(f"{len(images)} of {tuple(images.shape[2:])}, delivered {behind}")
"""


@pytest.mark.parametrize(("native", "size"), [(True, r"1 of \((24, 40|36, 24)\)"), (False, r"2 of \(16, 16\)")])
def test_an_attack_is_tried_as_it_will_be_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, size: str
) -> None:
    (tmp_path / "native_attacks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    way = {"label": "crop", "steps": [{"crop": {"uniform": [0.5, 0.9]}}], "native": native}
    own = {"name": "native_attacks:refuses", "label": "own", "family": "own", "native": native, "through": "crop"}
    job = open_job(config(source, tmp_path, attacks=[SMALL, own], deliveries=[way]), SilentProgress())
    with pytest.raises(ConfigError, match=size + ", delivered True"):
        attack_stage.run(job)
    assert not list((tmp_path / "work").rglob("*.safetensors"))
    sys.modules.pop("native_attacks")


def test_native_is_part_of_the_digest_and_of_native_attacks_alone(source: Path, tmp_path: Path) -> None:
    def digests(attack: dict[str, Any], way: dict[str, Any]) -> dict[str, str]:
        job = open_job(config(source, tmp_path, attacks=[attack, SMALL], deliveries=[way]), SilentProgress())
        return {label: plans[0].digest for split, label, plans in job.plans("attack") if split == "fit"}

    native = digests(NATIVE, NATIVE_WAY)
    assert "fgsm@jpeg" not in native, "made at the classifier's size, it is no file to deliver natively"
    after = digests(NATIVE, NATIVE_WAY | {"native": False})
    assert {label for label in native if native[label] != after[label]} == {
        *("clean@jpeg", "pgd-native", "pgd-native@jpeg")
    }
    assert digests(NATIVE | {"native": False}, NATIVE_WAY | {"native": False})["pgd-native"] != after["pgd-native"]


@pytest.mark.parametrize(
    ("attack", "way", "told"),
    [
        (NATIVE, {"of": ["pgd-native", "fgsm"]}, "'fgsm', which is made at the classifier's size"),
        (NATIVE | {"native": False}, {}, "through 'jpeg', which is native: give it native = true"),
        (NATIVE | {"name": "files:there", "parameters": {}, "through": None}, {}, "leave through and native out"),
    ],
)
def test_what_is_no_photograph_cannot_be_native(
    source: Path, attack: dict[str, Any], way: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        config(source, source, attacks=[attack, SMALL], deliveries=[NATIVE_WAY | way])
