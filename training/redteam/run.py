"""A whole red team: settings and a bundle in, a `RedTeamResult` in its folder out.

photographs ─▶ targets ─▶ plan ─▶ parts, on the disk ─▶ lines ─▶ checks ─▶ redteam.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from heatward import __version__
from torch import Tensor

from detector.bundle import Bundle
from detector.detector import Detector
from detector.errors import ConfigError
from training.attacks.attacks import noise_twin
from training.evaluation.parts import ByRate
from training.progress import Progress
from training.redteam.access import Plan, plan, white_box_attacks
from training.redteam.checks import Strongest, run_checks
from training.redteam.conditions import read_condition
from training.redteam.figures import Seen, flagged, line_of, line_of_all, seen_under
from training.redteam.oblivious import pgd
from training.redteam.oracles import DetectorOracle, Oracle
from training.redteam.parts import Judged, Part, Piece, Workshop, judge
from training.redteam.result import Line, RedTeamResult, RowResult
from training.redteam.settings import ROWS, RedTeamSettings
from training.redteam.statistics import share_of
from training.redteam.targets import Targets, find_targets
from training.redteam.values import Budget, Norm, Outcome

__all__ = ["Opened", "run"]

TINY = 1 / 255
PRIVATE = {"fail_if", "images", "out", "tls_roots", "token_file", "twin"}
"""Settings that say where things lie, and decide nothing."""
WHITE = 4


@dataclass(frozen=True)
class Opened:
    """A bundle, and the detector that it makes."""

    bundle: Bundle
    detector: Detector

    @property
    def digest(self) -> str:
        return self.bundle.manifest.digest


def run(
    settings: RedTeamSettings, own: Opened, twin: Opened | None, progress: Progress, *, quick: bool
) -> RedTeamResult:
    """Attack, measure, check.

    Raises:
        ConfigError: The twin is of other images or classes, a method or a folder has no such name.
        DataError: No image to attack, a server that is gone, an attack that leaves its budget.
    """
    detector = own.detector
    if settings.images is None:
        raise ConfigError("--images FOLDER: name photographs that the bundle was not made with, one folder a class")
    if twin is not None:
        _check_twin(detector, twin.detector)
    attacks = white_box_attacks(settings.methods)
    targets = find_targets(settings.images, detector.classifier, settings.count, settings.seed)
    for name in settings.passed_over:
        progress.note(f"--{name.replace('_', '-')}: passed over; no row that uses it is among --rows")
    for note in targets.notes:
        progress.note(note)
    if len(targets) < settings.count:
        progress.note(f"only {len(targets)} images that the classifier gets right, {settings.count} were asked for")
    decides = (own.digest, settings.rate)
    workshop = Workshop(settings.out / "parts", detector, decides, settings.seed, settings.batch_size, progress)
    made = plan(
        settings, detector, twin.detector if twin else None, attacks, lambda: _oracle(settings, detector, progress)
    )
    clean = judge(detector, targets.images)
    parts = [(piece, workshop.make(piece, targets)) for piece in made.pieces]
    lines, seen = _lines(settings, parts, targets, clean)
    few = slice(settings.check_images)
    why = "row 4 is not among --rows" if WHITE not in settings.rows else made.refused.get(WHITE, "")
    strongest = None
    if not why:
        strongest = Strongest(dict(attacks), detector, workshop, targets[few], clean[few], settings)
    rejected, rejected_s = _rejected(settings, workshop, targets)
    checks = run_checks(strongest, why, lines, seen)
    result = RedTeamResult(
        heatward_version=__version__,
        bundle=own.digest,
        twin=twin.digest if twin else "",
        classifier=detector.classifier.spec.source,
        accuracy=targets.accuracy,
        images=len(targets),
        rate=settings.rate,
        rates=settings.rates,
        clean_flagged=_by_rate(settings, clean, clean.label == targets.truth),
        settings=settings.model_dump(
            mode="json", exclude={"out", "token_file", "tls_roots", "images", "twin", "fail_if"}
        ),
        quick=quick,
        rows=tuple(
            RowResult(row=row, access=_access(made, row), refused=_refused(settings, made, row)) for row in ROWS
        ),
        lines=tuple(lines),
        rejected=rejected,
        checks=tuple(checks),
        cpu_s=sum(part.cpu_s for _, part in parts) + rejected_s,
    )
    failures = [told for text in settings.fail_if if (told := read_condition(text).judge(result))]
    result = result.model_copy(update={"failures": tuple(failures)})
    result.write(settings.out)
    return result


def _access(made: Plan, row: int) -> str:
    kept_back = made.told != "full" and row in (2, 3)
    return ROWS[row] + (f" (the server tells this caller: {made.told})" if kept_back else "")


def _refused(settings: RedTeamSettings, made: Plan, row: int) -> str:
    return made.refused.get(row, "" if row in settings.rows else "not asked for")


def _oracle(settings: RedTeamSettings, detector: Detector, progress: Progress) -> Oracle:
    if settings.server is None:
        return DetectorOracle(detector, settings.rate)
    from training.redteam.remote import ServerOracle, open_client  # gRPC: only where a server is asked

    client = open_client(settings.server, settings.token_file, settings.tls_roots)
    fingerprint = detector.classifier.fingerprint
    return ServerOracle(client, settings.rate, fingerprint, progress, patience_s=settings.patience_s)


def _check_twin(detector: Detector, twin: Detector) -> None:
    ours, other = detector.classifier, twin.classifier
    if ours.input_size != other.input_size:
        sizes = [f"{size[0]}×{size[1]}" for size in (ours.input_size, other.input_size)]
        raise ConfigError(
            f"--twin: it takes images of {sizes[1]}, the bundle of {sizes[0]}: make a twin of the same size"
        )
    if ours.classes != other.classes:
        raise ConfigError(
            "--twin: it has other classes than the bundle: make a twin of the same classes, in their order"
        )


def _lines(
    settings: RedTeamSettings, parts: Sequence[tuple[Piece, Part]], targets: Targets, clean: Judged
) -> tuple[list[Line], dict[int, list[Seen]]]:
    """Lines of every row, and what counts at the widest budget that oracles have, by row."""
    lines: list[Line] = []
    by_row: dict[tuple[int, Norm, float], list[Seen]] = {}
    for piece, part in parts:
        norm = piece.budget.norm
        for eps in _sizes(settings, piece):
            seen = seen_under(part, targets, clean, norm, eps)
            lines.append(line_of(piece, part, seen, eps, settings.rates, settings.rate))
            by_row.setdefault((piece.row, norm, eps), []).append(seen)
    together = [line_of_all(*key, every, settings.rates) for key, every in by_row.items()]
    shared = [eps for eps in settings.score_linf if eps in settings.linf] or [0.0]
    compared = {row: every for (row, norm, eps), every in by_row.items() if norm == "Linf" and eps == max(shared)}
    return sorted([*together, *lines], key=lambda line: (line.row, line.norm, line.eps, line.steps)), compared


def _sizes(settings: RedTeamSettings, piece: Piece) -> Sequence[float]:
    """The budgets under which a piece counts: all of its norm for one that looks for the least change."""
    if not piece.least:
        return (piece.budget.eps,)
    return tuple(eps for norm, eps in settings.budgets if norm == piece.budget.norm)


def _rejected(settings: RedTeamSettings, workshop: Workshop, targets: Targets) -> tuple[dict[str, ByRate], float]:
    """How much is flagged of images that were hardly changed and are still right."""
    classifier, budget = workshop.detector.classifier, Budget("Linf", TINY, max(settings.steps))

    def noise(images: Tensor, seed: int) -> Outcome:
        pixels = images.mul(255).round().to(torch.uint8)
        changed = noise_twin(pixels, TINY, seed).float() / 255
        nothing = torch.zeros(len(images))
        return Outcome(changed, nothing > 0, nothing.double(), nothing.long(), 0.0)

    def run_pgd(images: Tensor, seed: int) -> Outcome:
        return pgd(classifier, images, budget, seed, keep_last=True)

    pieces = [Piece(0, "noise", Budget("Linf", TINY, 1), noise, purpose="tiny")]
    if classifier.differentiable:
        pieces.append(Piece(0, "pgd", budget, run_pgd, purpose="tiny"))
    parts = {piece.method: workshop.make(piece, targets) for piece in pieces}
    found = {name: _by_rate(settings, part.judged, part.judged.label == targets.truth) for name, part in parts.items()}
    return found, sum(part.cpu_s for part in parts.values())


def _by_rate(settings: RedTeamSettings, judged: Judged, counted: Tensor) -> ByRate:
    return {rate: share_of(flagged(judged, rate)[counted]) for rate in settings.rates}
