"""Attacks keep their promises: the origin label is attacked, epsilon is kept, results are pictures, seeds decide."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pydantic import ValidationError
from torch import Tensor
from torchattacks.attack import Attack

from detector.classifier import Classifier, load_classifier
from detector.errors import ConfigError, DataError, NoGradientError
from training.attacks import ATTACKS, attack_images, check_attack, draw_parameters, make_attack, noise_twin
from training.config import AttackSpec
from training.stages.attack import predict


def spec(name: str, **parameters: Any) -> AttackSpec:
    return AttackSpec(name=name, label="a", family="b", parameters=parameters)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return (tiny.images(12, seed=3).images * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def origin(tiny_classifier: Classifier, pixels: Tensor) -> Tensor:
    return predict(tiny_classifier, pixels, 5)


@pytest.mark.parametrize(
    "attack",
    [
        spec("FGSM", eps="8/255"),
        spec("PGD", eps={"uniform": ["2/255", "16/255"]}, alpha={"of_eps": 0.25}),
        spec("APGD", eps="4.5/255", steps=5),
        spec("Square", eps="40/255", n_queries=40),
        spec("AutoAttack", eps="8/255", version="rand"),
        spec("FAB", eps="8/255", steps=3),
    ],
    ids=lambda attack: attack.name,
)
def test_linf_attacks_stay_within_epsilon(
    attack: AttackSpec, tiny_classifier: Classifier, pixels: Tensor, origin: Tensor
) -> None:
    attacked = attack_images(attack, tiny_classifier, pixels, origin, seed=0, batch_size=7)
    assert attacked.dtype == torch.uint8
    assert attacked.shape == pixels.shape
    largest = {"PGD": 16, "Square": 40, "APGD": 5}.get(attack.name, 8)
    moved = (attacked.int() - pixels.int()).abs().flatten(1).amax(1)
    assert 0 < moved.max() <= largest


@pytest.mark.parametrize("attack", [spec("CW", steps=5), spec("DeepFool"), spec("Pixle", restarts=2)], ids=str)
def test_other_attacks_run_on_the_classifiers_memory_format(
    attack: AttackSpec, tiny_classifier: Classifier, pixels: Tensor, origin: Tensor
) -> None:
    attacked = attack_images(attack, tiny_classifier, pixels.contiguous(memory_format=torch.channels_last), origin,
                             seed=0, batch_size=12)  # fmt: skip
    assert attacked.shape == pixels.shape


def test_the_prediction_is_attacked_not_the_truth(tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    attacked = attack_images(spec("PGD", eps="24/255", alpha={"of_eps": 0.25}), tiny_classifier, pixels, origin, seed=0,
                             batch_size=12)  # fmt: skip
    assert (predict(tiny_classifier, attacked, 12) != origin).float().mean() > 0.5
    # told another label, PGD drives away from that one instead, and the prediction holds
    other = (origin + 1) % 4
    attacked = attack_images(spec("PGD", eps="24/255", alpha={"of_eps": 0.25}), tiny_classifier, pixels, other, seed=0,
                             batch_size=12)  # fmt: skip
    assert (predict(tiny_classifier, attacked, 12) == other).float().mean() < 0.2


@pytest.mark.parametrize("name", ["PGD", "APGD", "Square", "Pixle"])
def test_the_seed_decides(name: str, tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    quicker: dict[str, dict[str, Any]] = {"Square": {"n_queries": 40, "eps": "40/255"}, "Pixle": {"restarts": 1}}
    quick = quicker.get(name, {"steps": 2})

    def attacked(seed: int) -> Tensor:
        torch.rand(seed + 1)  # whatever ran before must not matter
        return attack_images(spec(name, **quick), tiny_classifier, pixels, origin, seed=seed, batch_size=5)

    assert torch.equal(attacked(1), attacked(1))
    assert not torch.equal(attacked(1), attacked(2))


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (spec("PDG"), "no attack is named 'PDG'; did you mean 'PGD'?"),
        (spec("PGD", epsilon=0.1), "PGD has no parameter 'epsilon'; did you mean 'eps'?"),
        (spec("PGD", eps="8/256ths"), "expected a number"),
        (spec("PGD", steps=True), "expected a number"),
        (spec("PGD", random_start=1), "expected bool"),
        (spec("APGD", norm=2), "expected str"),
        (spec("PGD", eps={"uniform": ["8/255", "2/255"]}), "low"),
        (spec("PGD", eps=[]), "empty list"),
        (spec("CW", lr={"of_eps": 0.5}), "a share of epsilon, and this attack has none"),
        (spec("MultiAttack"), "no attack is named"),
        (spec("PGD", eps=8), 'expected a share of the full range, such as "8/255"'),
        (spec("PGD", eps=-0.1), "with epsilon -0.1"),
        (spec("PGD", alpha={"of_eps": 0}), "of_eps is a share of epsilon, above 0, got 0"),
    ],
    ids=str,
)
def test_mistakes_are_found_before_hours_are_spent(attack: AttackSpec, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_attack(attack)
    assert expected in str(caught.value)


def test_every_attack_is_understood() -> None:
    for name in ATTACKS:
        check_attack(spec(name))


def test_parameters() -> None:
    drawn = draw_parameters(spec("PGD", alpha={"of_eps": 0.25}, eps="8/255", steps=7.0), seed=0)
    assert drawn == {"eps": 8 / 255, "alpha": 2 / 255, "steps": 7}
    assert draw_parameters(spec("PGD", alpha={"of_eps": 0.25}), seed=0) == {"alpha": 2 / 255}
    assert draw_parameters(spec("Pixle", x_dimensions=[2, 5]), seed=0) == {"x_dimensions": (2, 5)}
    draws = [
        draw_parameters(spec("PGD", eps={"uniform": ["1/255", "8/255"]}, steps={"uniform": [3, 9]}), seed=seed)
        for seed in range(50)
    ]
    assert len({draw["eps"] for draw in draws}) == 50
    assert all(1 / 255 <= draw["eps"] <= 8 / 255 for draw in draws)
    assert {draw["steps"] for draw in draws} == set(range(3, 10))
    choice = spec("PGD", eps={"choice": ["1/255", "2/255", "8/255"]})
    assert {draw_parameters(choice, seed=seed)["eps"] for seed in range(50)} == {1 / 255, 2 / 255, 8 / 255}
    nested = spec("PGD", eps="8/255", alpha={"choice": [{"of_eps": 0.25}, {"of_eps": {"uniform": [0.5, 1.0]}}]})
    alphas = [draw_parameters(nested, seed=seed)["alpha"] * 255 for seed in range(50)]
    assert {2.0} < {*alphas} and all(alpha == 2 or 4 <= alpha <= 8 for alpha in alphas)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"alpha": "eps/4"}, {"alpha": {"of_eps": 0.25}}),
        ({"alpha": "eps*0.3"}, {"alpha": {"of_eps": 0.3}}),
        ({"eps": ["2/255", "8/255"]}, {"eps": {"uniform": ["2/255", "8/255"]}}),
        ({"steps": [2, 3, 4]}, {"steps": {"choice": [2, 3, 4]}}),
        ({"alpha": ["eps/8", "eps/2"]}, {"alpha": {"uniform": [{"of_eps": 0.125}, {"of_eps": 0.5}]}}),
    ],
    ids=str,
)
def test_the_forms_of_release_0_2_draw_the_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    for seed in range(20):
        assert draw_parameters(spec("PGD", **old), seed) == draw_parameters(spec("PGD", **new), seed)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"unifrom": [1, 2]}, "unknown key 'unifrom'; did you mean 'uniform'?"),
        ({"uniform": [1, 2, 3]}, "uniform: expected [low, high], got"),
        ({"uniform": 3}, "uniform: expected [low, high], got 3"),
        ({"choice": []}, "choice: expected a list of numbers, got an empty list"),
        ({"choice": [1, "many"]}, "choice: expected a number"),
        ({"choice": [1, True]}, "choice: expected a number"),
        ({"choice": [{"of_epsilon": 1}]}, "did you mean 'of_eps'?"),
        ({"of_eps": "1/0"}, "divides by zero"),
        ({}, "expected one of"),
        ({"choice": [1], "of_eps": 1}, "expected one of"),
    ],
    ids=str,
)
def test_a_wrong_table_names_attack_and_parameter(table: Any, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        spec("PGD", steps=table)
    assert "attack 'a': parameter 'steps': " in str(caught.value) and expected in str(caught.value)


def test_the_number_of_classes_is_the_classifiers(tiny_classifier: Classifier) -> None:
    attack: Any
    attack, bound = make_attack(spec("AutoAttack"), tiny_classifier, seed=5)
    assert (attack.n_classes, attack.seed, bound) == (4, 5, 8 / 255)
    assert make_attack(spec("APGDT", norm="L2"), tiny_classifier, seed=5)[1] is None
    assert make_attack(spec("CW"), tiny_classifier, seed=5)[1] is None


def test_attacks_that_need_gradients(tiny_classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    check_attack(spec("PGD"), tiny_classifier)
    monkeypatch.setattr(tiny_classifier, "differentiable", False)
    monkeypatch.setattr(tiny_classifier, "no_gradient", "it rounds")
    check_attack(spec("Square"), tiny_classifier)
    with pytest.raises(NoGradientError, match=r"has none \(it rounds\).*Square"):
        check_attack(spec("PGD"), tiny_classifier)


def test_what_an_attack_of_ours_refuses_names_the_attack_once(tiny_classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"^attack 'a': Manual kind: expected one of blur, contrast"):
        check_attack(spec("Manual", kind="blurr"), tiny_classifier)


class Rogue(Attack):
    """Answers `change(images)`."""

    def __init__(self, model: torch.nn.Module, eps: float = 0.01, change: str = "far") -> None:
        super().__init__("Rogue", model)
        self.change = change

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        if self.change == "far":
            return 1 - images
        images = images.clone()
        images[0, 0, 0, 0] = float("nan")
        return images + 0.01


def test_a_broken_promise_stops_the_job(
    tiny_classifier: Classifier, pixels: Tensor, origin: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS, "FGSM", Rogue)
    with pytest.raises(DataError, match=r"further than its epsilon 2\.55/255"):
        attack_images(spec("FGSM"), tiny_classifier, pixels, origin, seed=0, batch_size=12)
    attacked = attack_images(spec("FGSM", change="nan"), tiny_classifier, pixels, origin, seed=0, batch_size=12)
    assert torch.equal(attacked[0], pixels[0])  # what is not finite counts as not attacked
    assert not torch.equal(attacked[1], pixels[1])


def test_an_exported_program_is_attacked(
    tmp_path: Path, tiny_classifier: Classifier, pixels: Tensor, origin: Tensor
) -> None:
    pair, path = pixels[:2].float() / 255, tmp_path / "net.pt2"
    net = copy.deepcopy(tiny_classifier.module.net)
    program = torch.export.export(net, (pair,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)
    exported = load_classifier(tiny.SPEC.model_copy(update={"source": f"export:{path}"}))
    attack = spec("PGD", eps="16/255", alpha="4/255", steps=3)
    found = attack_images(attack, exported, pixels, origin, seed=3, batch_size=8)
    assert torch.equal(found, attack_images(attack, tiny_classifier, pixels, origin, seed=3, batch_size=8))


def test_an_attack_that_fails_says_which(tiny_classifier: Classifier, pixels: Tensor, origin: Tensor) -> None:
    with pytest.raises(ConfigError, match="attack 'a': APGD failed"):
        attack_images(spec("APGD", norm="L7"), tiny_classifier, pixels, origin, seed=0, batch_size=12)


def test_noise_twin_has_the_attacks_size_everywhere(pixels: Tensor) -> None:
    inside = pixels.clamp(10, 245)
    twin = noise_twin(inside, 8 / 255, seed=0)
    difference = twin.int() - inside.int()
    assert set(difference.unique().tolist()) == {-8, 8}
    assert abs(difference.float().mean()) < 1
    edges = noise_twin(torch.full_like(pixels, 254), 8 / 255, seed=0)
    assert set(edges.unique().tolist()) == {246, 255}
