"""The model under guard: every source, frozen, fingerprinted, and errors that say how to mend."""

from __future__ import annotations

import copy
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision import transforms

from detector.classifier import Classifier, ClassifierSpec, Preprocessing, load_classifier
from detector.errors import ClassifierSpecError, LayerNotFoundError, NonFiniteLogitsError

FIVE = ("a", "b", "c", "d", "e")


def changed(**updates: Any) -> ClassifierSpec:
    return ClassifierSpec.model_validate({**tiny.SPEC.model_dump(), **updates})


class RaisingNet(tiny.TinyNet):
    """Fails in its head when `fail` is set."""

    fail = False

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if self.fail:
            raise RuntimeError("no luck")
        return logits


class RoundingNet(tiny.TinyNet):
    """No gradient passes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.round())


def raising_net() -> nn.Module:
    return RaisingNet(8, 4)


def rounding_net() -> nn.Module:
    return RoundingNet(8, 4)


def not_a_net() -> str:
    return "weights"


# --- answers


def test_it_classifies_what_it_learnt(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    logits = tiny_classifier(tiny_images.images)
    assert logits.shape == (64, 4) and logits.dtype == torch.float32
    assert (logits.argmax(1) == tiny_images.labels).float().mean() > 0.95


def test_a_batch_is_as_good_as_its_images_one_by_one(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:5]
    one_by_one = torch.cat([tiny_classifier(image[None]) for image in images])
    torch.testing.assert_close(tiny_classifier(images), one_by_one)


def test_nan_logits_name_the_images(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:3].clone()
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match=r"\[1\] of a batch of 3"):
        tiny_classifier(images)


def test_gradients_are_laid_out_plainly_so_that_attacks_can_view_them(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    images = tiny_images.images[:4].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(tiny_classifier.module(images).sum(), images)
    assert gradient.view(4, -1).norm() > 0


def test_bgr_nets_see_bgr() -> None:
    weights = tiny.trained_weights(steps=1)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    plain = load_classifier(changed(preprocessing={"mean": mean, "std": std}), state_dict=weights)
    swapped = load_classifier(
        changed(preprocessing={"mean": mean, "std": std, "channel_order": "BGR"}), state_dict=weights
    )
    images = tiny.images(4).images
    images[:, 0] *= 0.5
    torch.testing.assert_close(plain(images.flip(1)), swapped(images))
    assert not torch.allclose(plain(images), swapped(images))


# --- prepare


def test_a_prepared_image_is_not_touched_again(tiny_classifier: Classifier) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    prepared = tiny_classifier.prepare(pixels)
    assert prepared.shape == (3, 16, 16) and prepared.dtype == torch.float32
    np.testing.assert_array_equal((prepared * 255).round().byte().permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("size", [(40, 60), (61, 37), (20, 500), (17, 17), (20, 20)])
@pytest.mark.parametrize("resize", [20, (24, 30)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_geometry_is_that_of_torchvision(size: tuple[int, int], resize: Any, interpolation: Any) -> None:
    spec = changed(preprocessing={"resize": resize, "crop": 16, "interpolation": interpolation})
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    reference = transforms.Compose(
        [transforms.Resize(resize, transforms.InterpolationMode(interpolation)), transforms.CenterCrop(16)]
    )(Image.fromarray(pixels))
    prepared = (load_classifier(spec).prepare(pixels) * 255).round().byte().permute(1, 2, 0).numpy()
    difference = abs(prepared.astype(int) - np.asarray(reference).astype(int)).max()
    assert difference == 0 if max(size) < 500 else difference <= 4  # Pillow rounds between its two passes


def test_an_image_of_extreme_shape_costs_little() -> None:
    classifier = load_classifier(changed(preprocessing={"resize": 20, "crop": 16}))
    assert classifier.prepare(np.zeros((1, 3_000_000, 3), np.uint8)).shape == (3, 16, 16)


@pytest.mark.parametrize(
    "preprocessing", [{"crop": 8}, {"resize": 12}, {"resize": (16, 15)}, {"std": (1, 0, 1)}, {"sharpen": True}]
)
def test_preprocessing_that_cannot_be(preprocessing: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(preprocessing=preprocessing)


# --- frozen


def test_asking_for_training_changes_nothing(tiny_images: tiny.TinyImages) -> None:
    classifier = load_classifier(tiny.SPEC, state_dict=tiny.trained_weights(steps=2))
    before = classifier.state_dict()
    logits = classifier(tiny_images.images)
    classifier.module.train()
    logits_after = classifier(tiny_images.images)  # batch norm in training mode would also move its statistics
    assert not classifier.module.training
    torch.testing.assert_close(logits_after, logits, rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_parameters_take_no_gradient(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:2].clone().requires_grad_()
    tiny_classifier(images).sum().backward()
    assert images.grad is not None
    assert all(not p.requires_grad and p.grad is None for p in tiny_classifier.module.parameters())


def test_the_state_dict_is_a_copy(tiny_classifier: Classifier) -> None:
    for value in tiny_classifier.state_dict().values():
        value.zero_()
    assert any(value.any() for value in tiny_classifier.state_dict().values())


def test_loading_leaves_the_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = load_classifier(tiny.SPEC), load_classifier(tiny.SPEC)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.fingerprint == second.fingerprint


# --- activations


def hooks_on(classifier: Classifier) -> int:
    return sum(len(module._forward_hooks) for module in classifier.module.modules())


def test_layers_come_in_order_of_execution(tiny_classifier: Classifier) -> None:
    blocks = [name for name in tiny_classifier.layers if "." not in name]
    assert blocks == ["block1", "block2", "block3"]  # not the 1×1 pool, not the linear head
    assert tiny_classifier.layers.index("block1.conv") < tiny_classifier.layers.index("block1")


def test_activations_hang_on_the_graph(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    images = tiny_images.images[:3]
    layers = ("block3", "block1")
    logits, activations = tiny_classifier.activations(images, layers)
    assert tuple(activations) == layers
    assert activations["block1"].shape == (3, 8, 16, 16)
    torch.testing.assert_close(logits, tiny_classifier(images))
    gradients = torch.autograd.grad(logits[:, 0].sum(), [activations[name] for name in layers])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert not images.requires_grad
    with torch.no_grad():
        detached, _ = tiny_classifier.activations(images, layers)
    assert not detached.requires_grad


def test_the_callers_own_gradient_still_reaches_the_images(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    images = tiny_images.images[:2].clone().requires_grad_()
    logits, activations = tiny_classifier.activations(images, ["block2"])
    torch.autograd.grad(logits.sum(), [images, activations["block2"]])


def test_a_layer_before_an_inplace_relu_keeps_its_own_answer(
    tiny_classifier: Classifier, tiny_images: tiny.TinyImages
) -> None:
    _, activations = tiny_classifier.activations(tiny_images.images[:2], ["block1.norm", "block1.activation"])
    assert activations["block1.norm"].min() < 0
    torch.testing.assert_close(activations["block1.norm"].relu(), activations["block1.activation"])


def test_no_hook_stays(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    tiny_classifier.activations(tiny_images.images[:1], tiny_classifier.layers)
    assert hooks_on(tiny_classifier) == 0
    raising = load_classifier(changed(source="python:test_classifier:raising_net"))
    net: Any = raising.module.net
    net.fail = True
    with pytest.raises(RuntimeError, match="no luck"):
        raising.activations(tiny_images.images[:1], ["block1"])
    assert hooks_on(raising) == 0


def test_an_unknown_layer_names_the_near_ones(tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    with pytest.raises(LayerNotFoundError, match="block3"):
        tiny_classifier.activations(tiny_images.images[:1], ["blok3"])


def test_depths_are_blocks_over_the_whole_net(tiny_classifier: Classifier) -> None:
    assert tiny_classifier.depths(3) == ("block1", "block2", "block3")
    assert tiny_classifier.depths(1) == ("block3",)
    four = tiny_classifier.depths(4)
    assert len(set(four)) == 4 and {"block1", "block2", "block3"} < set(four)
    everything = tiny_classifier.depths(100)
    assert len(everything) == len(set(everything)) <= len(tiny_classifier.layers)


def test_depths_of_known_architectures() -> None:
    resnet = load_classifier(
        ClassifierSpec(source="torchvision:resnet18", input_size=(64, 64), classes=FIVE, arguments={})
    )
    assert resnet.depths(3)[-1] == "layer4"
    assert len(resnet.depths(4)) == 4 and not any("conv" in name for name in resnet.depths(4))
    cifar = load_classifier(
        ClassifierSpec(
            source="python:detector.architectures:cifar10_net",
            arguments={"widths": [4, 8, 8]},
            input_size=(32, 32),
            classes=tuple("0123456789"),
        )
    )
    assert cifar.depths(4) == ("activation", "block1", "block2", "block3")


# --- fingerprint


def test_the_fingerprint_names_weights_preprocessing_and_classes() -> None:
    weights = tiny.trained_weights(steps=1)
    original = load_classifier(tiny.SPEC, state_dict=weights).fingerprint
    assert original == load_classifier(tiny.SPEC, state_dict=copy.deepcopy(weights)).fingerprint
    one_weight = {name: value.clone() for name, value in weights.items()}
    one_weight["head.bias"][2] = one_weight["head.bias"][2].nextafter(torch.tensor(9.0))
    others = [
        load_classifier(tiny.SPEC, state_dict=one_weight),
        load_classifier(changed(classes=tiny.CLASSES[::-1]), state_dict=weights),
        load_classifier(changed(preprocessing={"mean": (0.5, 0.5, 0.50001)}), state_dict=weights),
        load_classifier(changed(preprocessing={"interpolation": "bicubic"}), state_dict=weights),
    ]
    assert len({original, *(other.fingerprint for other in others)}) == 5


def test_the_fingerprint_does_not_know_where_weights_lay(tmp_path: Path) -> None:
    weights = tiny.trained_weights(steps=1)
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "b.pth")
    fingerprints = {
        load_classifier(changed(weights=str(tmp_path / name))).fingerprint for name in ("a.safetensors", "b.pth")
    } | {load_classifier(tiny.SPEC, state_dict=weights).fingerprint}
    assert len(fingerprints) == 1


FINGERPRINT_OF_ZEROS = "070374aa53d6594b78da6163e841711c5f5f647501d3d7e4837b3688f0b467ac"


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    weights = {name: torch.zeros_like(value) for name, value in tiny.net().state_dict().items()}
    assert load_classifier(tiny.SPEC, state_dict=weights).fingerprint == FINGERPRINT_OF_ZEROS


# --- weights


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    weights = tiny.trained_weights(steps=1)
    content: dict[str, Any] = {f"{prefix}{name}": value for name, value in weights.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / "net.pt")
    loaded = load_classifier(changed(weights=str(tmp_path / "net.pt"))).state_dict()
    torch.testing.assert_close(loaded["head.weight"], weights["head.weight"], rtol=0, atol=0)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    weights = tiny.trained_weights(steps=1)
    weights["neck.weight"] = weights.pop("head.weight")
    with pytest.raises(ClassifierSpecError, match=r"1 missing: head\.weight; 1 unexpected: neck\.weight"):
        load_classifier(tiny.SPEC, state_dict=weights)
    with pytest.raises(ClassifierSpecError, match=r"head\.weight is \(4, 16\), the net has \(5, 16\)"):
        load_classifier(changed(classes=FIVE, arguments={"classes": 5}), state_dict=tiny.trained_weights(steps=1))


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"net": tiny.net()}, tmp_path / "whole_model.pt")
    with pytest.raises(ClassifierSpecError, match="state dict"):
        load_classifier(changed(weights=str(tmp_path / "whole_model.pt")))


@pytest.mark.parametrize(
    ("content", "message"), [(b"rubbish", "cannot be read"), (None, "no weights file"), (b"", "cannot be read")]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_weights_file_that_is_none(tmp_path: Path, content: bytes | None, message: str, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClassifierSpecError, match=message):
        load_classifier(changed(weights=str(path)))


def test_unknown_torchvision_weights_list_the_known() -> None:
    spec = ClassifierSpec(source="torchvision:resnet18", weights="IMAGENET", input_size=(32, 32), classes=FIVE)
    with pytest.raises(ClassifierSpecError, match="IMAGENET1K_V1"):
        load_classifier(spec)


def test_weights_that_cannot_be_fetched_say_which_file_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: Any, **_options: Any) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    spec = ClassifierSpec(source="torchvision:resnet18", weights="IMAGENET1K_V1", input_size=(32, 32), classes=FIVE)
    with pytest.raises(ClassifierSpecError, match=r"unreachable.*https://.*\.pth"):
        load_classifier(spec)


def test_an_untrained_library_model_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    load_classifier(ClassifierSpec(source="torchvision:squeezenet1_1", input_size=(32, 32), classes=FIVE))
    assert "untrained" in caplog.text


# --- sources


def test_timm() -> None:
    spec = ClassifierSpec(source="timm:resnet10t", input_size=(32, 32), classes=FIVE)
    classifier = load_classifier(spec)
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert classifier.embeddable and classifier.depths(2)


def test_torchscript(tmp_path: Path, tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    net: Any = copy.deepcopy(tiny_classifier.module.net)
    net.to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, tiny_images.images[:2]).save(str(tmp_path / "net.pt"))
    spec = changed(source=f"torchscript:{tmp_path / 'net.pt'}")
    check_program(load_classifier(spec), tiny_classifier, tiny_images)
    (tmp_path / "moved.pt").write_bytes((tmp_path / "net.pt").read_bytes())
    moved = changed(source=f"torchscript:{tmp_path / 'moved.pt'}")
    assert load_classifier(moved).fingerprint == load_classifier(spec).fingerprint


def test_exported_program(tmp_path: Path, tiny_classifier: Classifier, tiny_images: tiny.TinyImages) -> None:
    net = copy.deepcopy(tiny_classifier.module.net)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (tiny_images.images[:2],), dynamic_shapes=({0: batch},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "net.pt2")
    check_program(load_classifier(changed(source=f"export:{tmp_path / 'net.pt2'}")), tiny_classifier, tiny_images)


class Touches:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_in_an_exported_program_is_not_run(tmp_path: Path) -> None:
    program = torch.export.export(
        tiny.net().eval(), (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    torch.save(Touches(tmp_path / "ran"), tmp_path / "pickle")
    with zipfile.ZipFile(tmp_path / "net.pt2") as sound, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in sound.namelist():
            content = sound.read(name)
            if name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            elif "/weights/" in name:
                content = (tmp_path / "pickle").read_bytes()
            bad.writestr(name, content)
    with pytest.raises(ClassifierSpecError, match="is no exported program"):
        load_classifier(changed(source=f"export:{tmp_path / 'bad.pt2'}"))
    assert not (tmp_path / "ran").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def check_program(program: Classifier, original: Classifier, images: tiny.TinyImages) -> None:
    torch.testing.assert_close(program(images.images), original(images.images), rtol=1e-4, atol=1e-4)
    assert program.differentiable and not program.embeddable and program.layers == () == program.depths()
    program.module.train()
    torch.testing.assert_close(program(images.images), original(images.images), rtol=1e-4, atol=1e-4)
    with pytest.raises(LayerNotFoundError, match="no inner layers"):
        program.activations(images.images, ["block1"])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_program_of_fixed_batch_says_how_to_export(tmp_path: Path, batch: int) -> None:
    program = torch.export.export(tiny.net().eval(), (torch.rand(batch, 3, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ClassifierSpecError, match="dynamic batch dimension"):
        load_classifier(changed(source=f"export:{tmp_path / 'net.pt2'}"))


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"source": "torchvision:resnet81"}, "mean 'resnet18'"),
        ({"source": "timm:resnet10tt"}, "mean 'resnet10t'"),
        ({"source": "timm:hf-hub:someone/model"}, "no model"),
        ({"source": "python:tiny:nett"}, "mean 'net'"),
        ({"source": "python:no_such_module:net"}, "PYTHONPATH"),
        ({"source": "python:broken_module:net"}, "broken_module cannot be imported .ZeroDivisionError: "),
        ({"source": "python:.tiny:net"}, "cannot be imported .TypeError: "),
        ({"source": "python:tiny:net", "arguments": {"depth": 3}}, "depth"),
        ({"source": "python:test_classifier:not_a_net"}, "returned a str"),
        ({"source": "export:nowhere.pt2"}, "no file nowhere.pt2"),
        ({"source": "torchscript:nowhere.pt"}, "no file nowhere.pt"),
        ({"classes": FIVE}, r"\(2, 4\) for two images, expected \(2, 5\)"),
        ({"weights": "pretrained"}, "is no file"),
    ],
)
def test_specs_that_cannot_be_built(
    updates: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClassifierSpecError, match=message):
        load_classifier(changed(**updates))


def test_an_input_size_that_does_not_fit_is_explained() -> None:
    spec = ClassifierSpec(source="timm:vit_tiny_patch16_224", input_size=(32, 32), classes=FIVE)
    with pytest.raises(ClassifierSpecError, match="input_size"):
        load_classifier(spec)


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_a_program_that_is_none(tmp_path: Path, kind: str) -> None:
    (tmp_path / "net.pt2").write_bytes(b"rubbish")
    with pytest.raises(ClassifierSpecError, match="is no"):
        load_classifier(changed(source=f"{kind}:{tmp_path / 'net.pt2'}"))


@pytest.mark.parametrize(
    "updates",
    [
        {"source": "resnet18"},
        {"source": "keras:resnet18"},
        {"classes": ("a", "a")},
        {"classes": ("a",)},
        {"input_size": (0, 16)},
        {"arguments": {"pretrained": True}},
        {"arguments": {"checkpoint_path": "evil.pth"}},
        {"sourze": "python:tiny:net"},
    ],
)
def test_specs_that_cannot_be_written(updates: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(**updates)


@pytest.mark.parametrize("source", ["python:tiny:net", "export:model.pt2", "torchscript:model.pt"])
def test_a_bundle_may_run_no_code_that_is_not_allowed(source: str) -> None:
    with pytest.raises(ClassifierSpecError, match=r"which is not trusted: .*--trusted .* allow="):
        load_classifier(changed(source=source), allow=())


def test_allowed_code_is_named_exactly_or_by_its_package() -> None:
    with pytest.raises(ClassifierSpecError, match="not trusted"):
        load_classifier(tiny.SPEC, allow=("tin",))
    load_classifier(tiny.SPEC, allow=("tiny",))
    with pytest.raises(ClassifierSpecError, match="no file"):
        load_classifier(changed(source="export:model.pt2"), allow=("model.pt2",))


def test_a_net_without_gradients_is_noticed(tiny_classifier: Classifier) -> None:
    assert tiny_classifier.differentiable
    assert not load_classifier(changed(source="python:test_classifier:rounding_net")).differentiable


def test_a_spec_survives_json() -> None:
    assert ClassifierSpec.model_validate_json(tiny.SPEC.model_dump_json()) == tiny.SPEC
    assert Preprocessing() == Preprocessing.model_validate({})
