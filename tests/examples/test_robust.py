"""Adversarial training of the robust witness: its attacks stay in their ball, and a collapse ends the training."""

import pytest
import ten_classes
import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.architectures import CIFAR10_MEAN, CIFAR10_STD, CifarNet, cifar10_net
from detector.errors import ConfigError
from examples.cifar10.classifier import Recipe, load_net, normalise, save_net, train
from examples.cifar10.robust import Overfitting, adversarial_loss, climb, main, trades_loss

EPS = 8 / 255
WIDTHS = (4, 4, 4)


@pytest.fixture
def images() -> Tensor:
    """(24, 3, 32, 32) uint8, among them black and white pixels."""
    drawn = torch.randint(0, 256, (24, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    drawn[0], drawn[1] = 0, 255
    return drawn


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(24) % 10


@pytest.fixture
def net() -> CifarNet:
    torch.manual_seed(0)
    return cifar10_net(WIDTHS)


def pixels(normalised: Tensor) -> Tensor:
    """Back to [0, 1]."""
    return normalised * torch.tensor(CIFAR10_STD).view(3, 1, 1) + torch.tensor(CIFAR10_MEAN).view(3, 1, 1)


def wrong(labels: Tensor):
    return lambda logits: functional.cross_entropy(logits, labels, reduction="sum")


def test_an_attack_stays_in_its_ball_and_in_the_range_of_pixels(net, images, labels):
    x = normalise(images)
    attacked = climb(net.eval(), x, wrong(labels), eps=EPS, steps=3, alpha=EPS)
    assert (pixels(attacked) - pixels(x)).abs().max() <= EPS + 1e-5
    assert pixels(attacked).min() >= -1e-5 and pixels(attacked).max() <= 1 + 1e-5
    assert not attacked.requires_grad


def test_an_attack_raises_what_it_climbs_and_leaves_the_net_as_it_was(net, images, labels):
    x, objective = normalise(images), wrong(labels)
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    attacked = climb(net, x, objective, eps=EPS, steps=5, alpha=EPS / 2)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    net.eval()
    assert objective(net(attacked)) > objective(net(x))


def test_images_attacked_in_one_step_cost_more_than_clean_ones_and_are_learned_from(net, images, labels):
    x = normalise(images)
    clean = functional.cross_entropy(net(x), labels)
    attacked = adversarial_loss(net, x, labels, eps=EPS, steps=1)
    attacked.backward()
    assert attacked > clean
    assert net.head.weight.grad.abs().max() > 0


def test_the_loop_minimises_the_given_loss_and_asks_the_watch_at_the_full_size_only(images, labels, capsys):
    sides: list[int] = []

    def loss(net: CifarNet, x: Tensor, targets: Tensor) -> Tensor:
        sides.append(x.shape[-1])
        return functional.cross_entropy(net(x), targets)

    def watch(net: CifarNet) -> str:
        return f"after {len(sides)} batches"

    train(images, labels, Recipe(WIDTHS, 1, 2, batch=12), (images, labels), loss=loss, watch=watch)
    assert sides == [24] * 2 + [32] * 4
    said = capsys.readouterr().out
    assert "after 2 " not in said and "after 4 batches" in said and "after 6 batches" in said


def test_a_trained_net_goes_on_from_where_it_is(net, images, labels):
    before = net.head.weight.detach().clone()
    tuned = train(images, labels, Recipe(WIDTHS, 0, 1, batch=24, rate=1e-6), (images, labels), begin=net)
    assert torch.allclose(tuned.head.weight, before, atol=1e-3)
    fresh = train(images, labels, Recipe(WIDTHS, 0, 1, batch=24, rate=1e-6), (images, labels))
    assert not torch.allclose(fresh.head.weight, before, atol=1e-3)


def test_trades_without_an_attack_is_the_loss_of_clean_images(net, images, labels):
    x = normalise(images)
    drawn = trades_loss(net, x, labels, eps=0.0, steps=1, beta=6)
    assert drawn.item() == pytest.approx(functional.cross_entropy(net(x), labels).item(), rel=0.02)  # bfloat16
    assert trades_loss(net, x, labels, eps=EPS, steps=2, beta=6) > drawn


def test_a_net_that_withstands_nothing_any_more_ends_the_training(images, labels):
    class Fixed(nn.Module):
        """Right, or never right."""

        def __init__(self, right: bool) -> None:
            super().__init__()
            self.right = right

        def forward(self, x: Tensor) -> Tensor:
            answer = functional.one_hot(labels if self.right else (labels + 1) % 10, 10).float()
            return answer + 0 * x.sum()

    watch = Overfitting(images, labels, EPS)
    assert watch(Fixed(True)) == "PGD-10 1.000"
    with pytest.raises(ConfigError, match="catastrophic overfitting"):
        watch(Fixed(False))


def test_the_command_writes_a_witness_of_the_classifier(tmp_path, images, capsys):
    ten_classes.write(tmp_path, images, 3)
    torch.manual_seed(0)
    save_net(cifar10_net(), tmp_path / "net.safetensors")
    words = f"--data {tmp_path} --out {tmp_path}/robust.safetensors --witness-of {tmp_path}/net.safetensors"
    main(f"{words} --widths 4 4 4 --held-out 1 --small-epochs 1 --full-epochs 1 --batch 10".split())
    words += f" --begin-with {tmp_path}/robust.safetensors --trades 3 --steps 2"
    main(f"{words} --widths 4 4 4 --held-out 1 --small-epochs 0 --full-epochs 1 --batch 10".split())
    assert "PGD-10" in capsys.readouterr().out
    assert isinstance(load_net(tmp_path / "robust.safetensors", WIDTHS), CifarNet)
