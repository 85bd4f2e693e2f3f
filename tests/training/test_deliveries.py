"""Images on their way: what each step does, what it leaves, and how a job makes, learns and measures delivered ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_job import configure, write_source
from torch import Tensor

from detector.bundle import load_bundle
from detector.errors import ConfigError
from training.attacks.deliver import deliver
from training.config import CLEAN, TrainingConfig
from training.deliveries import DeliverySpec, Step
from training.evaluation.result import EvaluationResult
from training.job import open_job
from training.pipeline import run
from training.progress import SilentProgress
from training.shards import list_shards, read_shard


def images(count: int = 4, height: int = 24, width: int = 32) -> Tensor:
    """Soft colours: what photographs have and codecs keep."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)


def moved(before: Tensor, after: Tensor) -> float:
    return float((before.float() - after.float()).abs().mean())


@pytest.mark.parametrize(
    "step",
    [{"jpeg": 75}, {"webp": 75}, {"resize": 0.5}, {"resize": 1.7}, {"crop": 0.9}, {"noise": "2/255"}],
    ids=lambda step: "-".join(str(part) for pair in step.items() for part in pair).replace("/", "."),
)
def test_a_step_changes_images_a_little_and_keeps_their_size(step: dict[str, object]) -> None:
    arrived = deliver(images(), [Step(**step)], seed=1)
    assert arrived.dtype == torch.uint8
    assert arrived.shape == images().shape
    assert 0 < moved(images(), arrived) < 40


def test_a_lower_quality_changes_more() -> None:
    low, high = (moved(images(), deliver(images(), [Step(jpeg=quality)], seed=1)) for quality in (30, 95))
    assert low > 2 * high


def test_colours_are_subsampled_as_told() -> None:
    fine, coarse = (deliver(images(), [Step(jpeg=98, subsampling=(each,))], 1) for each in ("4:4:4", "4:2:0"))
    assert moved(images(), fine) < moved(images(), coarse)


def test_what_is_drawn_depends_on_seed_and_row_alone() -> None:
    steps = [Step(crop={"uniform": [0.6, 0.9]}), Step(jpeg={"uniform": [60, 98]}, subsampling=("4:4:4", "4:2:0"))]
    every = deliver(images(), steps, seed=5)
    assert torch.equal(every, deliver(images(), steps, seed=5))
    assert torch.equal(every[:2], deliver(images()[:2], steps, seed=5))
    assert not torch.equal(every, deliver(images(), steps, seed=6))
    same = images(1).expand(4, -1, -1, -1)
    assert len({image.numpy().tobytes() for image in deliver(same, steps, seed=5)}) == 4, "each image has its own draw"


def test_steps_happen_in_their_order() -> None:
    noise, jpeg = Step(noise="16/255"), Step(jpeg=40)
    smooth, rough = (deliver(images(), steps, seed=1).float() for steps in ([noise, jpeg], [jpeg, noise]))
    assert (rough.diff(dim=-1).abs().mean() - smooth.diff(dim=-1).abs().mean()) > 1, "JPEG smooths noise before it"


def test_no_image_is_none() -> None:
    assert deliver(images(0), [Step(jpeg=90)], seed=1).shape == (0, 3, 24, 32)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"jpeg": 0}, "jpeg: expected a number from 1 to 100, got 0"),
        ({"jpeg": 101}, "got 101"),
        ({"jpeg": {"uniform": [0, 90]}}, "got 0"),
        ({"jpeg": {"uniform": [90, 60]}}, "low 90 above high 60"),
        ({"jpeg": {"uniform": [{"choice": [50, 80]}, 70]}}, "low 80 above high 70: write the smaller one first"),
        ({"jpeg": {"of_eps": 0.5}}, "share of epsilon"),
        ({"jpeg": "good"}, "expected a number"),
        ({"jpeg": {"unifrom": [1, 2]}}, "uniform"),
        ({"resize": 0}, "resize: expected a number from 0.1 to 8, got 0"),
        ({"crop": 1.5}, "crop: expected a number from 0.5 to 1"),
        ({"noise": 2}, "noise: expected a number from 0 to 0.251"),
        ({}, "got none"),
        ({"jpeg": 90, "webp": 90}, "got jpeg, webp"),
        ({"webp": 90, "subsampling": ["4:2:0"]}, "subsampling belongs to jpeg"),
        ({"jpeg": 90, "subsampling": ["4:1:1"]}, "4:4:4"),
        ({"jpg": 90}, "jpg"),
    ],
)
def test_a_delivery_that_cannot_be_made_is_an_error(step: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told.replace("(", r"\(")):
        DeliverySpec.model_validate({"label": "way", "steps": [step]})


WAYS: list[dict[str, Any]] = [
    {"label": "jpeg", "steps": [{"jpeg": {"uniform": [60, 98]}, "subsampling": ["4:4:4", "4:2:0"]}]},
    {"label": "jpeg75", "steps": [{"jpeg": 75}], "of": ["pgd"], "train": False, "limit": 12},
]


