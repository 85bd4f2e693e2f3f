"""The generative model of the CIFAR-10 recipe, and the attack that moves its codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from detector.architectures import cifar10_net
from detector.errors import ConfigError
from examples.cifar10.classifier import save_net
from examples.cifar10.generative import Autoencoder, latent, main, train

IMAGES = (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 153 + 51).round() / 255
LABELS = torch.tensor([0, 0, 1])


def brighter(images: Tensor) -> Tensor:
    """Whether an image is brighter than it was, as logits (B, 2), in thousandths."""
    change = 1000 * (images - IMAGES).mean((1, 2, 3))
    own = torch.where(LABELS == 0, change - 0.1, change + 0.1)  # each is what its label says, by little
    return torch.stack([-own, own], dim=1)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    torch.manual_seed(0)
    net = Autoencoder()
    last = net.decoder[-1]
    assert isinstance(last, nn.ConvTranspose2d)
    with torch.no_grad():
        last.weight.mul_(10)  # a net that learned nothing hardly moves
    save_file(net.state_dict(), tmp_path / "generator.safetensors")
    return str(tmp_path / "generator.safetensors")


def test_moved_codes_change_what_the_classifier_says(weights: str) -> None:
    attacked = latent(brighter, IMAGES, LABELS, weights=weights)
    change = (attacked - IMAGES).mean((1, 2, 3))
    assert brighter(attacked).argmax(1).tolist() == [1, 1, 0]
    assert change[0] > 0 and change[1] > 0 and change[2] < 0
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert torch.allclose(255 * attacked, (255 * attacked).round(), atol=1e-3)


def test_the_first_attempt_that_leads_by_enough_is_kept(weights: str) -> None:
    def size(lead: float) -> float:
        return (latent(brighter, IMAGES, LABELS, lead=lead, weights=weights) - IMAGES).abs().mean().item()

    assert size(0.01) < size(2.0) < size(1e6)


def test_codes_that_may_not_move_leave_the_image(weights: str) -> None:
    assert torch.allclose(latent(brighter, IMAGES, LABELS, radius=0.0, weights=weights), IMAGES, atol=1e-6)


def test_a_model_that_is_not_there_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"python -m examples\.cifar10\.generative --out .*none\.safetensors"):
        latent(brighter, IMAGES, LABELS, weights=str(tmp_path / "none.safetensors"))


def test_training_brings_decodings_near_the_images() -> None:
    torch.manual_seed(0)
    grey = torch.randint(0, 2, (64, 1, 1, 1)) * 200 + 20
    images = grey.expand(64, 3, 32, 32).to(torch.uint8).contiguous()
    net = train(images, epochs=8, batch=16)
    with torch.no_grad():
        error = (net.decode(net.encode(images / 255)[0]) - images / 255).square().mean()
    assert not net.training
    assert error < 0.5 * (images / 255).var()


def test_the_command_writes_a_model_and_tries_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in range(10):
        folder = tmp_path / "train" / str(kind)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (20 * kind, 100, 100 * number)).save(folder / f"{number}.png")
    torch.manual_seed(0)
    save_net(cifar10_net(), tmp_path / "net.safetensors")
    words = f"--data {tmp_path} --classifier {tmp_path}/net.safetensors --held-out 1 --epochs 1 --batch 5"
    for name in ("first", "again"):
        main([*words.split(), "--out", str(tmp_path / f"{name}.safetensors")])
    said = capsys.readouterr().out
    assert "step 2/2" in said
    assert "of 10 held-out images" in said
    assert (tmp_path / "first.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
