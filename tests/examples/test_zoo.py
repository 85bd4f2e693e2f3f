import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from examples.zoo import train as zoo
from examples.zoo.train import SCHEDULES, Schedule, fresh, trained
from training.load import load_config

ROOT = Path(__file__).parents[2]
CLASSES = tuple("abcdefghij")


def recipe(name: str) -> Path:
    return ROOT / "examples/zoo" / f"{name}.toml"


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_recipe_builds_a_net_of_ten_classes_that_learns(name: str) -> None:
    net = fresh(load_config(recipe(name)).classifier.spec(CLASSES))
    logits = net(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_nothing_but_the_classifier_differs() -> None:
    contents = {name: tomllib.loads(recipe(name).read_text()) for name in SCHEDULES}
    for name, content in contents.items():
        assert content.pop("work") == f"work/zoo/{name}"
        assert content.pop("out") == f"work/zoo/{name}.heatward"
        assert content.pop("classifier")["weights"] == f"work/zoo/{name}.safetensors"
    first, *others = contents.values()
    assert all(other == first for other in others)


def test_the_attacks_are_those_of_the_embedded_detector() -> None:
    theirs, ours = (load_config(path).attacks for path in (ROOT / "examples/cifar10/config.toml", recipe("vit")))
    assert [attack.model_copy(update={"limit": None}) for attack in theirs] == [
        attack.model_copy(update={"limit": None}) for attack in ours
    ]


def test_images_that_the_classifiers_learned_from_are_kept_from_the_detector() -> None:
    assert load_config(recipe("vit")).images.last == zoo.HELD_OUT


def test_an_interrupted_training_goes_on_to_the_same_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "BATCH", 4)
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(10)[torch.arange(12) % 10]
    test = (images, targets.argmax(1))
    schedule = Schedule(light_epochs=1, epochs=2, rate=0.01, shrink=True)

    def run(name: str) -> nn.Module:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
        trained(net, images, targets, test, schedule, tmp_path / name)
        return net

    def halted(*_: object) -> float:
        if (tmp_path / "halted").exists():
            raise KeyboardInterrupt
        return 0.0

    whole = run("whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(zoo, "right", halted)
        run("halted")
    again = run("halted")
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
