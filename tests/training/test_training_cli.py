"""A wrong word, file or setting is answered in one line, before anything heavy is imported, whatever it holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from heatward import cli as heatward_cli
from tiny_job import CONFIG

from training import cli

HEAVY = ("torch", "torchvision", "torchattacks", "timm", "matplotlib", "scipy", "numpy", "PIL", "safetensors")
RUN = """
import json, sys
from heatward.cli import main
try:
    code = main(json.loads(sys.argv[1]))
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, sorted(set(sys.modules) & set(json.loads(sys.argv[2])))]), file=sys.stderr)
"""
MINIMAL = CONFIG.format(folder="nowhere")


def run(*words: str) -> tuple[int, list[str], str]:
    """Exit status, what heavy was imported, and what was said, of a process of its own."""
    command = [sys.executable, "-c", RUN, json.dumps(words), json.dumps(HEAVY)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEATWARD_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    *said, last = done.stderr.splitlines()
    code, imported = json.loads(last)
    return code, imported, done.stdout + "\n".join(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--typo"), "--typo"),
        (
            ("train",),
            "'classifier' is missing; 'images' is missing; 'attacks' is missing; a configuration is named by --config",
        ),
        (("train", "attakc"), "attakc"),
        (("train", "--config", "{folder}/none.toml"), "none.toml: No such file"),
        (("train", "--config", "{folder}/config.toml", "--set", "fitt.epochs=1"), "did you mean 'fit'"),
        (("train", "--config", "{folder}/config.toml", "--set", "fit.epoch=1"), "did you mean 'epochs'"),
        (("train", "--config", "{folder}/config.toml", "--set", "fit.epochs=0"), "fit.epochs"),
        (("train", "--config", "{folder}/config.toml", "--classifier", "resnet18"), "classifier.source"),
        (("train", "--config", "{folder}/config.toml", "--out", "{folder}"), "holds no bundle"),
        (
            ("train", "--config", "{folder}/config.toml", "--out", "{folder}/config.toml/a.heatward"),
            "cannot be written",
        ),
        (("evaluate", "--typo"), "--typo"),
        (("evaluate", "--config", "{folder}/config.toml", "--batch-size", "0"), "batch_size"),
        (("evaluate", "--config", "{folder}/config.toml", "--bundle", "{folder}/none"), "none"),
        (("demo", "--typo"), "--typo"),
        (("demo", "--count", "none"), "whole number"),
        (("demo", "--bundle", "{folder}/none.heatward"), "none.heatward"),
        (("demo", "--images", "{folder}/none"), "none"),
        (("explain", "a.png", "--typo"), "--typo"),
        (("explain", "{folder}/a.png"), "a.png: cannot be read"),
        (("explain", "{folder}/config.toml", "--methods", "cams"), "did you mean 'cam'"),
        (("explain", "{folder}/config.toml", "--bundle", "{folder}/none.heatward"), "none.heatward"),
    ],
)
def test_a_mistake_costs_no_torch(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "config.toml").write_text(MINIMAL)
    code, imported, told = run(*(word.format(folder=tmp_path) for word in words))
    assert (code, imported) == (2, [])
    assert said in told and "Traceback" not in told


@pytest.mark.parametrize("command", ["train", "evaluate", "demo", "explain", "serve"])
def test_help_costs_no_torch(command: str) -> None:
    code, imported, told = run(command, "--help")
    assert code == 0 and f"usage: heatward {command}" in told
    assert not {"torch", "torchattacks", "timm", "matplotlib", "scipy"} & set(imported)


CHANGES = {
    "input_size = [16, 16]": {
        "input_size = [16]": "input_size",
        "input_size = 16": "input_size",
        "input_size = [16, 0]": "input_size",
        "input_size = [16, -16]": "input_size",
        'input_size = ["a", 16]': "input_size",
        "input_size = [16, 16]\narguments = [1]": "arguments",
        "input_size = [16, 16]\narguments = { pretrained = true }": "weights are given as `weights`",
    },
    'source = "python:tiny:net"': {
        'source = "tiny"': 'source must be "kind:name"',
        'source = "resnet18"': 'source must be "kind:name"',
        'source = "keras:resnet"': "torchvision, timm",
        'source = "torchvision:"': 'source must be "kind:name"',
        "source = 5": "classifier.source",
    },
    '"horizontal", "vertical"': {
        '"vertical", "vertical"': "'vertical' stands twice",
        '"\\u001b[2Ja", "\\u001b[2Ja"': "stands twice",
    },
    'classes = ["horizontal", "vertical", "diagonal", "checker"]': {
        "classes = []": "at least two different names",
        'classes = ["one"]': "at least two different names",
        "classes = [1, 2]": "classes",
    },
    "mean = [0.5, 0.5, 0.5]": {
        "mean = [0.5, 0.5]": "preprocessing.mean",
        "mean = [0.5, 0.5, 0.5, 0.5]": "preprocessing.mean",
        "mean = 0.5": "preprocessing.mean",
        "mean = [0.5, 0.5, nan]": "preprocessing.mean",
        "crop = 8, mean = [0.5, 0.5, 0.5]": "crop (8, 8) must equal input_size (16, 16)",
        "resize = 8, mean = [0.5, 0.5, 0.5]": "leaves less than input_size",
    },
    "std = [0.25, 0.25, 0.25]": {"std = [0.25, 0.25]": "preprocessing.std", "std = [0.25, 0, 0.25]": "above 0"},
}


@pytest.mark.parametrize(("old", "new", "said"), [(a, b, c) for a, each in CHANGES.items() for b, c in each.items()])
@pytest.mark.parametrize("command", [cli.train, cli.evaluate])
def test_a_wrong_classifier_is_one_line_and_2(
    tmp_path: Path, old: str, new: str, said: str, command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in MINIMAL
    (tmp_path / "config.toml").write_text(MINIMAL.replace(old, new))
    assert command(["--config", str(tmp_path / "config.toml")]) == 2  # type: ignore[operator]
    told = capsys.readouterr().err
    assert told.startswith("error: ") and said in told and told.count("\n") == 1 and "\x1b" not in told
    assert "pydantic.dev" not in told


def write_images(folder: Path, *classes: str) -> None:
    import numpy as np
    from PIL import Image

    for at, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.random.default_rng(100 * at + number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classifier": 'source = "torchvision:resnet18"\nweights = "IMAGENET1K_V9"'}, "no weights 'IMAGENET1K_V9'"),
        ({"classifier": 'source = "torchvision:resnet81"'}, "no classifier 'resnet81'"),
        ({"classifier": 'source = "python:tiny:nets"'}, "no factory 'nets'"),
        ({"classifier": 'source = "python:tiny:net"\narguments = { widht = 3 }'}, "could not be built"),
        ({"classifier": 'source = "python:tiny:net"\nweights = "none.safetensors"'}, "no weights file"),
        ({"classes": "labels"}, "'cat' stands twice"),
        ({"classes": "folders"}, "at least two different names, got 1"),
        ({"set": 'evidence.layers=["blok1"]'}, "blok1"),
    ],
)
def test_what_only_torch_can_tell_is_one_line_and_2(
    tmp_path: Path, change: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", *(("cat",) if change.get("classes") == "folders" else ("cat", "dog")))
    (tmp_path / "labels.txt").write_text("cat\ncat\n")
    labels = f'labels = "{tmp_path}/labels.txt"' if change.get("classes") == "labels" else ""
    source = change.get("classifier", 'source = "python:tiny:net"\narguments = { classes = 2 }')
    (tmp_path / "config.toml").write_text(
        f'work = "{tmp_path}/work"\nthreads = 1\n[classifier]\n{source}\n{labels}\ninput_size = [16, 16]\n'
        f'[images]\nsource = "{tmp_path}/images"\nsplits = {{ calibrate = 0.5 }}\n'
        '[[attacks]]\nname = "FGSM"\nlabel = "fgsm"\nfamily = "one-step"\n'
    )
    extra = ["--set", change["set"]] if "set" in change else []
    assert cli.train(["--config", str(tmp_path / "config.toml"), *extra]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert line == told.splitlines()[-1]


def test_words_that_steer_a_terminal_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.train(["--\x1b[2K\nerror: all is well"])
    assert cli.train(["--config", f"{tmp_path}/\x1b[2K\n.toml"]) == 2
    told = capsys.readouterr().err
    assert "\x1b" not in told and "\\x1b[2K\\nerror" in told and "\\x1b[2K\\n.toml" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--sed=5"], "there is no option '--sed'; did you mean '--seed'?"),
        (["evaluate", "--leave-outt"], "there is no option '--leave-outt'; did you mean '--leave-out'?"),
        (["train", "x" * 10**6], "argument stage: invalid choice: 'xxx"),
        (["demo", "a\x1b[2K\nb"], "unrecognized arguments: a\\x1b[2K\\nb"),
    ],
)
def test_a_wrong_word_is_answered_on_one_short_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        heatward_cli.main(words)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and said in err and err.count("\n") == 1 and len(err) < 800
