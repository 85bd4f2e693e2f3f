"""A source fills in what a person leaves out, and a bundle's spec builds the same classifier without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from pydantic import ValidationError
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from detector.classifier import Classifier, ClassifierSource, ClassifierSpec, Preprocessing, load_classifier
from detector.classifier.sources import complete, known_classes
from detector.errors import ClassifierSpecError

FIVE = ("a", "b", "c", "d", "e")
PHOTO = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)


def assert_prepared_as(spec: ClassifierSpec, transform: Any) -> None:
    """What the net gets of a photograph is what its own transform makes."""
    from detector.classifier.preprocessing import Normalized, fit_to, to_images

    pixels = torch.tensor(fit_to(PHOTO, spec.input_size, spec.preprocessing))[None]
    given = Normalized(torch.nn.Identity(), spec.preprocessing)(to_images(pixels))
    torch.testing.assert_close(given[0], transform(Image.fromarray(PHOTO)), atol=1e-5, rtol=1e-4)


def same_without_the_source(classifier: Classifier) -> Classifier:
    """As from a bundle: spec and state dict alone, from a stranger."""
    stored = ClassifierSpec.model_validate_json(classifier.spec.model_copy(update={"weights": None}).model_dump_json())
    again = load_classifier(stored, state_dict=classifier.state_dict(), allow=())
    assert again.fingerprint == classifier.fingerprint
    images = torch.rand(2, 3, *classifier.input_size)
    torch.testing.assert_close(again(images), classifier(images))
    return again


# --- torchvision


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "inception_v3", "swin_v2_t"])
def test_torchvision_gives_the_transforms_of_its_weights(name: str) -> None:
    spec = complete(ClassifierSource(source=f"torchvision:{name}", weights="IMAGENET1K_V1"))
    member = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    assert_prepared_as(spec, member.transforms())
    assert len(spec.classes) == 1000 == len({*spec.classes}) and spec.classes[1] == "goldfish"


def test_torchvision_gives_its_own_transforms_to_a_file_of_weights() -> None:
    described = ClassifierSource(source="torchvision:resnet18", weights="mine.pt", classes=FIVE)
    spec = complete(described)
    assert (spec.input_size, spec.preprocessing.resize, spec.preprocessing.mean[0]) == ((224, 224), 256, 0.485)
    assert (
        spec.classes == FIVE and known_classes(ClassifierSource(source="torchvision:resnet18", weights="a.pt")) is None
    )
    with pytest.raises(ClassifierSpecError, match="does not know the names of its classes"):
        complete(described.model_copy(update={"classes": None}))


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18"])
def test_a_size_without_preprocessing_means_what_it_always_meant(source: str, caplog: pytest.LogCaptureFixture) -> None:
    spec = complete(ClassifierSource(source=source, input_size=(64, 64), classes=FIVE))
    assert spec == ClassifierSpec(source=source, input_size=(64, 64), classes=FIVE)
    assert spec.preprocessing == Preprocessing()
    assert "pixels in [0, 1]. Its own is" in caplog.text and "0.485" in caplog.text


def test_a_name_of_weights_that_torchvision_does_not_have() -> None:
    with pytest.raises(ClassifierSpecError, match="no weights 'IMAGENET1K_V9' for resnet18: it has IMAGENET1K_V1"):
        complete(ClassifierSource(source="torchvision:resnet18", weights="IMAGENET1K_V9"))


def test_what_a_person_writes_wins() -> None:
    own = Preprocessing(mean=(0.5, 0.5, 0.5))
    written = {"source": "torchvision:resnet18", "weights": "IMAGENET1K_V1", "preprocessing": own, "classes": FIVE}
    spec = complete(ClassifierSource(**written, output="logits"))
    assert (spec.preprocessing, spec.classes, spec.input_size, spec.output) == (own, FIVE, (224, 224), "logits")


def test_published_weights_that_change_the_normalisation_do_so_in_a_bundle() -> None:
    spec = complete(ClassifierSource(source="torchvision:googlenet", weights="IMAGENET1K_V1"))
    assert spec.arguments == {"transform_input": True}


# --- timm


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_tiny_patch16_224", "convnext_tiny.in12k_ft_in1k_384"])
def test_timm_gives_its_own_transform(name: str) -> None:
    spec = complete(ClassifierSource(source=f"timm:{name}", weights="mine.safetensors", classes=FIVE))
    pretrained: Any = timm.models.get_pretrained_cfg(name)
    config = resolve_data_config({}, pretrained_cfg=pretrained.to_dict())
    assert_prepared_as(spec, create_transform(**config))


def test_timm_of_an_unknown_tag_or_of_no_name() -> None:
    for name, told in (
        ("resnet18.a9_in1k", r"Invalid pretrained tag .*list_pretrained\('resnet18\*'\)"),
        ("owner/model", "timm:hf-hub:owner/model"),
    ):
        with pytest.raises(ClassifierSpecError, match=told):
            complete(ClassifierSource(source=f"timm:{name}", classes=FIVE))


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    """As timm's `save_for_hf` leaves it."""
    net: Any = timm.create_model("resnet10t", num_classes=3)
    net.pretrained_cfg = {**net.pretrained_cfg, "input_size": (3, 64, 64), "mean": (0.1, 0.2, 0.3), "crop_pct": 0.5}
    timm.models.save_for_hf(
        net, str(tmp_path / "mine"), model_config={"label_names": ["x", "y", "x"]}, safe_serialization=True
    )
    return tmp_path / "mine"