def test_labels_name_attack_and_way(tmp_path: Path) -> None:
    config = configure(write_source(tmp_path), tmp_path, deliveries=WAYS)
    assert config.labels("calibrate") == (CLEAN, "clean@jpeg")
    assert config.labels("fit") == (CLEAN, "twin-8", "clean@jpeg", "fgsm", "fgsm@jpeg", "pgd", "pgd@jpeg")
    assert config.labels("test") == (
        *(CLEAN, "twin-8", "clean@jpeg", "clean@jpeg75"),
        *("fgsm", "fgsm@jpeg", "pgd", "pgd@jpeg", "pgd@jpeg75"),
    )
    assert config.family_of("pgd@jpeg") == "iterative"
    assert config.family_of("clean@jpeg") == CLEAN
    assert config.limit_of("pgd@jpeg", "fit") == 30, "no more than were attacked"
    assert config.limit_of("pgd@jpeg75", "test") == 12


def test_a_configuration_with_deliveries_reaches_a_worker_elsewhere_as_it_is(tmp_path: Path) -> None:
    config = configure(write_source(tmp_path), tmp_path, deliveries=WAYS)
    assert TrainingConfig(**config.model_dump(mode="json")).deliveries == config.deliveries


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        ([WAYS[0], WAYS[0]], "label 'jpeg' is used twice"),
        ([WAYS[1] | {"of": ["pdg"]}], "attack 'pdg', and there is none.*'pgd'"),
        ([WAYS[0] | {"label": "a@b"}], "@b"),
    ],
)
def test_a_delivery_of_nothing_is_an_error(tmp_path: Path, ways: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configure(write_source(tmp_path), tmp_path, deliveries=ways)


def test_a_job_makes_learns_and_measures_delivered_images(tmp_path: Path) -> None:
    config = configure(write_source(tmp_path), tmp_path, deliveries=WAYS)
    run(config, SilentProgress())
    attacked, delivered = (
        read_shard(list_shards(config.work, "attack", "test", label)[0]) for label in ("pgd", "pgd@jpeg75")
    )
    assert torch.equal(delivered["index"], attacked["index"][:12])
    assert torch.equal(delivered["origin"], attacked["origin"][:12]), "the label before the attack stays the truth"
    assert torch.equal(delivered["linf"], attacked["linf"][:12]), "the attack's size, not the codec's"
    steps = config.deliveries[1].steps
    assert torch.equal(delivered["images"], deliver(attacked["images"][:12], steps, seed=0)), "nothing drawn: no seed"

    result = EvaluationResult.read(config.work / "evaluate")
    found = {attack.label: attack for attack in result.attacks}
    assert [(label, each.seen, each.delivery) for label, each in found.items()] == [
        ("fgsm", True, ""),
        ("fgsm@jpeg", True, "jpeg"),
        ("pgd", True, ""),
        ("pgd@jpeg", True, "jpeg"),
        ("pgd@jpeg75", False, "jpeg75"),
    ]
    assert result.images["calibrate"] == 24, "a photograph counts once, however many ways it arrives"
    assert len(load_bundle(config.out).calibration_scores) == 24
    assert {"clean@jpeg", "clean@jpeg75"} <= set(result.false_positives["heatward"])
    assert {(row.seen, row.delivery) for row in result.macro} == {(True, ""), (True, "jpeg"), (False, "jpeg75")}


def test_another_quality_makes_delivered_shards_anew_and_nothing_else(tmp_path: Path) -> None:
    source = write_source(tmp_path)
    jobs = [
        open_job(configure(source, tmp_path, deliveries=[WAYS[0] | {"steps": [{"jpeg": quality}]}]), SilentProgress())
        for quality in (90, 91)
    ]
    before, after = ({plan.path: plan.digest for _, _, plans in job.plans("attack") for plan in plans} for job in jobs)
    changed = {path.parent.name for path in before if before[path] != after[path]}
    assert changed == {"clean@jpeg", "fgsm@jpeg", "pgd@jpeg"}


def test_other_attack_parameters_make_what_was_delivered_of_it_anew(tmp_path: Path) -> None:
    source = write_source(tmp_path)
    plain = configure(source, tmp_path, deliveries=WAYS)
    other = plain.model_copy(
        update={"attacks": (plain.attacks[0], plain.attacks[1].model_copy(update={"parameters": {"eps": 0.1}}))}
    )
    digests = [
        {plan.path: plan.digest for _, _, plans in open_job(each, SilentProgress()).plans("attack") for plan in plans}
        for each in (plain, other)
    ]
    changed = {path.parent.name for path, digest in digests[0].items() if digests[1][path] != digest}
    assert changed == {"pgd", "pgd@jpeg", "pgd@jpeg75"}
    assert digests[0].keys() == digests[1].keys()
