"""`hf:FOLDER`: the same answers as transformers gives, without the folder later on, and nothing of its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from detector.bundle.bundle import _packed, _unpacked
from detector.classifier import Classifier, ClassifierSource, ClassifierSpec, Preprocessing, load_classifier
from detector.classifier.sources import complete, known_classes
from detector.classifier.sources.known import Known
from detector.classifier.sources.processor import images_of
from detector.errors import ClassifierSpecError

transformers = pytest.importorskip("transformers", reason='needs transformers: pip install "heatward[hf]"')
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

LABELS = {0: "cat", 1: "dog", 2: "eel"}
NAMED: dict[str, Any] = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PHOTO = np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8)
SQUARE = {"size": {"height": 32, "width": 32}}

MODELS: dict[str, Callable[[], Any]] = {
    "ViT": lambda: transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, **NAMED),
    "BEiT": lambda: transformers.BeitConfig(
        **SMALL, image_size=32, patch_size=8, use_relative_position_bias=True, **NAMED
    ),
    "DINOv2": lambda: transformers.Dinov2Config(**{**SMALL, "mlp_ratio": 2}, image_size=32, patch_size=8, **NAMED),
    "Swin": lambda: transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, **NAMED
    ),
    "ConvNeXT": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, **NAMED),
    "ResNet": lambda: transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", **NAMED
    ),
    "DeiT with a teacher": lambda: transformers.DeiTConfig(
        **SMALL, image_size=32, patch_size=8, **NAMED, architectures=["DeiTForImageClassificationWithTeacher"]
    ),
}


def written(folder: Path, config: Any, processor: Any = None, shard: str = "1GB") -> Any:
    """A folder as `save_pretrained` leaves it; the model that was saved."""
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    (processor or transformers.ViTImageProcessor(**SQUARE)).save_pretrained(folder)
    return model


def rewritten(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """With some entries changed, and those that are None taken out."""
    content = json.loads((folder / name).read_text()) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / name).write_text(json.dumps(kept))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path / "pets", MODELS["ViT"]())
    return tmp_path / "pets"


def stored(classifier: Classifier) -> Classifier:
    """As from a bundle of a stranger: the spec as JSON, the weights as safetensors, no folder."""
    spec = ClassifierSpec.model_validate_json(classifier.spec.model_copy(update={"weights": None}).model_dump_json())
    weights = _unpacked(_packed(classifier.state_dict(), half=False), "classifier", Path("bundle"))
    return load_classifier(spec, state_dict=weights, allow=())


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_as_transformers_does_and_a_bundle_needs_no_folder(name: str, tmp_path: Path) -> None:
    model = written(tmp_path / "pets", MODELS[name]())
    classifier = load_classifier(ClassifierSource(source=f"hf:{tmp_path / 'pets'}"))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "pets")
    with torch.no_grad():
        own = model(**processor(images=Image.fromarray(PHOTO), return_tensors="pt")).logits
    torch.testing.assert_close(classifier(classifier.prepare(PHOTO)[None]), own, atol=2e-3, rtol=1e-2)
    assert classifier.classes == ("cat", "dog", "eel") and classifier.input_size == (32, 32)
    assert classifier.embeddable and classifier.differentiable
    again = stored(classifier)
    assert again.fingerprint == classifier.fingerprint
    torch.testing.assert_close(again(torch.ones(1, 3, 32, 32)), classifier(torch.ones(1, 3, 32, 32)))
    assert str(tmp_path) not in again.spec.model_dump_json() and again.spec.source == "hf:pets"


PROCESSORS: dict[str, Callable[[], Any]] = {
    "ViT": lambda: transformers.ViTImageProcessor(size={"height": 40, "width": 48}),
    "DeiT": lambda: transformers.DeiTImageProcessor(),
    "BiT, as DINOv2's": lambda: transformers.BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, image_mean=[0.1, 0.2, 0.3]
    ),
    "ConvNeXT that crops": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
    "ConvNeXT that squashes": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "EfficientNet": lambda: transformers.EfficientNetImageProcessor(),
    "EfficientNet around 0": lambda: transformers.EfficientNetImageProcessor(
        rescale_factor=1 / 127.5, rescale_offset=True, include_top=False
    ),
    "LeViT": lambda: transformers.LevitImageProcessor(),
    "MobileViT, which is BGR": lambda: transformers.MobileViTImageProcessor(
        size={"shortest_edge": 288}, crop_size={"height": 256, "width": 256}
    ),
    "PoolFormer": lambda: transformers.PoolFormerImageProcessor(),
    "raw pixels": lambda: transformers.ViTImageProcessor(do_rescale=False, do_normalize=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_the_processor_makes_of_a_photograph_is_made_here(name: str, tmp_path: Path) -> None:
    from detector.classifier.preprocessing import Normalized, fit_to, to_images

    processor = PROCESSORS[name]()
    processor.save_pretrained(tmp_path)
    known = images_of(tmp_path, Known("hf:x"), "hf:x")
    assert known.input_size is not None and known.preprocessing is not None
    side = 300
    photo = np.asarray(Image.fromarray(PHOTO).resize((side * 67 // 45, side), Image.Resampling.BICUBIC))
    own = processor(images=Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    pixels = torch.tensor(fit_to(photo, known.input_size, known.preprocessing))[None]
    given = Normalized(torch.nn.Identity(), known.preprocessing)(to_images(pixels))
    assert given.shape == own.shape
    black, white = (
        Normalized(torch.nn.Identity(), known.preprocessing)(torch.full((1, 3, 1, 1), v)) for v in (0.0, 1.0)
    )
    assert ((given - own) / (white - black)).abs().mean() < 0.01


def test_the_processors_own_digits_are_kept(tmp_path: Path) -> None:
    transformers.LevitImageProcessor().save_pretrained(tmp_path)
    assert images_of(tmp_path, Known("hf:x"), "hf:x").preprocessing == Preprocessing(
        resize=256, crop=(224, 224), interpolation="bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


def test_what_a_person_writes_wins(folder: Path) -> None:
    spec = complete(ClassifierSource(source=f"hf:{folder}", classes=("x", "y", "z")), ("no", "such", "names"))
    assert spec.classes == ("x", "y", "z")
    own = Preprocessing(resize=40, crop=32)
    spec = complete(ClassifierSource(source=f"hf:{folder}", preprocessing=own, input_size=(32, 32)))
    assert spec.preprocessing == own and spec.classes == ("cat", "dog", "eel")


def test_another_size_sees_the_same_part_of_a_photograph(tmp_path: Path) -> None:
    processor = transformers.BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    written(tmp_path, MODELS["ResNet"](), processor)
    spec = complete(ClassifierSource(source=f"hf:{tmp_path}", input_size=(112, 112)))
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (128, (112, 112))


def test_weights_of_a_file_win(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save({"state_dict": {f"model.{name}": value + 1 for name, value in weights.items()}}, folder / "tuned.ckpt")
    source = ClassifierSource(source=f"hf:{folder}", weights=str(folder / "tuned.ckpt"))
    bias = load_classifier(source).state_dict()["classifier.bias"]
    torch.testing.assert_close(bias, weights["classifier.bias"] + 1)


@pytest.mark.parametrize("left", [{}, {"loss.weight": torch.ones(2)}])
def test_weights_in_a_file_may_have_a_prefix(folder: Path, left: dict[str, torch.Tensor]) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    plain = load_classifier(ClassifierSource(source=f"hf:{folder}")).fingerprint
    safetensors.torch.save_file(
        {f"model.{name}": value for name, value in weights.items()} | left, folder / "a.safetensors"
    )
    source = ClassifierSource(source=f"hf:{folder}", weights=str(folder / "a.safetensors"))
    assert load_classifier(source).fingerprint == plain


def test_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    model = written(tmp_path, MODELS["ViT"](), shard="10KB")
    assert not (tmp_path / "model.safetensors").exists()
    weights = load_classifier(ClassifierSource(source=f"hf:{tmp_path}")).state_dict()
    torch.testing.assert_close(weights, dict(model.state_dict()))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ClassifierSpecError, match="no weight_map"):
        load_classifier(ClassifierSource(source=f"hf:{tmp_path}"))


def test_names_that_nobody_gave_are_no_names(folder: Path) -> None:
    rewritten(folder, id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    source = ClassifierSource(source=f"hf:{folder}")
    assert known_classes(source) is None
    assert complete(source, ("x", "y", "z")).classes == ("x", "y", "z")


def test_pickled_weights_are_read_as_weights_only(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    plain = load_classifier(ClassifierSource(source=f"hf:{folder}")).fingerprint
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert load_classifier(ClassifierSource(source=f"hf:{folder}")).fingerprint == plain
    torch.save({"net": torch.nn.Linear(2, 2)}, folder / "pytorch_model.bin")
    with pytest.raises(ClassifierSpecError, match="cannot be read"):
        load_classifier(ClassifierSource(source=f"hf:{folder}"))


# --- refused


def without_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def damaged(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def backbone(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "classifier" not in name}
    safetensors.torch.save_file(kept, folder / "model.safetensors", {"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no processor": (without_processor, r"no preprocessor_config\.json.*give input_size .*\[classifier\.preprocess"),
    "no configuration": (lambda f: (f / "config.json").unlink(), r"is no model: it has no config\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no model\.safetensors"),
    "damaged weights": (damaged, r"cannot be read .*copy it again"),
    "damaged configuration": (lambda f: (f / "config.json").write_text("{"), r"config\.json cannot be read"),
    "damaged processor": (lambda f: (f / "preprocessor_config.json").write_text("{"), "cannot be opened"),
    "a backbone without a head": (backbone, r"do not fill the net \(2 missing: classifier.*never trained"),
    "other classes": (lambda f: rewritten(f, id2label={"0": "a", "1": "b"}), "do not fill the net .*another shape"),
    "a language model": (lambda f: rewritten(f, model_type="bert"), "no image classifier of the model_type 'bert'"),
    "an unknown type": (lambda f: rewritten(f, model_type="swim"), "did you mean 'swin'"),
    "its own code": (
        lambda f: rewritten(f, model_type="mine", auto_map={"AutoModelForImageClassification": "mine.Net"}),
        "code that it brings along.*does not run",
    ),
    "several labels": (
        lambda f: rewritten(f, problem_type="multi_label_classification"),
        "several labels an image",
    ),
    "numbers in place of classes": (lambda f: rewritten(f, problem_type="regression"), "estimates numbers .*no class"),
    "timm's": (lambda f: rewritten(f, model_type=None, architecture="resnet18"), 'write source = "timm:local-dir:'),
    "code for its attention": (
        lambda f: rewritten(f, attn_implementation="someone/kernel"),
        r"attn_implementation.*not allowed.*take them out of the model's config\.json",
    ),
    "a setting that does not fit": (
        lambda f: rewritten(f, hidden_act="mine"),
        "could not be built from its config",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_cannot_be_used_says_why(name: str, folder: Path) -> None:
    breaks, told = BROKEN[name]
    breaks(folder)
    with pytest.raises(ClassifierSpecError, match=told):
        load_classifier(ClassifierSource(source=f"hf:{folder}"))


def test_a_misspelt_argument_is_named(folder: Path) -> None:
    with pytest.raises(ClassifierSpecError, match="'hidden_sise' is none; did you mean 'hidden_size'"):
        load_classifier(ClassifierSource(source=f"hf:{folder}", arguments={"hidden_sise": 8}))


def test_classes_that_do_not_fit_the_head_are_named(folder: Path) -> None:
    with pytest.raises(ClassifierSpecError, match=r"expected logits \(2, 2\).*as many classes"):
        load_classifier(ClassifierSource(source=f"hf:{folder}", classes=("cat", "dog")))


def test_a_stranger_may_not_have_code_fetched() -> None:
    attempts: list[dict[str, Any]] = [{"auto_map": {}}, {"backbone_config": {"attn_implementation": "someone/kernel"}}]
    for arguments in attempts:
        with pytest.raises(ValueError, match="not allowed"):
            ClassifierSpec(
                source="hf:x", input_size=(8, 8), classes=("a", "b"), arguments={"model_type": "vit", **arguments}
            )


def test_a_name_that_is_neither_folder_nor_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ClassifierSpecError, match=r"no folder nobody/nothing, and the local cache.*hub = true"):
        complete(ClassifierSource(source="hf:nobody/nothing"))


def test_a_spec_alone_says_how_to_complete_it(folder: Path) -> None:
    with pytest.raises(ClassifierSpecError, match="give it as a ClassifierSource"):
        load_classifier(ClassifierSpec(source=f"hf:{folder}", input_size=(32, 32), classes=("a", "b", "c")))
