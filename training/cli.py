"""The commands `heatward train` and `heatward evaluate`: words from a shell in, an exit code out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser

from detector import remote
from detector.errors import ConfigError
from detector.malloc import keep_freed_memory
from detector.text import printable
from training.command import exit_code
from training.config import STAGES, Stage, TrainingConfig
from training.load import load_config
from training.signing import note_unsigned, signing_key
from training.tracking import Run, check_mlflow, send

if TYPE_CHECKING:
    from rich.table import Table

    from training.evaluation.leave_out_result import LeaveOutResult
    from training.evaluation.result import EvaluationResult

__all__ = [
    "Report",
    "add_mlflow",
    "check_out",
    "evaluate",
    "job_config",
    "job_overrides",
    "job_parser",
    "print_tables",
    "train",
]

Report = Callable[[Path], Path]
"""Draws the report of the evaluation in a folder; returns where it lies."""

FLAGS = {
    "work": ("work", "folder for shards and results; a killed job goes on from here"),
    "out": ("out", "where the bundle goes: FILE.heatward, a folder, or s3://BUCKET/FILE.heatward"),
    "sign-key": ("sign_key", "private Ed25519 key (PEM) that signs the bundle; heatward keygen makes one"),
    "seed": ("seed", "decides everything random"),
    "threads": ("threads", "CPU threads"),
    "device": ("device", "cpu, cuda, cuda:1, or auto"),
    "engine": ("engine", "where attacks and heatmaps are made: local (default) or ray"),
    "ray-address": ("ray.address", "the Ray cluster, e.g. ray://head:10001; default: RAY_ADDRESS, or one here"),
    "shard-size": ("shard_size", "images a shard"),
    "batch-size": ("batch_size", "images an attack sees at once"),
    "images": ("images.source", "image folder (one folder a class), also s3://BUCKET/FOLDER, or torchvision:NAME"),
    "test-images": ("images.test_source", "images of the test split; default: a part of --images"),
    "limit": ("images.limit", "use at most so many images"),
    "classifier": ("classifier.source", "torchvision:NAME, timm:NAME, hf:FOLDER, onnx:FILE, …: docs/classifiers.md"),
    "weights": ("classifier.weights", "safetensors or checkpoint file, or the name of torchvision weights"),
    "labels": ("classifier.labels", "text file, one class name a line; default: the image folder's class folders"),
}
"""Flag → the setting it gives, and what it is for."""


def train(argv: Sequence[str] | None = None, report: Report | None = None) -> int:
    """`heatward train [STAGE] --config FILE`; `report` draws what was measured."""
    parser = job_parser(
        "train",
        "Make a detector for a classifier: images and classifier in, bundle and report out.",
        "Without STAGE every stage runs: witness, attack, attribute, fit, glance, calibrate, evaluate, bundle. What is "
        "finished is not made again, so run the same command after an interruption. Flags win over HEATWARD_… "
        "environment variables (HEATWARD_FIT__EPOCHS=5), those over the file.",
    )
    parser.add_argument("stage", nargs="?", choices=STAGES, help="this stage alone")
    parser.add_argument(
        "--plan", action="store_true", help="say what changed since the last run and what a run costs; make nothing"
    )
    parser.add_argument("--json", action="store_true", help="print what was made and measured, or the plan, as JSON")
    add_mlflow(parser)
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _train(arguments, report))


def evaluate(argv: Sequence[str] | None = None, report: Report | None = None) -> int:
    """`heatward evaluate --config FILE [--bundle FILE | --leave-out]`; `report` draws what was measured."""
    parser = job_parser(
        "evaluate",
        "Measure a detector on the test split; prints tables, writes JSON and an HTML report under WORK/evaluate.",
        "Makes the attacks it needs if they are not there. Without --bundle it evaluates the detector that "
        "`heatward train` made in WORK.",
    )
    told = "evaluate this bundle instead: a path or a URL; --out FILE: where it goes with what was measured of it"
    parser.add_argument("--bundle", type=Path, help=told)
    parser.add_argument(
        "--leave-out",
        action="store_true",
        help="instead, refit without one attack family at a time and measure each refit on what it never saw",
    )
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _evaluate(arguments, report))


def _train(arguments: argparse.Namespace, report: Report | None) -> int:
    config = job_config(arguments)
    stages: tuple[Stage, ...] = (arguments.stage,) if arguments.stage else STAGES
    if arguments.plan:
        return _plan(config, stages, as_json=arguments.json)
    check_out(config.out)
    signing_key(config.sign_key)
    check_mlflow(arguments.mlflow)
    keep_freed_memory()
    # torch and torchattacks: only once the command line is right
    from detector.lock import hold
    from training import pipeline
    from training.job import open_job
    from training.progress import make_progress

    with make_progress(as_json=True) as progress:
        with hold(config.work):
            job = open_job(config, progress)
            for stage in stages:
                pipeline.run_stage(job, stage)
        made: dict[str, Any] = {"stages": stages, "bundle": remote.shown(config.out) if "bundle" in stages else None}
        found = _measured(config, report) if "evaluate" in stages else None
        if arguments.mlflow:
            made["mlflow"] = send(arguments.mlflow, _run(config, found, bundled="bundle" in stages), progress).dump()
    _tell(found, made, as_json=arguments.json)
    return ExitCode.OK


def _run(config: TrainingConfig, found: _Measured | None, *, bundled: bool) -> Run:
    return Run(
        "train",
        config.model_dump(mode="json"),
        found.result.measured() if found else {},
        (found.drawn, found.drawn.with_name("evaluation.json")) if found else (),
        config.out if bundled and not remote.is_url(config.out) else None,
    )


def _plan(config: TrainingConfig, stages: Sequence[Stage], *, as_json: bool) -> int:
    from training.checks import check_images
    from training.forecast import forecast
    from training.job import open_job
    from training.progress import make_progress

    with make_progress(as_json=True) as progress:
        job = open_job(config, progress, look_only=True)
        check_images(job)  # what would end the run ends its plan
        found = forecast(job, stages)
    print(found.model_dump_json(indent=2) if as_json else "\n".join(found.lines()))
    return ExitCode.OK


def check_out(out: Path) -> None:
    """Say that the bundle could not be written, before it is made."""
    if remote.is_url(out):
        if out.suffix != ".heatward":
            raise ConfigError(f"out: {remote.shown(out)}: a bundle at a URL is one file: give a name.heatward")
        remote.check_writable(out)
        return
    try:
        if out.is_dir() and (
            out.suffix == ".heatward" or (any(out.iterdir()) and not (out / "manifest.json").exists())
        ):
            raise ConfigError(f"out: {out} is a folder that holds no bundle: give a FILE.heatward, or another folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise ConfigError(f"out: nothing can be written into {out.parent}")
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be written: {error.strerror}") from error


def _evaluate(arguments: argparse.Namespace, report: Report | None) -> int:
    if arguments.leave_out and arguments.bundle is not None:
        raise ConfigError("--leave-out fits networks of its own, so it says nothing about a --bundle: give one of them")
    config = job_config(arguments)
    if arguments.bundle is not None and not (remote.is_url(arguments.bundle) or arguments.bundle.exists()):
        raise ConfigError(f"--bundle {arguments.bundle}: there is no such file or folder")
    key, writes = None, arguments.bundle is not None and arguments.out is not None
    if writes:
        check_out(config.out)
        key = signing_key(config.sign_key)
    keep_freed_memory()
    from detector.lock import hold
    from training import pipeline
    from training.detectors import open_detector, write_measured
    from training.evaluation import leave_out
    from training.job import open_job
    from training.progress import make_progress
    from training.stages.evaluate import evaluate_detector

    with make_progress(as_json=True) as progress, hold(config.work):
        if not writes and (passed_over := [name for name in ("out", "sign_key") if getattr(arguments, name)]):
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in passed_over)
            progress.note(f"{flags}: passed over; only with --bundle FILE --out FILE does an evaluation write a bundle")
        job = open_job(config, progress)
        job, detector, bundle = open_detector(job, arguments.bundle, key) if arguments.bundle else (job, None, None)
        if writes:
            note_unsigned(arguments.bundle, key, progress, remote.shown(arguments.bundle))
        if arguments.leave_out:
            leave_out.check(config)
        pipeline.run_stage(job, "witness")
        pipeline.run_stage(job, "attack")
        pipeline.run_stage(job, "attribute")
        if arguments.leave_out:
            left_out = leave_out.run(job)
        elif detector is None:
            pipeline.run_stage(job, "evaluate")
        else:
            evaluate_detector(job, detector)
    if arguments.leave_out:
        _show_leave_out(config, left_out, as_json=arguments.json)
        return ExitCode.OK
    found = _measured(config, report)
    if bundle is not None and writes:
        write_measured(bundle, config.out, found.result.measured(), key)
    _tell(found, {}, as_json=arguments.json)
    return ExitCode.OK


@dataclass(frozen=True)
class _Measured:
    """The evaluation that was just made or found, and its report."""

    result: EvaluationResult
    drawn: Path


def _measured(config: TrainingConfig, report: Report | None) -> _Measured:
    from training.evaluation.result import EvaluationResult

    folder = config.work / "evaluate"
    drawn = report(folder) if report else folder / "evaluation.md"
    return _Measured(EvaluationResult.read(folder), drawn)


def _tell(found: _Measured | None, made: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the tables of an evaluation; or it and what else was made, as JSON."""
    from training.evaluation.tables import all_tables

    if as_json:
        measured = {"report": str(found.drawn), "measured": found.result.measured()} if found else {}
        print(json.dumps({**made, **measured}, indent=2))
    elif found:
        print_tables(all_tables(found.result), f"report: {found.drawn}")


