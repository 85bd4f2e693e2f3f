"""How the recipe does on attacks that nobody trained on: networks are fitted again to fewer attacks, and measured.

    fit shards without a group of families ─▶ networks ─▶ the group's attacks of the test split
    fit shards of clean images + one attack ─▶ networks ─▶ every attack of the test split (cross-attack matrix)
    fit shards of clean images and noise twins ─▶ novelty alone ─▶ every attack of the test split

Each refit has thresholds of its own, from the clean calibrate split. Its networks and scores are kept in
`work/evaluate/leave-out/<group>/`, `cross-attack/<label>/` or `clean-only/` under digests of what they were made from:
a killed run goes on, and an unchanged refit is not repeated. Out: leave_out.json, leave_out.md in `work/evaluate/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import heatward
import numpy as np
import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.files import write_file
from training.config import CLEAN, AttackSpec, Split, TrainingConfig
from training.evaluation import measures
from training.evaluation.leave_out_result import (
    CleanOnly,
    CrossAttack,
    GroupResult,
    Guarded,
    LeaveOutResult,
    LeftOut,
    TrainedOn,
    tables,
)
from training.evaluation.measures import Thresholds
from training.evaluation.metrics import Bootstrap, lowest, mean_of
from training.evaluation.result import Detection
from training.evaluation.scores import Scored, by_network, from_evidence
from training.evaluation.tables import render
from training.fitting.networks import fit_networks, load_networks, results
from training.job import Job
from training.resume import ShardResults
from training.shards import digest, digest_of, list_shards, read_shard, write_shard

__all__ = ["check", "run"]

NEGATIVES: tuple[Split, str] = ("test", CLEAN)
Scores = Mapping[tuple[str, str], Scored]  # split, label → answers


def run(job: Job) -> LeaveOutResult:
    """Refit without each group; with each attack alone and with none, if `evaluate.leave_out` says so.

    Args:
        job: Its attribution shards must be finished.

    Returns:
        What is written to `leave_out.json`.

    Raises:
        ConfigError: A group leaves no attack to learn from.
        DataError: The attribute stage is not finished.
    """
    ShardResults("attribute", job).require()
    config, folder = job.config, job.work / "evaluate"
    every = config.every_attack
    groups = _groups(config)
    kept = {name: _kept(config, name, families) for name, families in groups.items()}
    tested = {name: [each for each in every if each.family in groups[name]] for name in groups}
    without = {name: _refit(job, folder / "leave-out" / name, kept[name], tested[name]) for name in groups}
    alone = [attack for attack in config.attacks if attack.train and config.evaluate.leave_out.matrix]
    crossed = {each.label: _refit(job, folder / "cross-attack" / each.label, [each], every) for each in alone}
    unlearned = every if config.evaluate.leave_out.clean_only else ()
    by_novelty = _refit(job, folder / "clean-only", [], unlearned) if unlearned else {}

    refits = [*without.values(), *crossed.values(), by_novelty]
    sources = [scored.source for scores in refits for (split, _), scored in scores.items() if split == "test"]
    bootstrap = Bootstrap(np.concatenate(sources), resamples=config.evaluate.resamples, seed=config.seed)
    found = {name: _measured(without[name], tested[name], bootstrap) for name in groups}
    means = {name: measures.summarise(each, mean_of) for name, each in found.items()}
    novel = _measured(by_novelty, unlearned, bootstrap) if unlearned else []
    result = LeaveOutResult(
        heatward_version=heatward.__version__,
        classifier=Guarded(source=job.classifier.spec.source, fingerprint=job.classifier.fingerprint),
        resamples=config.evaluate.resamples,
        fit=_only(config, config.attacks_of("fit")).fit.model_dump(mode="json"),
        groups=[
            GroupResult(
                group=name,
                families=groups[name],
                trained_on=[attack.label for attack in kept[name]],
                attacks=_labelled(tested[name], found[name]),
                mean=means[name],
            )
            for name in groups
        ],
        macro={
            "mean of groups": measures.summarise(list(means.values()), mean_of),
            "worst group": measures.summarise(list(means.values()), lowest),
            "worst attack": measures.summarise([row for rows in found.values() for row in rows], lowest),
        },
        clean_only=CleanOnly(
            attacks=_labelled(unlearned, novel),
            mean=measures.summarise(novel, mean_of) if novel else None,
            worst=measures.summarise(novel, lowest) if novel else None,
        ),
        cross_attack=CrossAttack(
            tested_on=[attack.label for attack in every],
            rows=[
                TrainedOn(trained_on=label, auroc=[row.auroc for row in _measured(scores, every, bootstrap)])
                for label, scores in crossed.items()
            ],
        ),
    )
    result.write(folder)
    write_file(folder / "leave_out.md", render(tables(result)).encode())
    return result


def check(config: TrainingConfig) -> None:
    """Say what is wrong with the groups before hours are spent.

    Raises:
        ConfigError: A group leaves no attack to learn from.
    """
    for name, families in _groups(config).items():
        _kept(config, name, families)


def _groups(config: TrainingConfig) -> dict[str, tuple[str, ...]]:
    """Name of a group → its families; each family alone unless the configuration says otherwise."""
    return config.evaluate.leave_out.groups or {attack.family: (attack.family,) for attack in config.attacks}


def _kept(config: TrainingConfig, group: str, families: Sequence[str]) -> list[AttackSpec]:
    kept = [attack for attack in config.attacks_of("fit") if attack.family not in families]
    if not kept:
        raise ConfigError(
            f"evaluate.leave_out: without group {group!r} ({', '.join(families)}) no attack is left to learn from; "
            "leave out fewer families, or train on more attacks"
        )
    return kept


def _labelled(attacks: Sequence[AttackSpec], found: Sequence[Detection]) -> list[LeftOut]:
    return [LeftOut(label=attack.label, **dict(each)) for attack, each in zip(attacks, found, strict=True)]


def _only(config: TrainingConfig, attacks: Sequence[AttackSpec]) -> TrainingConfig:
    """The configuration of a refit: these attacks, however delivered, and its own number of networks and epochs."""
    changed = config.evaluate.leave_out.model_dump(include={"ensemble", "epochs"}, exclude_none=True)
    made = tuple(attack for attack in attacks if not config.delivery(attack.label))
    if not made:
        changed["epochs"] = 1  # the network has nothing to tell apart; novelty is all there is
    return config.model_copy(update={"attacks": made, "fit": config.fit.model_copy(update=changed)})


def _refit(job: Job, folder: Path, attacks: Sequence[AttackSpec], tested: Sequence[AttackSpec]) -> Scores:
    """What networks fitted to clean images and `attacks` say about clean images and the attacks `tested`."""
    config = _only(job.config, attacks)
    name = f"{folder.parent.name}/{folder.name}"
    fitted = results(replace(job, config=config), folder / "fit", name)
    wanted = [*_calibration(config), NEGATIVES, *(("test", attack.label) for attack in tested)]
    shards = [plan.digest for split, label in wanted for plan in job.plan("attribute", split, label)]
    path, made_from = folder / "scores.safetensors", digest([fitted.made_from, [list(each) for each in wanted], shards])
    if digest_of(path) != made_from:
        if not fitted.finished:
            learned = ", ".join(attack.label for attack in attacks) or "clean images and noise twins alone"
            job.progress.note(f"{name}: fit to {learned}")
        fitted.make(lambda: fit_networks(config, job.work, job.progress, fitted.folder), job.progress)
        networks = [network.to(job.classifier.device) for network in load_networks(fitted.folder)]
        answers = {"": by_network(networks, job.classifier.device)}
        said: dict[str, Tensor] = {}
        with job.progress.task(name, len(shards), unit="shards") as advance:
            for split, label in wanted:
                scored = from_evidence(list_shards(job.work, "attribute", split, label), answers, advance)[""]
                said |= {f"{split}/{label}/{key}": torch.from_numpy(each) for key, each in asdict(scored).items()}
        write_shard(path, said, made_from)
    stored = read_shard(path)
    columns = [field.name for field in fields(Scored)]
    return {
        (split, label): Scored(**{column: stored[f"{split}/{label}/{column}"].numpy() for column in columns})
        for split, label in wanted
    }


def _calibration(config: TrainingConfig) -> list[tuple[Split, str]]:
    return [("calibrate", label) for label in config.labels("calibrate")]


def _measured(scores: Scores, tested: Sequence[AttackSpec], bootstrap: Bootstrap) -> list[Detection]:
    """One an attack, without its curve."""
    thresholds = Thresholds.of(Scored.cat([each for (split, _), each in scores.items() if split == "calibrate"]))
    rows = [measures.detected(scores["test", each.label], scores[NEGATIVES], thresholds, bootstrap) for each in tested]
    return [measures.summarise([row], lambda one: one[0]) for row in rows]
