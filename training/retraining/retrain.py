"""A retraining: a configuration and a store in; a challenger, measured beside the champion, promoted or not, out.

    1  remember the champion that is compared with    work/retrain/run.json
    2  keep recent traffic, so that it stays the same  work/retrain/traffic.safetensors, work/retrain/lessons/
    3  the ordinary stages                             work/…, work/retrain/challenger.heatward
    4  both on the same test images and traffic        work/compare/, work/retrain/comparison.json
    5  decide; the store's pointer moves, or a line of its history says why not

A job that is killed anywhere goes on by the same command, with the champion that it began with, and gives the same
result. Where another became champion meanwhile, it begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from detector.bundle import load_bundle, read_manifest
from detector.bundle.bundle import CALIBRATION, GLANCE, NETWORK
from detector.bundle.folder import Champion
from detector.errors import CalibrationError
from detector.lock import hold
from detector.scoring.calibration import rank_at
from training.config import STAGES, TrainingConfig
from training.job import Job, open_job
from training.pipeline import run_stage
from training.progress import Progress
from training.retraining.comparison import Comparison, Flags, Group, decide
from training.retraining.kept import Kept, forget_traffic, keep_traffic
from training.retraining.measure import Contestant, forget_others, open_contestant, scores_of, scores_of_traffic
from training.retraining.provenance import attacks_in, images_of, lineage, reported_in
from training.retraining.reported import REPORTED, learn_attacks
from training.retraining.shown import write_shown
from training.retraining.store import Store
from training.retraining.warm import begin_with, check_warm
from training.shards import digest, write_json
from training.signing import note_unsigned, public_keys, signing_key

__all__ = ["Options", "Outcome", "retrain"]

FOLDER, RUN, CHALLENGER = "retrain", "run.json", "challenger.heatward"
PROMOTED = "promoted"
DECIDING = (NETWORK, GLANCE, CALIBRATION)
"""Files of a bundle that decide what it flags and recovers."""


@dataclass(frozen=True)
class Options:
    """What a retraining is told beside the configuration."""

    rate: float = 0.01
    """The false-positive rate at which both flag."""
    tolerance: float = 0.05
    """The loss on an old attack that must be excluded, and the rise of false alarms."""
    forget: tuple[str, ...] = ()
    """Old attacks that need not be measured."""
    records: Path | None = None
    """What a server recorded: measured on; half of what was reported is learnt from."""
    traffic: int = 2000
    """At most so many recent images."""
    warm_epochs: int | None = None
    """Epochs of networks that begin with the champion's; None: they begin anew."""


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    champion: Champion
    """From now on."""
    comparison: Comparison
    folder: Path
    """Holds comparison.json and examples.safetensors."""


def retrain(config: TrainingConfig, store: Store, options: Options, progress: Progress) -> Outcome:
    """Make a challenger, compare it, and promote it or not.

    Raises:
        BusyError: Another job uses the work folder or the store, or another became champion meanwhile.
        ConfigError: Networks are to begin with the champion's, which may know the test images.
        SignatureError: The result is to be signed, and the champion is not signed by that key.
        HeatwardError: Something the message explains.
        OSError: A folder cannot be written.
    """
    check_warm(config, options.warm_epochs)
    folder, key = config.work / FOLDER, signing_key(config.sign_key, quiet=True)
    config = config.model_copy(update={"out": folder / CHALLENGER, "sign_key": None})  # signed once it is promoted
    with store.hold(), hold(config.work):
        champion = store.champion()
        run = _begin(folder, config, options, store, champion)
        if _ended(run, store, champion):  # it was killed after the pointer had moved
            return _end(folder, champion, Comparison.read(folder))
        old = load_bundle(store.path(champion), public_keys(key))
        note_unsigned(store.path(champion), key, progress)
        traffic = keep_traffic(folder, options.records, options.traffic, old.manifest, progress)
        job = learn_attacks(open_job(traffic.with_lessons(config), progress), traffic.attacks)
        one = open_contestant(job, "champion", old)
        _check_rate(options.rate, one)  # what can be known is said before hours are spent
        for stage in STAGES:
            if stage == "fit" and options.warm_epochs is not None:
                job = begin_with(job, old, options.warm_epochs)
            run_stage(job, stage)
        challenger = load_bundle(config.out)
        two = open_contestant(job, "challenger", challenger)
        _check_rate(options.rate, two)
        flags = _measure(job, one, two, traffic, options)
        write_shown(folder, job, (one, two), flags, options.rate)
        learnt = {each.identity for each in traffic.attacks} if REPORTED in job.config.families else set()
        fresh = images_of(old.manifest) != images_of(two.manifest) or bool(learnt - reported_in(old.manifest))
        comparison = _compare(job, one, two, flags, _withdrawn(store, two), options, fresh=fresh)
        comparison.write(folder)
        forget_others(job, (one, two))
        why = "; ".join(comparison.reasons)
        if comparison.promoted:
            made = challenger.manifest.provenance | lineage(job, comparison, run.name, traffic.reported)
            manifest = challenger.manifest.model_copy(update={"provenance": made})
            champion = store.promote(replace(challenger, manifest=manifest), PROMOTED, why, champion, key)
        else:
            store.keep(CHALLENGER, challenger.manifest.digest, why)
        return _end(folder, champion, comparison)


