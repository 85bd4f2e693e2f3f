"""How the recipe does on attacks that nobody trained on: networks are fitted again to fewer attacks, and measured.

    fit shards without a group of families ─▶ networks ─▶ the group's attacks of the test split
    fit shards of clean images + one attack ─▶ networks ─▶ every attack of the test split (cross-attack matrix)
    fit shards of clean images and noise twins ─▶ surprise alone ─▶ every attack of the test split

Each refit has thresholds of its own, from the clean calibrate split. Its networks and scores are kept in
`work/evaluate/leave-out/<group>/`, `cross-attack/<label>/` or `clean-only/` under digests of what they were made from:
a killed run goes on, and an unchanged refit is not repeated. Out: leave_out.json, leave_out.md in `work/evaluate/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import heatward
import torch
from rich.table import Table
from torch import Tensor

from detector.errors import ConfigError
from training.config import CLEAN, AttackSpec, Split, TrainingConfig
from training.evaluation import measures
from training.evaluation.measures import RATES, Thresholds
from training.evaluation.metrics import Bootstrap, lowest, mean_of
from training.evaluation.scores import Scored, by_network, from_evidence
from training.evaluation.tables import few, percent, render, share, share_only
from training.fitting.networks import fit_networks, load_networks, results
from training.job import Job
from training.resume import ShardResults
from training.shards import digest, digest_of, list_shards, read_shard, write_file, write_json, write_shard

__all__ = ["check", "run", "tables"]

CALIBRATE: tuple[Split, str] = ("calibrate", CLEAN)
NEGATIVES: tuple[Split, str] = ("test", CLEAN)
Scores = Mapping[tuple[str, str], Scored]  # split, label → answers


def run(job: Job) -> dict[str, Any]:
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
    groups = _groups(config)
    kept = {name: _kept(config, name, families) for name, families in groups.items()}
    tested = {name: [each for each in config.attacks if each.family in groups[name]] for name in groups}
    without = {name: _refit(job, folder / "leave-out" / name, kept[name], tested[name]) for name in groups}
    alone = [attack for attack in config.attacks_of("fit") if config.evaluate.leave_out.matrix]
    crossed = {each.label: _refit(job, folder / "cross-attack" / each.label, [each], config.attacks) for each in alone}
    unlearned = config.attacks if config.evaluate.leave_out.clean_only else ()
    surprised = _refit(job, folder / "clean-only", [], unlearned) if unlearned else {}

    sources = next(iter(without.values()))[NEGATIVES].source
    bootstrap = Bootstrap(sources, resamples=config.evaluate.resamples, seed=config.seed)
    found = {name: _measured(without[name], tested[name], bootstrap) for name in groups}
    means = {name: measures.summarise(each, mean_of) for name, each in found.items()}
    surprising = _measured(surprised, unlearned, bootstrap) if unlearned else []
    result: dict[str, Any] = {
        "format": "heatward-leave-out",
        "schema_version": 2,
        "heatward_version": heatward.__version__,
        "classifier": {"source": job.classifier.spec.source, "fingerprint": job.classifier.fingerprint},
        "rates": list(RATES),
        "resamples": config.evaluate.resamples,
        "fit": _only(config, config.attacks_of("fit")).fit.model_dump(mode="json"),
        "groups": [
            {
                "group": name,
                "families": list(groups[name]),
                "trained_on": [attack.label for attack in kept[name]],
                "attacks": _labelled(tested[name], found[name]),
                "mean": means[name],
            }
            for name in groups
        ],
        "macro": {
            "mean of groups": measures.summarise(list(means.values()), mean_of),
            "worst group": measures.summarise(list(means.values()), lowest),
            "worst attack": measures.summarise([row for rows in found.values() for row in rows], lowest),
        },
        "clean_only": {
            "attacks": _labelled(unlearned, surprising),
            "mean": measures.summarise(surprising, mean_of) if surprising else None,
            "worst": measures.summarise(surprising, lowest) if surprising else None,
        },
        "cross_attack": {
            "tested_on": [attack.label for attack in config.attacks],
            "rows": [
                {"trained_on": label, "auroc": [row["auroc"] for row in _measured(scores, config.attacks, bootstrap)]}
                for label, scores in crossed.items()
            ],
        },
    }
    result = measures.plain(result)
    write_json(folder / "leave_out.json", result)
    write_file(folder / "leave_out.md", render(tables(result)).encode())
    return result


def check(config: TrainingConfig) -> None:
    """Say what is wrong with the groups before hours are spent.

    Raises:
        ConfigError: A group leaves no attack to learn from.
    """
    for name, families in _groups(config).items():
        _kept(config, name, families)


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result of `run` as tables: one row an attack left out; the matrix, if there is one."""
    rate = str(RATES[-1])
    left_out = Table(title="Attacks of a group that was left out of training", title_justify="left")
    for column in ("left out", "attack"):
        left_out.add_column(column)
    for column in ("AUROC", f"flagged at {RATES[-1]:.0%}", "label recovered, top-1"):
        left_out.add_column(column, justify="right")

    def row(group: str, attack: str, found: Mapping[str, Any]) -> None:
        recovered = found["recovery"]["all"]["top1"]
        left_out.add_row(
            few(group, found["auroc"]), attack, share(found["auroc"]), percent(found["tpr"][rate]), percent(recovered)
        )

    for group in result["groups"]:
        for found in group["attacks"]:
            row(group["group"], found["label"], found)
        if len(group["attacks"]) > 1:
            row(group["group"], f"mean of {len(group['attacks'])}", group["mean"])
    for name in ("mean of groups", "worst group", "worst attack"):
        row(name, "", result["macro"][name])
    found = [left_out]
    if result["clean_only"]["attacks"]:
        found.append(_clean_only(result["clean_only"]))
    if result["cross_attack"]["rows"]:
        found.append(_matrix(result["cross_attack"]))
    return found