def test_a_folder_of_timms_is_read_once(timm_folder: Path) -> None:
    classifier = load_classifier(ClassifierSource(source=f"timm:local-dir:{timm_folder}"))
    spec = classifier.spec
    assert (spec.source, spec.classes, spec.input_size) == ("timm:resnet10t", ("x", "y", "x (2)"), (64, 64))
    assert (spec.preprocessing.resize, spec.preprocessing.mean) == (128, (0.1, 0.2, 0.3))
    own = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    images = torch.rand(2, 3, 64, 64)
    normalised = (images - classifier.module.mean) / classifier.module.std
    torch.testing.assert_close(classifier(images), own(normalised), atol=1e-4, rtol=1e-3)
    again = same_without_the_source(classifier)
    assert str(timm_folder) not in again.spec.model_dump_json()


def test_a_model_of_timms_that_is_not_square_keeps_its_colours(tmp_path: Path) -> None:
    net: Any = timm.create_model("resnet10t", num_classes=2)
    net.pretrained_cfg = {**net.pretrained_cfg, "input_size": (3, 32, 64), "mean": (0.1, 0.2, 0.3)}
    timm.models.save_for_hf(net, str(tmp_path / "wide"), model_config={"label_names": ["x", "y"]})
    written = {"source": f"timm:local-dir:{tmp_path / 'wide'}"}
    with pytest.raises(ClassifierSpecError, match=r"its crop_mode 'center' at 32×64 .*give input_size = "):
        complete(ClassifierSource(**written))
    spec = complete(ClassifierSource(**written, input_size=(32, 64)))
    own = spec.preprocessing
    assert (own.mean, own.resize, own.crop) == ((0.1, 0.2, 0.3), None, None)
    assert load_classifier(spec).prepare(np.zeros((90, 40, 3), np.uint8)).shape == (3, 32, 64)


def test_a_grey_model_of_timms_gets_one_channel(tmp_path: Path) -> None:
    net = timm.create_model("resnet10t", num_classes=2, in_chans=1)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "grey.safetensors")
    described = ClassifierSource(
        source="timm:resnet10t",
        weights=str(tmp_path / "grey.safetensors"),
        arguments={"in_chans": 1},
        classes=("cat", "dog"),
    )
    classifier = load_classifier(described)
    assert classifier.spec.preprocessing.channel_order == "grey"
    same_without_the_source(classifier)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is no model: it has no config.json"),
        ("{", "cannot be read"),
        ("[]", "is no JSON object"),
        ('{"model_type": "vit"}', 'try "hf:'),
        ('{"architecture": "resnet10tt"}', "did you mean 'resnet10t'"),
        ('{"architecture": "resnet10t"}', "has no model.safetensors"),
    ],
)
def test_a_folder_that_is_no_model_of_timms(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ClassifierSpecError, match=told):
        complete(ClassifierSource(source=f"timm:local-dir:{tmp_path}", classes=FIVE))


def test_a_name_on_the_hub_is_not_fetched_unless_that_is_allowed(
    tmp_path: Path, timm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        if options["local_files_only"]:
            raise FileNotFoundError("not in the cache")
        return str(timm_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    described = ClassifierSource(source="timm:hf-hub:owner/mine@v2")
    with pytest.raises(ClassifierSpecError, match=r"local cache .* does not have it .*not in the cache.*hub = true"):
        complete(described)
    assert [(each["name"], each["revision"], each["local_files_only"]) for each in asked] == [
        ("owner/mine", "v2", True)
    ]
    assert complete(described.model_copy(update={"hub": True})).classes == ("x", "y", "x (2)")
    assert asked[-1]["local_files_only"] is False and not any("bin" in each for each in asked[-1]["allow_patterns"])


def test_a_name_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, **options: Any) -> str:
        raise OSError("no address associated with hostname")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(ClassifierSpecError, match=r"Hugging Face hub does not have it .*no address.*give its folder"):
        complete(ClassifierSource(source="timm:hf-hub:owner/mine", hub=True))


# --- written


@pytest.mark.parametrize("kind", ["python:a:b", "export:a.pt2", "torchscript:a.pt"])
def test_a_source_that_knows_nothing_needs_a_size(kind: str) -> None:
    with pytest.raises(ValidationError, match=r"give input_size = \[height, width\]"):
        ClassifierSource(source=kind, classes=FIVE)


def test_a_stored_spec_says_everything() -> None:
    with pytest.raises(ValidationError, match="input_size"):
        ClassifierSpec.model_validate({"source": "timm:resnet18", "classes": FIVE})
    with pytest.raises(ValidationError, match="hub"):
        ClassifierSpec.model_validate({"source": "timm:resnet18", "classes": FIVE, "input_size": [8, 8], "hub": True})


def test_a_stored_spec_that_says_nothing_new_reads_as_before() -> None:
    spec = ClassifierSpec(source="timm:resnet18", classes=FIVE, input_size=(8, 8))
    assert "output" not in json.loads(spec.model_dump_json())
    said = spec.model_copy(update={"output": "probabilities"})
    assert ClassifierSpec.model_validate_json(said.model_dump_json()) == said


def test_preprocessing_that_does_not_fit_the_sources_size_is_refused() -> None:
    described = ClassifierSource(
        source="torchvision:resnet18", classes=FIVE, preprocessing=Preprocessing(resize=64, crop=64)
    )
    with pytest.raises(ClassifierSpecError, match=r"crop \(64, 64\) must equal input_size \(224, 224\)"):
        complete(described)
