"""Attacks from libraries and from the user's own functions: checked before anything runs, and as repeatable as ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from detector.classifier import Classifier
from detector.errors import ConfigError, NoGradientError
from training.attacks import attack_images, check_attack, code_of, make_attack
from training.config import AttackSpec
from training.stages.attack import predict

OWN = """
import random
import numpy as np
import torch

def signs(classifier, images, labels, eps=8 / 255, *, flip=False):
    images.requires_grad_()
    loss = torch.nn.functional.cross_entropy(classifier(images), labels)
    (gradient,) = torch.autograd.grad(loss, images)
    images.data.add_(eps * gradient.sign() * (-1 if flip else 1))
    return images.clamp(0, 1)

def drawn(classifier, images, labels, strength):
    classifier.train()
    for parameter in classifier.parameters():
        parameter.requires_grad_(True)
    noise = torch.rand_like(images) + float(np.random.rand()) + random.random()
    return (images + strength * noise).clamp(0, 1)

def seeded(classifier, images, labels, seed):
    return (images + 0.1 * torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)

def answers(classifier, images, labels, what):
    return {
        "none": None,
        "small": images[:, :, :8],
        "bytes": (images * 255).byte(),
        "large": images * 255,
        "nan": torch.where(torch.arange(len(images))[:, None, None, None] == 1, torch.nan, images),
        "double": images.double(),
    }[what]

def fails(classifier, images, labels, **anything):
    raise KeyError("oh")

def short(classifier, images):
    return images

def retrains(classifier, images, labels):
    for parameter in classifier.parameters():
        parameter.data.mul_(2)
    return images

def trains(classifier, images, labels):
    classifier.net.train()
    classifier(images)
    return images

def leaves(classifier, images, labels):
    raise SystemExit(3)