def _clean_only(result: Mapping[str, Any]) -> Table:
    table = Table(title="Fitted to clean images and noise twins alone", title_justify="left")
    table.add_column("attack")
    for rate in ("AUROC", *(f"flagged at {rate:.0%}" for rate in RATES)):
        table.add_column(rate, justify="right")
    rows = [(each["label"], each) for each in result["attacks"]]
    for label, row in [*rows, *((name, result[name]) for name in ("mean", "worst"))]:
        table.add_row(
            few(label, row["auroc"]), share(row["auroc"]), *(percent(row["tpr"][str(rate)]) for rate in RATES)
        )
    return table


def _matrix(crossed: Mapping[str, Any]) -> Table:
    table = Table(title="AUROC: trained on clean images and one attack (row), tested on (column)", title_justify="left")
    table.add_column("trained on")
    for label in crossed["tested_on"]:
        table.add_column(label, justify="right")
    for row in crossed["rows"]:
        table.add_row(row["trained_on"], *(share_only(each) for each in row["auroc"]))
    return table


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


def _labelled(attacks: Sequence[AttackSpec], found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"label": attack.label, **each} for attack, each in zip(attacks, found, strict=True)]


def _only(config: TrainingConfig, attacks: Sequence[AttackSpec]) -> TrainingConfig:
    """The configuration of a refit: these attacks alone, and its own number of networks and epochs."""
    changed = config.evaluate.leave_out.model_dump(include={"ensemble", "epochs"}, exclude_none=True)
    if not attacks:
        changed["epochs"] = 1  # the network has nothing to tell apart; surprise is all there is
    return config.model_copy(update={"attacks": tuple(attacks), "fit": config.fit.model_copy(update=changed)})


def _refit(job: Job, folder: Path, attacks: Sequence[AttackSpec], tested: Sequence[AttackSpec]) -> Scores:
    """What networks fitted to clean images and `attacks` say about clean images and the attacks `tested`."""
    config = _only(job.config, attacks)
    name = f"{folder.parent.name}/{folder.name}"
    fitted = results(replace(job, config=config), folder / "fit", name)
    wanted = [CALIBRATE, NEGATIVES, *(("test", attack.label) for attack in tested)]
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


def _measured(scores: Scores, tested: Sequence[AttackSpec], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """One row an attack, without its curve."""
    thresholds = Thresholds.of(scores[CALIBRATE])
    rows = [measures.detected(scores["test", each.label], scores[NEGATIVES], thresholds, bootstrap) for each in tested]
    return [{key: value for key, value in row.items() if key != "roc"} for row in rows]
