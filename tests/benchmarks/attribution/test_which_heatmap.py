"""The contest of heatmaps: what counts as a row, what a mask does, what is kept on disk, what the network may see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from benchmarks.attribution import which_heatmap, which_heatmap_maps, which_heatmap_nets
from benchmarks.attribution.which_heatmap_maps import (
    CONTESTANTS,
    SIDE,
    Case,
    Maps,
    compute,
    ranks,
    read_cases,
    resample,
    top_area,
)
from benchmarks.attribution.which_heatmap_nets import Lesson, channels, shape_only
from detector.errors import ConfigError
from detector.heatmaps import Heatmap, gradient
from detector.heatmaps.reference import cover
from training.config import TrainingConfig
from training.job import Job, open_job
from training.progress import SilentProgress
from training.stages import attack

PGD = {"eps": "16/255", "alpha": {"of_eps": 0.25}, "steps": 3}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """100 images of the tiny problem, its classifier, PGD."""
    place = tmp_path_factory.mktemp("contest")
    drawn = tiny.images(100, seed=11)
    for number, (image, label) in enumerate(zip(drawn.images, drawn.labels.tolist(), strict=True)):
        folder = place / "images" / tiny.CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(folder / f"{number:03d}.png")
    save_file(tiny.trained_weights(), str(place / "net.safetensors"))
    classifier = tiny.SPEC.model_dump(include={"source", "input_size", "classes", "preprocessing"})
    config = TrainingConfig.model_validate(
        {
            "work": place / "work",
            "out": place / "detector.heatward",
            "threads": 1,
            "shard_size": 16,
            "batch_size": 8,
            "classifier": {**classifier, "weights": str(place / "net.safetensors")},
            "images": {"source": str(place / "images"), "splits": {"calibrate": 20, "test": 40}},
            "twins": {"sizes": ["8/255"]},
            "attacks": [{"name": "PGD", "label": "pgd", "family": "iterative", "parameters": PGD}],
        }
    )
    opened = open_job(config, SilentProgress())
    attack.run(opened)
    return opened


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images `gradient` was asked about, one number a call."""
    asked: list[int] = []

    def counted(classifier: object, images: Tensor, classes: Tensor | None = None, *, times: float = 1.0) -> Heatmap:
        asked.append(len(images))
        return gradient(classifier, images, classes)  # type: ignore[arg-type]

    monkeypatch.setitem(CONTESTANTS, "gradient", counted)
    return asked


def random_maps(count: int, seed: int, size: float = 1.0) -> Maps:
    maps = size * torch.randn(count, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return Maps(maps, maps.abs(), 0.0)


def random_case(label: str, count: int) -> Case:
    return Case("test", label, torch.zeros(count, 3, 4, 4, dtype=torch.uint8), torch.arange(count), torch.zeros(count))


def test_cases_are_successes_on_right_predictions_with_their_clean_images(job: Job) -> None:
    cases = {(case.split, case.label): case for case in read_cases(job, ["pgd"], "twin-8", {"fit": 9, "test": 99})}
    assert set(cases) == {("fit", "clean"), ("fit", "pgd"), ("test", "clean"), ("test", "pgd"), ("test", "twin-8")}
    assert 0 < len(cases["fit", "pgd"]) <= 9
    truth = {item.index: item.truth for split in job.splits.values() for item in split.items}
    for split in ("fit", "test"):
        clean, attacked = cases[split, "clean"], cases[split, "pgd"]
        assert attacked.origin.tolist() == [truth[index] for index in attacked.index.tolist()]
        assert torch.equal(clean.index[clean.of(attacked.index)], attacked.index)
        now = job.classifier(attacked.images.float() / 255).argmax(1)
        assert (now != attacked.origin).all()
    assert not set(cases["fit", "clean"].index.tolist()) & set(cases["test", "clean"].index.tolist())


def test_maps_are_made_once_and_again_for_other_settings(
    job: Job, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = read_cases(job, ["pgd"], None, {"test": 99})
    first = compute(job, "gradient", cases)
    assert sum(calls) == sum(map(len, cases))
    again = compute(job, "gradient", cases)
    assert sum(calls) == sum(map(len, cases))
    assert torch.equal(first[0].signed, again[0].signed)
    monkeypatch.setattr(CONTESTANTS["gradient"], "__kwdefaults__", {"times": 2.0})  # a default of the method
    compute(job, "gradient", cases)
    assert sum(calls) == 2 * sum(map(len, cases))


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError, match="gradient_times_input"):
        which_heatmap_maps.settings_of("gradients", tiny.classifier())


def test_an_attack_or_twin_that_is_not_there_is_named(job: Job) -> None:
    for wrong in (["--attacks", "cw"], ["--attacks", "pgd", "--twin", "twin-2"]):
        options = which_heatmap.parse(["--config", "c.toml", *wrong])
        with pytest.raises(ConfigError, match=wrong[-1]):
            which_heatmap._complete(options, job.config, large=False)


def test_resampling_keeps_the_mean() -> None:
    maps = torch.rand(2, 4 * SIDE, 4 * SIDE)
    torch.testing.assert_close(resample(maps).mean((1, 2)), maps.mean((1, 2)))
    assert resample(torch.full((1, 4, 4), 3.0)).unique().tolist() == [3.0]


def test_a_map_stands_for_its_largest_part() -> None:
    maps = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) - 5
    maps[:, 4:12, 20:28] += 5  # 64 of 1024 cells, none above 0 elsewhere
    masks = top_area(maps, 64 / 1024)
    torch.testing.assert_close(masks.mean((1, 2)), torch.full((3,), 64 / 1024), atol=0.003, rtol=0)
    assert (masks[:, 5:11, 21:27] > 0.5).all()
    assert masks.amin() >= 0
    assert masks.amax() <= 1
    assert float(top_area(torch.zeros(1, SIDE, SIDE), 0.2).mean()) == pytest.approx(0.2, abs=0.03)


