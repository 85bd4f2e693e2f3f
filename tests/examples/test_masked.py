"""Learning under masks: what is hidden is hidden, the rest stays, and the command tunes a classifier with it."""

from dataclasses import replace

import pytest
import ten_classes
import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.architectures import CifarNet, cifar10_net
from detector.evidence.covering import Covering
from detector.settings import PatchSettings
from examples.cifar10 import classifier, masked
from examples.cifar10.classifier import load_net, main, normalise, save_net
from examples.cifar10.masked import UnderMasks, hide, masked_loss, windows

WIDTHS = (4, 4, 4)
AREAS = (0.01, 0.05)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (24, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def net() -> CifarNet:
    torch.manual_seed(0)
    return cifar10_net(WIDTHS)


def test_each_image_loses_its_own_window_and_nothing_else(images):
    x, choice = normalise(images[:3]), windows((32, 32), AREAS)
    drawn = torch.tensor([0, -1, len(choice) - 1])
    hidden = hide(x, choice, drawn)
    assert torch.equal(hidden[1], x[1])
    for row in (0, 2):
        window = choice[int(drawn[row])]
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[window.top : window.bottom, window.left : window.right] = True
        assert torch.equal(hidden[row][:, ~inside], x[row][:, ~inside])
        other = x.clone()
        other[row][:, inside] = 7.0
        assert torch.equal(hide(other, choice, drawn)[row], hidden[row])


def test_the_windows_are_those_of_the_detector_at_any_size_of_the_training():
    for side in (24, 32):
        settings = PatchSettings(area=AREAS[0], masks=masked.COUNTS[0])
        assert set(Covering.of((side, side), settings).windows) <= set(windows((side, side), AREAS))


def test_most_images_are_masked_and_all_are_learned_from(net, images, monkeypatch):
    x, labels = normalise(images), torch.arange(24) % 10
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    loss = masked_loss(net, x, labels, areas=AREAS, smoothing=0.1)
    loss.backward()
    assert net.head.weight.grad.abs().max() > 0
    changed = (seen[0] != x).flatten(1).any(1)
    assert 12 <= changed.sum() < 24
    monkeypatch.setattr(masked, "MASKED", 0.0)
    plain = functional.cross_entropy(net(x), labels, label_smoothing=0.1)
    untouched = masked_loss(net, x, labels, areas=AREAS, smoothing=0.1)
    assert untouched.item() == pytest.approx(plain.item(), rel=0.02)  # bfloat16


def test_the_watch_counts_one_mask_every_mask_and_two():
    covering = Covering.of((32, 32), PatchSettings(area=0.02, masks=16))
    x = torch.zeros(2, 3, 32, 32)
    x[0, :, 0, 0] = 1.0  # one mask of sixteen hides this pixel

    class Corner(nn.Module):
        """Class 1 where the first pixel is white."""

        def forward(self, images: Tensor) -> Tensor:
            white = (images[:, 0, 0, 0] > 0.5).float()
            return torch.stack([0.5 - white, white - 0.5], 1)

    said = UnderMasks(x, torch.tensor([1, 0]), covering)(Corner())
    assert "under one of 16 masks 0.9688, under every one 0.5000" in said  # 31 of 32; the dark image only
    two = float(said.rsplit(" ", 1)[1])
    assert 0.5 < two <= 0.9688


def test_the_command_goes_on_with_a_classifier_under_masks(tmp_path, images, capsys, monkeypatch):
    ten_classes.write(tmp_path, images, 2)
    monkeypatch.setattr(classifier, "WATCHED", 1)
    save_net(cifar10_net(), tmp_path / "net.safetensors")
    monkeypatch.setattr(classifier, "FURTHER", replace(classifier.FURTHER, full_epochs=1, batch=10))
    words = f"--data {tmp_path} --out {tmp_path}/masked.safetensors --begin-with {tmp_path}/net.safetensors"
    main(f"{words} --held-out 1 --masked .01 .02 --threads 1".split())
    said = capsys.readouterr().out
    assert "before: test " in said and said.count("under every one") == 2
    learnt, before = (load_net(tmp_path / f"{name}.safetensors") for name in ("masked", "net"))
    assert not torch.equal(learnt.head.weight, before.head.weight)


@pytest.mark.parametrize("more", ["--masked .02", "--begin-with x.safetensors"])
def test_a_witness_is_not_trained_under_masks(more, capsys):
    with pytest.raises(SystemExit):
        main(f"--witness-of net.safetensors {more}".split())
    assert "--witness-of trains a witness" in capsys.readouterr().err
