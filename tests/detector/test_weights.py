"""Weights as people have them go into the net whole, or an error says what fits and what does not."""

from __future__ import annotations

import argparse
import copy
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from torch import Tensor, nn

from detector.classifier import Classifier, load_classifier
from detector.classifier.state_dict import load_into
from detector.classifier.weights import halve_where_lossless, is_weights_file, read_weights
from detector.errors import ClassifierSpecError

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return {name: value.clone() for name, value in tiny.classifier().state_dict().items()}


def shifted(weights: Weights) -> Weights:
    return {name: value + 1 for name, value in weights.items()}


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def within(weights: Weights, wrapper: str) -> Weights:
    """As if the net's blocks alone were wrapped."""
    return {re.sub(r"^(block\d\.)", rf"\1{wrapper}", name): value for name, value in weights.items()}


def loaded(path: Path | str) -> Weights:
    return load_classifier(tiny.SPEC.model_copy(update={"weights": str(path)})).state_dict()


def assert_same(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


class Hyper:
    """Of a project that heatward does not know."""


CHECKPOINTS: dict[str, Callable[[Weights], Any]] = {
    "torchvision's reference": lambda w: {"model": w, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3},
    "timm's": lambda w: {
        "state_dict": w,
        "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {}},
        "metric": 7.0,
    },
    "timm's with its average": lambda w: {"state_dict": w, "state_dict_ema": shifted(w)},
    "YOLO's kind of average": lambda w: {"ema": shifted(w), "net": w},
    "Lightning": lambda w: {
        "state_dict": prefixed(w, "model."),
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.5",
    },
    "Lightning with a loss and metrics": lambda w: {
        "state_dict": prefixed(w, "net.") | {"criterion.weight": torch.ones(4), "accuracy.tp": torch.ones(1)}
    },
    "Lightning with a teacher": lambda w: {"state_dict": prefixed(w, "student.") | prefixed(shifted(w), "teacher.")},
    "AveragedModel": lambda w: prefixed(w, "module.") | {"n_averaged": torch.tensor(5)},
    "DistributedDataParallel around torch.compile": lambda w: prefixed(w, "module._orig_mod."),
    "torch.compile around a block": lambda w: within(w, "_orig_mod."),
    "DistributedDataParallel around a block, in Lightning": lambda w: prefixed(within(w, "module."), "model."),
    "recomputed blocks": lambda w: within(w, "_checkpoint_wrapped_module."),
    "a best accuracy of numpy's, and a path": lambda w: {
        "state_dict": w,
        "best": np.float64(0.9),
        "args": argparse.Namespace(out=Path("runs"), seed=np.int64(3)),
    },
    "an average alone": lambda w: {"model_ema": prefixed(w, "module."), "epoch": 3},
    "deep": lambda w: {"ema_state_dict": {"model": {"state_dict": w}}},
    "an epoch among the tensors": lambda w: {**w, "epoch": 3},
    "extra state in a checkpoint": lambda w: {"model": {**w, "_extra_state": None}, "epoch": 3},
    "a prefix of nobody's": lambda w: prefixed(w, "encoder.q."),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_every_kind(name: str, tmp_path: Path, weights: Weights) -> None:
    torch.save(CHECKPOINTS[name](weights), tmp_path / "last.ckpt")
    assert_same(loaded(tmp_path / "last.ckpt"), weights)


def test_which_weights_are_taken_is_said_and_can_be_chosen(
    tmp_path: Path, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "last.pth.tar"
    torch.save({"state_dict": weights, "state_dict_ema": shifted(weights)}, path)
    assert_same(loaded(path), weights)
    assert "those of 'state_dict', not of 'state_dict_ema'" in caplog.text
    assert_same(loaded(f"{path}#state_dict_ema"), shifted(weights))
    with pytest.raises(ClassifierSpecError, match=r"no state dict 'ema'.*'state_dict', 'state_dict_ema'"):
        loaded(f"{path}#ema")


def test_what_is_left_of_a_checkpoint_is_said(
    tmp_path: Path, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    safetensors.torch.save_file(
        prefixed(weights, "model.") | {"loss.weight": torch.ones(3)}, tmp_path / "a.safetensors"
    )
    assert_same(loaded(tmp_path / "a.safetensors"), weights)
    assert "under 'model.' are the net's; left are loss.weight" in caplog.text


def test_two_nets_in_a_file_are_told_apart(tmp_path: Path, weights: Weights) -> None:
    torch.save(prefixed(weights, "first.") | prefixed(shifted(weights), "second."), tmp_path / "two.pt")
    with pytest.raises(ClassifierSpecError, match=r"more than once, under 'first\.', 'second\.'.*FILE#first\."):
        loaded(tmp_path / "two.pt")
    assert_same(loaded(f"{tmp_path / 'two.pt'}#second."), shifted(weights))
    torch.save({"generator": weights, "discriminator": weights}, tmp_path / "gan.pt")
    with pytest.raises(ClassifierSpecError, match=r"several state dicts \(generator, discriminator\): choose one"):
        loaded(tmp_path / "gan.pt")


def test_a_net_may_have_the_prefix_that_the_file_lacks(weights: Weights) -> None:
    net = nn.Sequential()
    net.add_module("model", tiny.net())
    load_into(net, weights, "weights")
    assert_same(dict(net.get_submodule("model").state_dict()), weights)


def test_names_of_the_nets_own_win_over_a_prefix() -> None:
    """A net may call a part of it "module"."""
    net = nn.Sequential()
    net.add_module("module", nn.Linear(2, 2))
    state = {"module.weight": torch.ones(2, 2), "module.bias": torch.ones(2)}
    load_into(net, state, "weights")
    assert_same(dict(net.state_dict()), state)


def test_buffers_that_a_net_makes_itself_may_still_be_in_the_file() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.register_buffer("index", torch.arange(4), persistent=False)

    old = {**nn.Sequential().state_dict(), "head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}
    load_into(Windows(), old | {"index": torch.arange(4)}, "weights")
    with pytest.raises(ClassifierSpecError, match="1 unexpected: index"):
        load_into(Windows(), old | {"index": torch.arange(4) + 1}, "weights")


# --- refused


def test_nothing_is_loaded_in_part(weights: Weights) -> None:
    net = tiny.net()
    before = copy.deepcopy(net.state_dict())
    lacking = {name: value for name, value in shifted(weights).items() if name != "head.bias"}
    with pytest.raises(ClassifierSpecError, match=r"1 missing: head\.bias; \d+ of the net's \d+ fit"):
        load_into(net, prefixed(lacking, "model."), "weights")
    assert_same(dict(net.state_dict()), dict(before))


def test_the_nearest_name_is_told(weights: Weights) -> None:
    renamed = {name.replace("head.", "heads."): value for name, value in weights.items()}
    with pytest.raises(ClassifierSpecError, match=r"'head\.weight'; did you mean 'heads\.weight'"):
        load_into(tiny.net(), renamed, "weights")


def test_weights_of_another_net_are_called_that(weights: Weights) -> None:
    with pytest.raises(ClassifierSpecError, match="weights of another net"):
        load_into(nn.Linear(3, 3), {f"layer{index}.kernel": torch.ones(2) for index in range(3)}, "weights")


def test_a_head_of_other_classes_is_called_that(weights: Weights) -> None:
    with pytest.raises(ClassifierSpecError, match="its head 'head' has 4 classes and the spec lists 7: list those 4"):
        load_into(tiny.net(classes=7), weights, "weights")


def test_auxiliary_classifiers_that_a_file_lacks() -> None:
    import torchvision

    builder = torchvision.models.googlenet
    lean = builder(weights=None, init_weights=False, num_classes=3, aux_logits=False).state_dict()
    with pytest.raises(ClassifierSpecError, match="aux_logits = false"):
        load_into(builder(weights=None, init_weights=False, num_classes=3), lean, "weights")


@pytest.mark.parametrize("strange", [lambda w: w.to_sparse(), lambda w: w.to("meta")])
def test_tensors_that_cannot_be_copied_are_refused(strange: Callable[[Tensor], Tensor], weights: Weights) -> None:
    with pytest.raises(ClassifierSpecError, match=r"cannot be copied into the net .*plain tensors"):
        load_into(tiny.net(), weights | {"head.weight": strange(weights["head.weight"])}, "weights")


UNREADABLE: dict[str, tuple[Any, str]] = {
    "a whole net": (tiny.TinyNet(8, 4), r"objects of tiny\.Block, tiny\.TinyNet.*\.state_dict\(\), NEW"),
    "a net in a checkpoint": ({"state_dict": {}, "model": tiny.TinyNet(8, 4)}, r'\["state_dict"\], NEW'),
    "Lightning with its own classes": (
        {"state_dict": {"model.weight": torch.ones(1)}, "hyper_parameters": {"config": Hyper()}},
        r'objects of test_weights\.Hyper.*weights_only=False\)\["state_dict"\], NEW',
    ),
    "a net in a dictionary": (
        {"epoch": 3, "model": tiny.TinyNet(8, 4)},
        r'weights_only=False\)\["model"\]\.state_dict\(\), NEW',
    ),
    "arrays": ({"head.weight": np.ones(3)}, r"numpy.*make tensors of its arrays once: .*as_tensor"),
    "no state dict": ({"epoch": 3}, "holds no state dict"),
    "a list": ([torch.ones(1)], "holds no state dict"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_would_need_unpickling_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    content, told = UNREADABLE[name]
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ClassifierSpecError, match=told) as raised:
        read_weights(tmp_path / "net.pt")
    assert "\x1b" not in str(raised.value)


def test_a_program_given_as_weights_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
    with pytest.raises(ClassifierSpecError, match='give it as source = "torchscript:'):
        read_weights(tmp_path / "net.pt")


def test_a_safetensors_file_cut_short_is_refused(tmp_path: Path, weights: Weights) -> None:
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClassifierSpecError, match=r"cannot be read \(.*copied in part"):
        read_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>not found</html>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "Keras"),
        (b"", "is empty"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_people_take_for_weights_is_named(content: bytes, told: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"net{suffix}").write_bytes(content)
    with pytest.raises(ClassifierSpecError, match=f"cannot be read .*{told}"):
        read_weights(tmp_path / f"net{suffix}")


def test_the_content_tells_what_a_file_is_and_not_its_suffix(tmp_path: Path, weights: Weights) -> None:
    safetensors.torch.save_file(weights, tmp_path / "a.BIN")
    torch.save(weights, tmp_path / "b.safetensors")
    for name in ("a.BIN", "b.safetensors"):
        assert_same(loaded(tmp_path / name), weights)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_numbers_that_are_no_weights_are_refused(dtype: torch.dtype, weights: Weights) -> None:
    with pytest.raises(ClassifierSpecError, match=rf"holds {dtype} where the net has torch\.float32 \(head\.weight\)"):
        load_into(tiny.net(), weights | {"head.weight": weights["head.weight"].to(dtype)}, "weights")


@pytest.mark.parametrize(
    "name", ["a.pt", "a.pth", "a.PTH", "a.pth.tar", "a.ckpt", "a.bin", "a.safetensors", "a.pt#ema"]
)
def test_files_are_known_by_their_suffix(name: str) -> None:
    assert is_weights_file(name) and not is_weights_file("IMAGENET1K_V1")


# --- halved


def test_halved_weights_make_the_same_classifier(tiny_classifier: Classifier) -> None:
    rounded = {n: t.half().float() if t.is_floating_point() else t for n, t in tiny_classifier.state_dict().items()}
    halved = halve_where_lossless(rounded)
    assert halved["head.weight"].dtype == torch.float16
    whole, half = load_classifier(tiny.SPEC, state_dict=rounded), load_classifier(tiny.SPEC, state_dict=halved)
    assert whole.fingerprint == half.fingerprint


def test_weights_that_need_their_bits_keep_them() -> None:
    state_dict = {"weight": torch.tensor([1 / 3]), "count": torch.tensor(3), "huge": torch.tensor([1e9])}
    kept = halve_where_lossless(state_dict)
    assert all(torch.equal(kept[name], value) and kept[name].dtype == value.dtype for name, value in state_dict.items())