def test_keeping_all_is_the_image_and_deleting_all_is_its_cover() -> None:
    classifier, drawn = tiny.classifier(), tiny.images(12, seed=5)
    pixels = (drawn.images * 255).byte()
    case = Case("test", "pgd", pixels, torch.arange(12), torch.arange(12) % 3)
    found = ranks(classifier, case, torch.ones(12, SIDE, SIDE), batch_size=5)
    images = pixels.float() / 255
    for way, seen in (("keep", images), ("delete", cover(images, "blur"))):
        order = classifier(seen).argsort(1, descending=True)
        expected = (order == case.origin[:, None]).int().argmax(1)
        assert torch.equal(found[way], expected)


def test_the_network_sees_magnitude_unless_shape_alone_is_asked_for() -> None:
    small, large = random_maps(4, seed=0), random_maps(4, seed=0, size=8.0)
    rows = torch.arange(4)
    assert not torch.allclose(channels(small, rows, 1.0), channels(large, rows, 1.0))
    torch.testing.assert_close(channels(shape_only(small), rows, 1.0), channels(shape_only(large), rows, 1.0))


def test_a_lesson_tells_larger_maps_from_smaller_and_equal_ones_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(which_heatmap_nets, "FEWEST_STEPS", 40)
    monkeypatch.setattr(which_heatmap_nets, "SEEDS", 1)

    def auroc(size: float) -> float:
        maps = {
            (split, label): (random_case(label, 60), random_maps(60, seed, size if label == "pgd" else 1.0))
            for seed, (split, label) in enumerate(
                [("fit", "clean"), ("fit", "pgd"), ("test", "clean"), ("test", "pgd")]
            )
        }
        found = which_heatmap_nets.learn(maps, "pgd", [60], None, lambda count: None)  # type: ignore[arg-type]
        return float(found["curve"][-1]["auroc"]["value"])

    assert auroc(3.0) > 0.95
    assert 0.3 < auroc(1.0) < 0.7


def test_a_lesson_pairs_the_rows_of_the_same_source() -> None:
    clean = Case("fit", "clean", torch.zeros(5, 3, 4, 4), torch.tensor([2, 4, 6, 8, 9]), torch.zeros(5))
    attacked = Case("fit", "pgd", torch.zeros(2, 3, 4, 4), torch.tensor([4, 9]), torch.zeros(2))
    maps = {
        (split, case.label): (case, random_maps(len(case), 0))
        for split in ("fit", "test")
        for case in (clean, attacked)
    }
    lesson = Lesson("pgd", maps)  # type: ignore[arg-type]
    assert lesson.pairs["fit"][0][1].tolist() == [1, 4]


def test_the_whole_contest(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(which_heatmap_nets, "FEWEST_STEPS", 3)
    monkeypatch.setattr(which_heatmap_nets, "EPOCHS", 1)
    monkeypatch.setattr(which_heatmap, "load_config", lambda path: job.config)
    told = ["--config", "c.toml", "--methods", "cam", "occlusion", "--attacks", "pgd", "--train", "12"]
    files = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png")]
    options = which_heatmap.parse([*told, *files])
    which_heatmap.run(options)
    said = capsys.readouterr().out
    assert "Grad-CAM" in said
    assert "93.6 %" in said
    result = json.loads((tmp_path / "r.json").read_text())
    found = result["methods"]["cam"]["attacks"]["pgd"]
    assert [point["images"] for point in found["curve"]] == result["sizes"]
    assert (
        result["controls"][which_heatmap_maps.WHOLE]["pgd"]["keep_top1"]["value"] == 0
    )  # every attack changed the prediction
    assert found["keep_top5"]["value"] == 1  # of four classes
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