"""


def spec(name: str, **parameters: Any) -> AttackSpec:
    return AttackSpec(name=name, label="a", family="b", parameters=parameters)


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("code")
    (folder / "own_attacks.py").write_text(OWN)
    (folder / "broken_attacks.py").write_text("1 / 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    sys.modules.pop("own_attacks", None)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return (tiny.images(12, seed=3).images * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def origin(tiny_classifier: Classifier, pixels: Tensor) -> Tensor:
    return predict(tiny_classifier, pixels, 5)


@pytest.mark.parametrize("name", ["own_attacks:signs", "python:own_attacks:signs"])
def test_a_function_attacks(name: str, tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    before = pixels.clone()
    attacked = attack_images(
        spec(name, eps={"uniform": ["16/255", "24/255"]}), tiny_classifier, pixels, origin, seed=0, batch_size=12
    )
    assert (predict(tiny_classifier, attacked, 12) != origin).float().mean() > 0.5
    assert 16 <= (attacked.int() - pixels.int()).abs().max() <= 24
    assert torch.equal(before, pixels)
    other = attack_images(spec(name, eps="24/255", flip=True), tiny_classifier, pixels, origin, seed=0, batch_size=12)
    assert torch.equal(predict(tiny_classifier, other, 12), origin)


@pytest.mark.parametrize(("name", "given"), [("drawn", {"strength": 0.1}), ("seeded", {})])
def test_the_seed_decides_what_a_function_draws(
    name: str, given: dict[str, Any], tiny_classifier: Classifier, pixels: Tensor, origin: Tensor
) -> None:
    attack = spec(f"own_attacks:{name}", **given)

    def attacked(seed: int) -> Tensor:
        torch.rand(seed + 1)  # whatever ran before must not matter
        return attack_images(attack, tiny_classifier, pixels, origin, seed=seed, batch_size=5)

    assert torch.equal(attacked(1), attacked(1))
    assert not torch.equal(attacked(1), attacked(2))


def test_the_classifier_stays_frozen(tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    attack_images(spec("own_attacks:drawn", strength=0.1), tiny_classifier, pixels, origin, seed=0, batch_size=12)
    assert not any(module.training for module in tiny_classifier.module.modules())
    assert not any(parameter.requires_grad for parameter in tiny_classifier.module.parameters())


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("none", "own_attacks:answers answered a NoneType, expected a float tensor (12, 3, 16, 16)"),
        ("small", "answered a tensor (12, 3, 8, 16) of torch.float32"),
        ("bytes", "answered a tensor (12, 3, 16, 16) of torch.uint8"),
        ("large", "answered values from "),
        ("nan", "answered NaN or infinity for images [1] of a batch of 12"),
    ],
)
def test_an_answer_that_is_no_image_names_the_function(
    what: str, expected: str, tiny_classifier: Classifier, pixels: Tensor, origin: Tensor
) -> None:
    with pytest.raises(ConfigError) as caught:
        attack_images(spec("own_attacks:answers", what=what), tiny_classifier, pixels, origin, seed=0, batch_size=12)
    assert "attack 'a': own_attacks:answers" in str(caught.value) and expected in str(caught.value)


def test_another_precision_is_fine(tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    same = attack_images(
        spec("own_attacks:answers", what="double"), tiny_classifier, pixels, origin, seed=0, batch_size=12
    )
    assert torch.equal(same, pixels)


def test_a_function_that_raises_says_what(tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"own_attacks:fails failed with \{.any.: 1\}: KeyError: .oh."):
        attack_images(spec("own_attacks:fails", any=1), tiny_classifier, pixels, origin, seed=0, batch_size=12)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (spec("own_attacks:sings"), "no function 'sings'; did you mean 'signs'? (it has answers, drawn, fails, "),
        (spec("own_attacks:signs", epsilon=1), "has no parameter 'epsilon'; did you mean 'eps'?"),
        (spec("own_attacks:signs", flip="yes"), "parameter 'flip': expected bool"),
        (spec("own_attacks:drawn"), "own_attacks:drawn needs the parameter 'strength'"),
        (spec("own_attacks:short"), "takes (classifier, images), expected (classifier, images, labels)"),
        (spec("no_such_module:attack"), "No module named 'no_such_module'"),
        (spec("broken_attacks:attack"), "importing broken_attacks raised ZeroDivisionError"),
        (spec("foolbx:PGD"), "did you mean 'foolbox'?"),
    ],
    ids=str,
)
def test_mistakes_are_found_before_anything_runs(attack: AttackSpec, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_attack(attack)
    assert "attack 'a': " in str(caught.value) and expected in str(caught.value)


def test_a_function_that_was_changed_is_another_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    codes = []
    for name, text in (("one_attack", "x = 1"), ("two_attack", "x = 2")):
        (tmp_path / f"{name}.py").write_text(f"{text}\ndef attack(classifier, images, labels):\n    return images\n")
        codes.append(code_of(spec(f"{name}:attack")))
    assert codes[0] and codes[0] != codes[1]
    assert code_of(spec("PGD")) == ""


@pytest.mark.parametrize(("kind", "module"), [("foolbox", "foolbox"), ("art", "art")])
def test_a_missing_library_names_its_extra(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"attack 'a': {kind}:PGD needs the extra `{kind}`, pip install"):
        check_attack(spec(f"{kind}:PGD"))


FOOLBOX = [
    spec("foolbox:LinfPGD", eps="16/255", rel_stepsize=0.25, steps=5),
    spec("foolbox:LinfDeepFoolAttack"),
    spec("foolbox:BoundaryAttack", steps=10),
]
ART = [
    spec("art:ProjectedGradientDescent", eps="16/255", eps_step={"of_eps": 0.25}, max_iter=5),
    spec("art:SquareAttack", eps="40/255", max_iter=20),
    spec("art:HopSkipJump", max_iter=1, max_eval=20, init_eval=5),
]


@pytest.mark.parametrize("attack", [*FOOLBOX, *ART], ids=lambda attack: attack.name)
def test_a_librarys_attack(attack: AttackSpec, tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    pytest.importorskip(attack.name.partition(":")[0], reason="needs the extra of that name", exc_type=ImportError)
    check_attack(attack, tiny_classifier)

    def attacked(seed: int) -> Tensor:
        torch.rand(seed + 1)  # whatever ran before must not matter
        return attack_images(attack, tiny_classifier, pixels[:6], origin[:6], seed=seed, batch_size=4)

    once = attacked(1)
    assert torch.equal(once, attacked(1))
    assert (predict(tiny_classifier, once, 6) != origin[:6]).any()
    bound = make_attack(attack, tiny_classifier, 0)[1]
    assert (bound is None) == ("eps" not in attack.parameters)
    if bound is not None:
        assert (once.int() - pixels[:6].int()).abs().max() <= round(bound * 255)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (spec("foolbox:LinfPGDD"), "foolbox has no attack 'LinfPGDD'; did you mean 'LinfPGD'?"),
        (spec("foolbox:LinfPGD"), "foolbox:LinfPGD needs the parameter 'eps'"),
        (spec("foolbox:LinfPGD", eps=0.1, step=3), "has no parameter 'step'; did you mean 'steps'?"),
        (spec("art:SquareAtack"), "no evasion attack 'SquareAtack'; did you mean 'SquareAttack'?"),
        (spec("art:SquareAttack", epsilon=1), "has no parameter 'epsilon'; did you mean 'eps'?"),
    ],
    ids=str,
)
def test_a_librarys_names_are_checked(attack: AttackSpec, expected: str) -> None:
    pytest.importorskip(attack.name.partition(":")[0], reason="needs the extra of that name", exc_type=ImportError)
    with pytest.raises(ConfigError) as caught:
        check_attack(attack)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("gradient", "without"),
    [("foolbox:LinfDeepFoolAttack", "foolbox:BoundaryAttack"), ("art:DeepFool", "art:SquareAttack")],
)
def test_which_of_a_library_need_gradients(
    gradient: str, without: str, tiny_classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(gradient.partition(":")[0], reason="needs the extra of that name", exc_type=ImportError)
    monkeypatch.setattr(tiny_classifier, "differentiable", False)
    monkeypatch.setattr(tiny_classifier, "no_gradient", "it rounds")
    check_attack(spec(without), tiny_classifier)
    with pytest.raises(NoGradientError, match="it rounds"):
        check_attack(spec(gradient), tiny_classifier)


@pytest.mark.parametrize("name", ["retrains", "trains"])
def test_a_function_may_not_change_the_classifier(name: str, pixels: Tensor, origin: Tensor) -> None:
    classifier = tiny.classifier()
    before, said = classifier.state_dict(), classifier(tiny.images(4).images)
    with pytest.raises(ConfigError, match=f"{name} changed the classifier"):
        attack_images(spec(f"own_attacks:{name}"), classifier, pixels, origin, seed=1, batch_size=4)
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    assert torch.equal(classifier(tiny.images(4).images), said)  # in eval mode, whatever it was put into


def test_a_function_that_ends_the_process_has_failed(
    tiny_classifier: Classifier, pixels: Tensor, origin: Tensor
) -> None:
    with pytest.raises(ConfigError, match="SystemExit: 3"):
        attack_images(spec("own_attacks:leaves"), tiny_classifier, pixels, origin, seed=1, batch_size=4)


@pytest.mark.parametrize("name", ["RayS", "foolbox:LinfPGD", "art:SquareAttack"])
def test_half_a_step_is_refused_before_anything_runs(name: str) -> None:
    steps = {"RayS": "queries", "foolbox:LinfPGD": "steps", "art:SquareAttack": "max_iter"}[name]
    pytest.importorskip({"foolbox": "foolbox", "art": "art"}.get(name.partition(":")[0], "torch"))
    for wrong in (2.5, {"uniform": [1.25, 1.75]}):
        with pytest.raises(ConfigError, match=f"parameter '{steps}': expected a whole number"):
            check_attack(spec(name, eps="8/255", **{steps: wrong}))
    check_attack(spec(name, eps="8/255", **{steps: 2.0}))
