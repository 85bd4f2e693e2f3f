"""Attacks that foresee a delivery: the real way forward, a gradient back, and a job that is told so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hidden
import pytest
import tiny
import torch
from safetensors.torch import save_file
from tiny_job import configure, write_source
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import ConfigError
from training.attacks import attack_images
from training.attacks.deliver import deliver
from training.attacks.through import foreseeing, sent
from training.config import CLEAN, AttackSpec
from training.deliveries import Step
from training.job import open_job
from training.progress import SilentProgress
from training.retraining.recipe import _deliveries
from training.shards import read_shard
from training.stages.attack import predict

JPEG = [Step(jpeg={"uniform": [40, 60]})]
PGD = {"eps": "24/255", "alpha": {"of_eps": 0.25}, "steps": 5}
OWN = """
import torch

def signs(classifier, images, labels, eps=24 / 255):
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(classifier(images), labels), images)
    return (images.detach() + eps * gradient.sign()).clamp(0, 1)
"""


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("code")
    (folder / "attacks_through.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    sys.modules.pop("attacks_through", None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return (tiny.images(12, seed=3).images * 255).round().to(torch.uint8)


def spec(name: str, **parameters: Any) -> AttackSpec:
    return AttackSpec(name=name, label="a", family="b", parameters=parameters)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "resize", "crop", "noise"])
def test_what_arrives_is_what_is_delivered_and_has_a_gradient(kind: str, pixels: Tensor) -> None:
    step = Step(**{kind: {"jpeg": 60, "webp": 60, "resize": 0.6, "crop": 0.8, "noise": "4/255"}[kind]})
    images = (pixels / 255).requires_grad_()
    arrived = sent(images, [step], seed=4)
    assert torch.equal(arrived, deliver(pixels, [step], seed=4) / 255)
    (gradient,) = torch.autograd.grad(arrived.sum(), images)
    assert gradient.sum() == pytest.approx(gradient.numel(), rel=0.01), (
        "brighter by so much, it arrives as much brighter"
    )


@pytest.mark.parametrize("step", [Step(crop=0.7), Step(resize=0.5)], ids=["crop", "resize"])
def test_the_gradient_of_a_resize_or_crop_is_that_of_one(step: Step) -> None:
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5), (32, 32), mode="bicubic").clamp(0.3, 0.7)
    change = torch.nn.functional.interpolate(torch.randn(1, 3, 16, 16), (32, 32), mode="bicubic") * 0.05
    images.requires_grad_()
    there = sent(images, [step], seed=4)
    moved = sent((images + change).detach(), [step], seed=4) - there.detach()
    (gradient,) = torch.autograd.grad((there * moved).sum(), images)
    expected = float(moved.square().sum())
    assert float((gradient * change).sum()) == pytest.approx(expected, rel=0.05)
    assert float((moved * change).sum()) != pytest.approx(expected, rel=0.1), "straight through would say this"


def test_the_part_that_a_crop_throws_away_gets_no_gradient(pixels: Tensor) -> None:
    images = (pixels[:1] / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(sent(images, [Step(crop=0.5)], seed=4).sum(), images)
    assert (gradient.abs().sum(1) > 0).sum() == 8 * 8


def test_each_pass_draws_anew_as_the_seed_says(tiny_classifier: Classifier, pixels: Tensor) -> None:
    behind = foreseeing(tiny_classifier, [Step(crop={"uniform": [0.5, 0.9]})])

    def passes() -> list[Tensor]:
        torch.manual_seed(2)
        return [behind(pixels / 255) for _ in range(2)]

    first, second = passes()
    assert not torch.equal(first, second)
    assert all(torch.equal(one, other) for one, other in zip((first, second), passes(), strict=True))
    assert foreseeing(tiny_classifier, []) is tiny_classifier


ATTACKS = [
    spec("PGD", **PGD),
    spec("MIFGSM", **PGD),
    spec("Square", eps="40/255", n_queries=40),
    spec("Manual", kind="contrast"),
    spec("attacks_through:signs"),
    spec("foolbox:LinfPGD", eps="24/255", rel_stepsize=0.25, steps=5),
    spec("art:ProjectedGradientDescent", eps="24/255", eps_step={"of_eps": 0.25}, max_iter=5),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_kind_of_attack_is_made_through_a_delivery(
    attack: AttackSpec, tiny_classifier: Classifier, pixels: Tensor
) -> None:
    kind = attack.name.partition(":")[0]
    if kind in ("foolbox", "art"):
        pytest.importorskip(kind, reason="needs the extra of that name", exc_type=ImportError)
    origin = predict(tiny_classifier, pixels, 12)
    behind = foreseeing(tiny_classifier, JPEG)

    def attacked(target: Classifier, seed: int) -> Tensor:
        torch.rand(seed + 1)  # whatever ran before must not matter
        return attack_images(attack, target, pixels, origin, seed=seed, batch_size=8)

    once = attacked(behind, 1)
    assert torch.equal(once, attacked(behind, 1))
    assert not torch.equal(once, attacked(tiny_classifier, 1))
    assert (predict(tiny_classifier, deliver(once, JPEG, seed=9), 12) != origin).any()
    assert not any(module.training for module in tiny_classifier.module.modules())


def test_what_foresees_the_way_survives_it_better(tiny_classifier: Classifier) -> None:
    many = (tiny.images(64, seed=5).images * 255).round().to(torch.uint8)
    origin, way = predict(tiny_classifier, many, 64), [Step(jpeg=15)]
    attack = spec("PGD", eps="12/255", alpha="3/255", steps=10)

    def fooled(target: Classifier) -> float:
        attacked = attack_images(attack, target, many, origin, seed=0, batch_size=64)
        return float((predict(tiny_classifier, deliver(attacked, way, seed=1), 64) != origin).float().mean())

    assert fooled(foreseeing(tiny_classifier, way)) > fooled(tiny_classifier) + 0.1


JPEG_WAY: dict[str, Any] = {"label": "jpeg", "steps": [{"jpeg": {"uniform": [60, 98]}}]}
THROUGH: dict[str, Any] = {
    "name": "PGD",
    "label": "pgd-through",
    "family": "iterative",
    "parameters": PGD,
    "through": "jpeg",
}
PLAIN: dict[str, Any] = {name: value for name, value in THROUGH.items() if name != "through"} | {"label": "pgd"}


def digests(source: Path, **changes: Any) -> dict[str, list[str]]:
    job = open_job(configure(source, source, **changes), SilentProgress())
    return {label: [plan.digest for plan in plans] for split, label, plans in job.plans("attack") if split == "fit"}


def test_a_job_makes_attacks_through_a_delivery_and_delivers_them(source: Path, tmp_path: Path) -> None:
    config = configure(source, tmp_path, attacks=[THROUGH], deliveries=[JPEG_WAY])
    job = open_job(config, SilentProgress())
    labels = (CLEAN, "pgd-through", "pgd-through@jpeg")
    plans = [job.plan("attack", "test", label)[0] for label in labels]
    list(job.runner.run(plans))
    clean, made, delivered = (read_shard(plan.path) for plan in plans)
    behind, seed = foreseeing(job.classifier, config.deliveries[0].steps), plans[1].seed
    again = attack_images(config.attacks[0], behind, clean["images"], clean["origin"], seed=seed, batch_size=8)
    assert torch.equal(made["images"], again)
    assert torch.equal(made["prediction"], predict(job.classifier, made["images"], 8)), "before it is delivered"
    assert torch.equal(delivered["images"], deliver(made["images"], config.deliveries[0].steps, seed=plans[2].seed))


def test_what_an_attack_foresees_is_part_of_its_digest(source: Path) -> None:
    before = digests(source, attacks=[PLAIN, THROUGH], deliveries=[JPEG_WAY])
    other = JPEG_WAY | {"steps": [{"jpeg": 60}]}
    after = digests(source, attacks=[PLAIN, THROUGH], deliveries=[other])
    assert {label for label in before if before[label] != after[label]} == {
        *("clean@jpeg", "pgd@jpeg", "pgd-through", "pgd-through@jpeg")
    }
    bare = digests(source, attacks=[PLAIN, {**THROUGH, "through": None}], deliveries=[JPEG_WAY])
    assert bare["pgd-through"] != before["pgd-through"]
    assert bare["pgd"] == before["pgd"]
    assert digests(source, attacks=[PLAIN])["pgd"] == before["pgd"], "of nothing that is foreseen, nothing is told"


@pytest.mark.parametrize(
    ("attack", "ways", "told"),
    [
        ({}, [JPEG_WAY | {"label": "jpg"}], "through delivery 'jpeg', and there is none.*did you mean 'jpg'"),
        ({}, [], r"through delivery 'jpeg', and there is none: write \[\[deliveries\]\]"),
        ({}, [JPEG_WAY | {"of": ["pgd"]}], "which is of pgd: add 'pgd-through' to its of"),
        ({"name": "files:there", "parameters": {}}, [JPEG_WAY], "attacked already: leave through and native out"),
    ],
)
def test_what_cannot_be_foreseen_is_an_error(
    source: Path, attack: dict[str, Any], ways: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        configure(source, source, attacks=[PLAIN, THROUGH | attack], deliveries=ways)


def test_without_gradients_queries_go_through_the_delivery_and_the_rest_is_made_on_the_witness(
    source: Path, tmp_path: Path
) -> None:
    save_file(hidden.weights(), str(tmp_path / "hidden.safetensors"))
    classifier = {"source": "python:hidden:net", "weights": str(tmp_path / "hidden.safetensors")}
    square = THROUGH | {"name": "Square", "label": "square", "parameters": {"eps": "32/255", "n_queries": 10}}
    given = {"classifier": classifier, "attacks": [square, THROUGH], "deliveries": [JPEG_WAY]}
    job = open_job(configure(source, tmp_path, **given), SilentProgress())
    pixels = (tiny.images(6).images * 255).round().to(torch.uint8)
    clean = {"images": pixels, "index": torch.arange(6), "truth": torch.zeros(6, dtype=torch.long)}
    clean |= {"origin": predict(job.classifier, pixels, 8)}
    for label in ("square", "pgd-through"):
        (plan, *_) = job.plan("attack", "fit", label)
        made = job.worker.compute(plan, clean)
        assert not torch.equal(made["images"], pixels)


def test_an_adapted_detector_keeps_what_its_attacks_foresee() -> None:
    unseen = JPEG_WAY | {"train": False, "of": ["pgd-through", "unseen"]}
    assert _deliveries([unseen], [THROUGH]) == [unseen | {"of": ["pgd-through"]}]
    assert _deliveries([unseen], [PLAIN]) == []
