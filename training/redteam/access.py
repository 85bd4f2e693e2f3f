"""Kinds of access → **pieces of work**: which attacks are made with what an attacker can see; why others are not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from detector.detector import Detector
from detector.errors import ConfigError
from training.load import nearest
from training.redteam.blackbox import DECISION, SCORE, BlackBox
from training.redteam.oblivious import asking, cw, pgd
from training.redteam.oracles import ClassifierOracle, Oracle
from training.redteam.parts import Piece
from training.redteam.settings import NO_SCORE_BUDGET, RedTeamSettings
from training.redteam.values import Budget, Norm, Outcome
from training.redteam.whitebox import LEAST, WHITE_BOX, Attack

__all__ = ["Plan", "hidden", "plan", "white_box_attacks"]

CW_STEPS = 100


@dataclass(frozen=True)
class Plan:
    """What is to be made."""

    pieces: list[Piece] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    """Row → why it is not run, or not all of it."""
    told: str = "full"
    """How much a server tells whoever asks in rows 2 and 3."""


def white_box_attacks(names: Collection[str] = ()) -> Mapping[str, Attack]:
    """White-box attacks of these names; without names, all.

    Raises:
        ConfigError: One of `names` is no attack.
    """
    for name in names:
        if name not in WHITE_BOX:
            raise ConfigError(f"methods: no white-box attack is named {name!r}{nearest(name, list(WHITE_BOX))}")
    return {name: attack for name, attack in WHITE_BOX.items() if not names or name in names}


def hidden(detector: Detector) -> str:
    """Why a detector cannot be attacked with gradients; empty where it can."""
    if detector.classifier.no_gradient:
        return f"its classifier has no gradients ({detector.classifier.no_gradient})"
    witness = detector.extractor.witness
    if witness is not None and not witness.differentiable:
        return f"its witness has no gradients ({witness.no_gradient})"
    if detector.extractor.black_box:
        return "its evidence is a black box's, which has no gradients"
    return ""


def plan(
    settings: RedTeamSettings,
    detector: Detector,
    twin: Detector | None,
    attacks: Mapping[str, Attack],
    oracle: Callable[[], Oracle],
) -> Plan:
    """Every piece, the cheap rows first.

    Args:
        settings: Rows and budgets.
        detector: Is attacked.
        twin: The attacker's own, for row 1.
        attacks: White-box attacks.
        oracle: Opens what rows 2 and 3 ask.
    """
    asking_rows = bool({2, 3} & set(settings.rows))
    asked = oracle() if asking_rows else ClassifierOracle(detector.classifier)
    found = Plan(told=asked.told)
    if 0 in settings.rows:
        _oblivious(settings, detector, found)
    reason = hidden(detector)
    if 1 in settings.rows:
        why = "no --twin was given" if twin is None else f"of the twin, {told}" if (told := hidden(twin)) else ""
        digest = twin.manifest.digest if twin is not None and twin.manifest is not None else ""
        _white(1, settings, twin or detector, attacks, why, found, digest)
    if asking_rows:
        against = (settings.server or "") + (f" tells {asked.told}" if asked.told != "full" else "") + asked.version
        origin = ClassifierOracle(detector.classifier)
        if 2 in settings.rows:
            chosen = _chosen(settings)
            _asking(2, chosen, _score_budgets(settings), asked, origin, settings.rate, found, against)
            if not settings.measured(2):
                found.refused[2] = f"not run, because {NO_SCORE_BUDGET}"
        if 3 in settings.rows:
            _asking(3, DECISION, _least_budgets(settings), asked, origin, settings.rate, found, against)
    if 4 in settings.rows:
        _white(4, settings, detector, attacks, reason, found)
    return found


def _oblivious(settings: RedTeamSettings, detector: Detector, found: Plan) -> None:
    """Those that ask serve as rows 2 and 3 without heatward, so they have the same budgets."""
    classifier = detector.classifier
    if classifier.differentiable:
        for norm, eps in settings.budgets:
            budget = Budget(norm, eps, max(settings.steps))
            found.pieces.append(Piece(0, "pgd", budget, partial(_oblivious_run, pgd, detector, budget)))
        budget = Budget("L2", 1.0, CW_STEPS)
        found.pieces.append(Piece(0, "cw", budget, partial(_oblivious_run, cw, detector, budget), least=True))
    else:
        found.refused[0] = f"pgd and cw not run, because {hidden(detector)}"
    oracle = ClassifierOracle(classifier)
    chosen = _chosen(settings)
    _asking(0, chosen, _score_budgets(settings), oracle, oracle, None, found)
    _asking(0, DECISION, _least_budgets(settings), oracle, oracle, None, found)


def _oblivious_run(
    attack: Callable[..., Outcome], detector: Detector, budget: Budget, images: Tensor, seed: int
) -> Outcome:
    return attack(detector.classifier, images, budget, seed)


def _asking(
    row: int,
    attacks: Mapping[str, BlackBox],
    budgets: Sequence[Budget],
    oracle: Oracle,
    knows: ClassifierOracle,
    rate: float | None,
    found: Plan,
    against: str = "",
) -> None:
    for name, attack in attacks.items():
        for budget in budgets:
            if name == "square" and budget.norm != "Linf":
                continue

            def run(images: Tensor, seed: int, attack: BlackBox = attack, budget: Budget = budget) -> Outcome:
                return asking(attack, oracle, images, knows.ask(images).label, rate, budget, seed)

            found.pieces.append(Piece(row, name, budget, run, least=name in DECISION, against=against))


def _white(
    row: int,
    settings: RedTeamSettings,
    target: Detector,
    attacks: Mapping[str, Attack],
    why: str,
    found: Plan,
    against: str = "",
) -> None:
    """White-box attacks on a detector."""
    if why:
        found.refused[row] = f"not run, because {why}"
        return
    widest = [(norm, max(eps for each, eps in settings.budgets if each == norm)) for norm in _norms(settings)]
    for name, attack in attacks.items():
        for norm, eps in widest if name in LEAST else settings.budgets:
            for steps in settings.steps:
                budget = Budget(norm, eps, steps, settings.restarts)
                run = partial(_white_run, attack, target, settings.rate, budget)
                found.pieces.append(Piece(row, name, budget, run, least=name in LEAST, against=against))


def _white_run(attack: Attack, target: Detector, rate: float, budget: Budget, images: Tensor, seed: int) -> Outcome:
    return attack(target, images, rate, budget, seed)


def _chosen(settings: RedTeamSettings) -> dict[str, BlackBox]:
    """Attacks on the score oracle."""
    return {name: SCORE[name] for name in settings.score_methods}


def _score_budgets(settings: RedTeamSettings) -> list[Budget]:
    sizes: list[tuple[Norm, float]] = [("Linf", eps) for eps in settings.score_linf]
    sizes += [("L2", eps) for eps in settings.l2]
    return [Budget(norm, eps, settings.queries) for norm, eps in sizes]


def _least_budgets(settings: RedTeamSettings) -> list[Budget]:
    """A norm each: what is looked for is the least change."""
    return [Budget(norm, 1.0, settings.queries) for norm in _norms(settings)]


def _norms(settings: RedTeamSettings) -> list[Norm]:
    return list(dict.fromkeys(norm for norm, _ in settings.budgets))
