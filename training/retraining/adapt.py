"""A detector for a new release of its classifier: a bundle, new weights and few images in; a bundle for these out.

    1  the bundle's recipe, around the new classifier             training/retraining/recipe.py
    2  attacks and evidence of few images                         work/attack/, work/attribute/
    3  the old networks on them, as they are                      → before
    4  networks that begin with the old ones, new thresholds      → after, and the bundle, whose parent is the old one

A job that is killed goes on by the same command. A later one with more images keeps what this one made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from detector.bundle import Bundle, load_bundle, read_manifest, save_bundle
from detector.classifier import Classifier, load_classifier
from detector.errors import CalibrationError, ConfigError, DataError, FingerprintMismatchError, NoGradientError
from detector.evidence import EvidenceExtractor, hidden_by
from detector.lock import hold
from detector.scoring.network import EvidenceShape
from training.checks import check_groups, check_tail
from training.config import TrainingConfig
from training.data import open_splits
from training.detectors import detector_around
from training.evaluation.result import EvaluationResult
from training.fitting.glance import check_vouched_for
from training.job import Job, open_job
from training.pipeline import run_stage
from training.progress import Progress, SilentProgress
from training.retraining.adaptation import Adaptation, side_of
from training.retraining.provenance import code_digest, recipe_of
from training.retraining.warm import shape_of
from training.runners.worker import device_of
from training.settings import CascadeConfig
from training.signing import signing_key
from training.stages.evaluate import evaluate_detector

__all__ = ["Options", "adapt"]

ADAPTED = "adapted.heatward"


@dataclass(frozen=True)
class Options:
    """What an adaptation is told beside the configuration."""

    fraction: float | None = 0.1
    """Of the images to fit on."""
    images: int | None = None
    """So many of them, instead."""
    test: int = 200
    """Images to measure on, at most."""
    warm: bool = True
    """Whether the networks begin with the old ones; False is for measuring what that is worth."""


def adapt(bundle: Bundle, config: TrainingConfig, options: Options, progress: Progress) -> Adaptation:
    """Fit a bundle's detector to another classifier.

    Args:
        bundle: The old one.
        config: Its recipe (`recipe_in`) around the new classifier, the images, and where the bundle goes.
        options: How many images.
        progress: Told of what is done.

    Raises:
        BusyError: Another job uses the work folder.
        HeatwardError: Something the message explains.
        OSError: A folder cannot be written.
    """
    out, parent, key = config.out, bundle.manifest, signing_key(config.sign_key, quiet=True)
    with hold(config.work):
        config = _fitting(config, bundle, progress)
        config = _sized(config, options, progress)
        config = config.model_copy(update={"out": config.work / ADAPTED, "sign_key": None})
        job = _vouched(open_job(config, progress))
        config = job.config
        run_stage(job, "attack")
        run_stage(job, "attribute")
        before = None
        if shape_of(job) == EvidenceShape.model_validate(parent.network["shape"]):
            extractor = EvidenceExtractor(job.classifier, job.config.evidence, job.witness)
            evaluate_detector(job, detector_around(bundle, extractor))
            before = side_of(EvaluationResult.read(job.work / "evaluate"))
        else:
            progress.note("the new classifier's evidence has other shapes: the old detector cannot be asked")
        job = replace(job, start=bundle if options.warm else None)
        for stage in ("fit", "glance", "calibrate", "evaluate", "bundle"):
            run_stage(job, stage)
        after = side_of(EvaluationResult.read(job.work / "evaluate"))
        made = load_bundle(config.out)
        said = {
            "parent": parent.digest,
            "recipe": recipe_of(config),
            "code": code_digest(),
            "adapted": {**asdict(options), "before": before and before.dump()},
        }
        manifest = made.manifest.model_copy(update={"provenance": {**made.manifest.provenance, **said}})
        save_bundle(out, replace(made, manifest=manifest), key=key)
    return Adaptation(
        bundle=str(out),
        digest=read_manifest(out).digest,
        parent=parent.digest,
        classifier=job.classifier.fingerprint,
        images={split: len(images) for split, images in job.splits.items()},
        before=before,
        after=after,
    )


def _fitting(config: TrainingConfig, bundle: Bundle, progress: Progress) -> TrainingConfig:
    """The configuration, if the new classifier suits it; with other depths where it lacks the old ones.

    Raises:
        ConfigError: It has other classes, or is the old one.
        NoGradientError: The old detector looks inside its classifier, and the new one cannot be opened.
    """
    classes, old = bundle.manifest.classifier.classes, bundle.manifest.fingerprint
    told = config.classifier.class_names() or classes
    if told != classes:
        raise ConfigError(
            f"the new classifier has other classes, or in another order ({len(told)}, the bundle {len(classes)}): a "
            "detector is adapted to the same classes; train one with heatward train"
        )
    classifier = load_classifier(config.classifier.spec(classes), device=device_of(config))
    if _is_old(classifier, bundle):
        raise ConfigError(
            f"the bundle guards this very classifier ({old[:12]}…): give the new release's --weights or --classifier"
        )
    hidden = hidden_by(classifier)
    if hidden and not EvidenceShape.model_validate(bundle.manifest.network["shape"]).black_box:
        raise NoGradientError(
            f"{hidden}, and the bundle's detector looks inside its classifier: heatward train makes one of what the "
            "new classifier answers (docs/black-box.md)"
        )
    absent = [layer for layer in config.evidence.layers if layer not in classifier.layers]
    if not absent:
        return config
    progress.note(f"the new classifier has no layer {absent[0]}: depths are chosen anew, and the networks begin anew")
    return config.model_copy(update={"evidence": config.evidence.model_copy(update={"layers": ()})})


def _vouched(job: Job) -> Job:
    """The job, without what the bundle has and so few images do not vouch for; what that is, is said."""
    fit, usable = job.splits["fit"].usable, job.splits["calibrate"].usable
    config = job.config
    try:
        check_vouched_for(config.cascade.clears, fit, usable)
    except CalibrationError as error:
        job.progress.note(f"the adapted detector has no cascade, and looks at every image in full. {error}")
        config = config.model_copy(update={"cascade": CascadeConfig()})
    fewer: dict[str, bool | None] = {}
    try:
        check_tail(config.calibrate, usable)
    except CalibrationError as error:
        job.progress.note(f"the adapted detector estimates no tail. {error}")
        fewer["tail"] = False
    try:
        check_groups(config.calibrate, usable)
    except CalibrationError as error:
        job.progress.note(f"the adapted detector ranks an image among those of all classes. {error}")
        fewer["by"] = None
    config = config.model_copy(update={"calibrate": config.calibrate.model_copy(update=fewer)})
    return replace(job, config=config)


def _is_old(classifier: Classifier, bundle: Bundle) -> bool:
    """Whether a bundle guards it; a served model may be another one under its old name."""
    if classifier.fingerprint != bundle.manifest.fingerprint:
        return False
    try:
        classifier.ask_again(bundle.classifier_weights)
    except FingerprintMismatchError:
        return False
    return True


def _sized(config: TrainingConfig, options: Options, progress: Progress) -> TrainingConfig:
    """The configuration with as many images to fit and to test as the options say.

    Raises:
        DataError: More images are wanted than there are.
    """
    images = config.images
    quiet = SilentProgress()
    splits, _ = open_splits(images, config.classifier.class_names(), config.seed, quiet, config.work / "images.json")
    there = sum(item.source == "source" for item in splits["fit"].items)
    wanted = options.images if options.images is not None else max(1, round((options.fraction or 1.0) * there))
    if wanted > there:
        raise DataError(f"{wanted} images to fit on are wanted, {there} are there: give fewer, or more images")
    test = min(options.test, len(splits["test"]))
    if images.fit_sources and wanted < there:
        progress.note("images.fit_sources are left out, since few images are asked for")
    changed: dict[str, Any] = {"fit": wanted, "test": test, "tune": 0}
    if images.grows:
        shares = images.shares
        changed = {"fit": shares["fit"] * wanted / there, "tune": 0.0}
        if not images.test_source:
            changed["test"] = shares["test"] * test / len(splits["test"])
    sources = images.fit_sources if wanted == there else ()
    update = {"splits": images.splits.model_copy(update=changed), "fit_sources": sources}
    return config.model_copy(update={"images": images.model_copy(update=update)})
