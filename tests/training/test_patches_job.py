"""A job that calibrates masks against patches: what its bundle can say, and what it refuses before the long part."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from notes import Notes
from sample_requests import png
from tiny_job import configure, write_source

from detector.bundle import load_bundle, read_manifest
from detector.detector import Detector
from detector.errors import ConfigError
from detector.scoring.patches import answers_under, score_of
from training import pipeline
from training.detectors import load_detector
from training.job import open_job
from training.progress import SilentProgress
from training.retraining.recalibrate import Options, recalibrate
from training.retraining.recipe import recipe_in

PATCHES = {"area": 0.06, "masks": 16}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def place(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained without patches; the bundle of then is kept as plain.heatward. Then with them."""
    place = tmp_path_factory.mktemp("job")
    pipeline.run(configure(source, place), SilentProgress())
    (place / "detector.heatward").rename(place / "plain.heatward")
    progress = Notes()
    pipeline.run(configure(source, place, patches=PATCHES), progress)
    again = [each for each in progress.notes if "made again" in each]
    assert again and not [each for each in again if each.startswith(("attack", "attribute", "fit"))]
    return place


def test_the_bundle_looks_for_patches_as_the_job_would(source: Path, place: Path) -> None:
    served = Detector.from_bundle(place / "detector.heatward", allow=("tiny",))
    own = load_detector(open_job(configure(source, place, patches=PATCHES), SilentProgress()))
    images = tiny.images(12, seed=21).images
    assert {each.patch for each in served.detect(images)} == {None}  # nobody asked
    found = [each.patch for each in served.looking_for_patches().detect(images)]
    assert found == [each.patch for each in own.looking_for_patches().detect(images)]
    assert all(each is not None and 0 < each <= 1 for each in found)
    assert torch.equal(served.certify(images), own.certify(images))
    scores = load_bundle(place / "detector.heatward").patches
    assert scores is not None and len(scores["scores"]) == 24  # of the calibration images


def test_all_else_is_as_it_is_without(place: Path) -> None:
    plain, masked = load_bundle(place / "plain.heatward"), load_bundle(place / "detector.heatward")
    assert plain.patches is None and plain.manifest.patches is None
    assert torch.equal(plain.calibration_scores, masked.calibration_scores)
    files = dict(masked.manifest.files)
    assert files.pop("patches.safetensors")
    same = {name for name in files if plain.manifest.files.get(name) == files[name]}
    assert files.keys() - same == {"manifest.json"}


def test_a_bundle_without_them_is_the_same_bytes_again(source: Path, place: Path) -> None:
    before = (place / "plain.heatward").read_bytes()
    pipeline.run(configure(source, place), SilentProgress())
    after = (place / "detector.heatward").read_bytes()
    pipeline.run(configure(source, place, patches=PATCHES), SilentProgress())
    assert before == after


def test_who_adapts_it_looks_for_the_same_patches(place: Path, tmp_path: Path) -> None:
    recipe = recipe_in(load_bundle(place / "detector.heatward"), tmp_path, ("tiny",))
    assert recipe["patches"] == PATCHES == read_manifest(place / "detector.heatward").patches
    assert "patches" not in recipe_in(load_bundle(place / "plain.heatward"), tmp_path, ("tiny",))


@pytest.mark.parametrize(("share", "left"), [(None, 25), (0.2, 20)])
def test_new_thresholds_are_of_masked_images_too(place: Path, share: float | None, left: int) -> None:
    bundle, images = load_bundle(place / "detector.heatward"), tiny.images(25, seed=77).images
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    files = [(str(number), png(each)) for number, each in enumerate(pixels)]
    options = Options(0.05, share if share is not None else 0.0)
    new, _ = recalibrate(bundle, files, options, SilentProgress(), allow=("tiny",))
    detector = Detector.assemble(bundle, allow=("tiny",))
    assert detector.patches is not None and new.patches is not None
    prepared = torch.stack([detector.classifier.prepare(each) for each in pixels])
    logits = detector.classifier(prepared)
    expected = score_of(answers_under(detector.patches.covering, detector.classifier, prepared), logits.argmax(1))
    assert torch.allclose(new.patches["scores"], expected.double().sort().values[:left], atol=1e-5)
    plain, _ = recalibrate(load_bundle(place / "plain.heatward"), files, options, SilentProgress(), allow=("tiny",))
    assert plain.patches is None


def test_a_bundle_that_was_not_made_for_it_says_so(place: Path) -> None:
    plain = Detector.from_bundle(place / "plain.heatward", allow=("tiny",))
    for ask in (plain.looking_for_patches, lambda: plain.certify(tiny.images(1, seed=1).images)):
        with pytest.raises(ConfigError, match=r"not made to look for patches: train it with a table \[patches\]"):
            ask()