@dataclass(frozen=True)
class _Run:
    """What a run began with."""

    parent: str
    settings: str

    @property
    def name(self) -> str:
        return digest([self.parent, self.settings])


def _begin(folder: Path, config: TrainingConfig, options: Options, store: Store, champion: Champion) -> _Run:
    """The run that was killed, where it is this one and nobody else's champion came between; a new one otherwise."""
    settings = digest([config.model_dump(mode="json"), asdict(options)])
    try:
        run = _Run(**json.loads((folder / RUN).read_text(encoding="utf-8")))
        if run.settings == settings and (run.parent == champion.digest or _ended(run, store, champion)):
            return run
    except (OSError, ValueError, TypeError):  # none, or damaged
        pass
    run = _Run(champion.digest, settings)
    forget_traffic(folder)
    write_json(folder / RUN, asdict(run))
    return run


def _ended(run: _Run, store: Store, champion: Champion) -> bool:
    """Whether the champion is the challenger of this run."""
    return champion.event == PROMOTED and read_manifest(store.path(champion)).provenance.get("run") == run.name


def _end(folder: Path, champion: Champion, comparison: Comparison) -> Outcome:
    (folder / RUN).unlink(missing_ok=True)
    return Outcome(champion, comparison, folder)


def _check_rate(rate: float, contestant: Contestant) -> None:
    count = len(contestant.detector.scarcest.scores)
    if rank_at(rate, count) < 1:
        raise CalibrationError(
            f"--rate {rate:g}: the {contestant.name} was calibrated on {count} clean images, which reach "
            f"{1 / (count + 1):.2g} at least: give a larger rate, or calibrate on more images"
        )


def _measure(job: Job, one: Contestant, two: Contestant, traffic: Kept, options: Options) -> dict[str, Flags]:
    known, here = attacks_in(one.manifest), attacks_in(two.manifest)
    groups: dict[str, Group] = dict.fromkeys(job.config.unharmed("test"), "clean")
    groups |= {label: "old attack" if key in known else "new attack" for key, label in here.items()}
    flags = {}
    for label, group in groups.items():
        source, first = scores_of(job, one, label)
        _, second = scores_of(job, two, label)
        median = float(np.median(second.score)) if len(source) else None
        flags[label] = Flags(group, source, one.flags(first, options.rate), two.flags(second, options.rate), median)
    for label, group, images in traffic.groups(job.classifier, reported_in(one.manifest), job.progress):
        first, second = (scores_of_traffic(job, each, label, images) for each in (one, two))
        source = -1 - np.arange(len(images))  # no test image's
        flags[label] = Flags(group, source, one.flags(first, options.rate), two.flags(second, options.rate))
    return flags


def _compare(
    job: Job,
    one: Contestant,
    two: Contestant,
    flags: Mapping[str, Flags],
    withdrawn: str,
    options: Options,
    *,
    fresh: bool,
) -> Comparison:
    known, here = attacks_in(one.manifest), attacks_in(two.manifest)
    return decide(
        flags,
        champion=one.manifest.digest,
        challenger=two.manifest.digest,
        rate=options.rate,
        tolerance=options.tolerance,
        missing=[label for key, label in known.items() if key not in here and label not in options.forget],
        forget=options.forget,
        withdrawn=withdrawn,
        fresh=fresh,
        resamples=job.config.evaluate.resamples,
        seed=job.config.seed,
    )


def _withdrawn(store: Store, challenger: Contestant) -> str:
    """What is to be said where the challenger is a champion that somebody rolled back from; empty otherwise."""
    there = store.bundles()
    for withdrawn, when in store.withdrawn().items():
        if withdrawn in there:
            known = read_manifest(store.folder / there[withdrawn])
            if all(known.files.get(name) == challenger.manifest.files.get(name) for name in DECIDING):
                return (
                    f"the challenger is {there[withdrawn]} again, which somebody rolled back from on {when:%Y-%m-%d}: "
                    f"heatward rollback --to {withdrawn[:16]} has it serve nonetheless"
                )
    return ""