def _show_leave_out(config: TrainingConfig, result: LeaveOutResult, *, as_json: bool) -> None:
    from training.evaluation.leave_out_result import tables

    place = config.work / "evaluate" / "leave_out.json"
    if as_json:
        print(json.dumps({"result": str(place), "measured": result.dump()}, indent=2))
    else:
        print_tables(tables(result), f"result: {place}")


def print_tables(tables: Sequence[Table], note: str, file: TextIO | None = None) -> None:
    """Print tables, and a line below."""
    from rich.console import Console

    file = file or sys.stdout
    # a log has no width: do not break lines for it
    console = Console(file=file, width=None if file.isatty() else 200)
    with console.capture() as drawn:  # rich ends the process where nobody reads
        for table in tables:
            console.print(table)
        console.print(printable(note, None), highlight=False, markup=False, emoji=False, soft_wrap=True)
    file.write(drawn.get())


def add_mlflow(parser: argparse.ArgumentParser) -> None:
    """The flag of commands that tell MLflow what they did."""
    parser.add_argument(
        "--mlflow",
        metavar="NAME",
        help="log it to this experiment and registered model of the MLflow server that MLFLOW_TRACKING_URI names",
    )


def job_parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser that knows the settings of a job."""
    parser = Parser(f"heatward {command}", description=description, epilog=epilog)
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; examples/ has some")
    for name, (_, text) in FLAGS.items():
        parser.add_argument(f"--{name}", help=text)
    parser.add_argument(
        "--allow-inaccurate", action="store_const", const=True, help="go on with a classifier hardly better than chance"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, e.g. --set fit.epochs=5; may be repeated",
    )
    return parser


def job_config(arguments: argparse.Namespace) -> TrainingConfig:
    """What such a parser read, over the environment and the file.

    Raises:
        ConfigError: A setting is wrong.
    """
    try:
        return load_config(arguments.config, job_overrides(arguments))
    except ConfigError as error:
        if arguments.config is not None:
            raise
        raise ConfigError(f"{error}; a configuration is named by --config FILE (examples/ has some)") from error


def job_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """What such a parser read, as nested settings.

    Raises:
        ConfigError: --set without a value.
    """
    overrides: dict[str, Any] = {}
    for name, (key, _) in FLAGS.items():
        _put(overrides, key, getattr(arguments, name.replace("-", "_")))
    _put(overrides, "allow_inaccurate", arguments.allow_inaccurate)
    for setting in arguments.set:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting}: expected KEY=VALUE, e.g. --set fit.epochs=5")
        _put(overrides, key.strip(), _parsed(value))
    return overrides


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        return
    *path, last = key.split(".")
    for part in path:
        settings = settings.setdefault(part, {})
    settings[last] = value


def _parsed(value: str) -> Any:
    """A TOML value; anything that is none is a string."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return value
