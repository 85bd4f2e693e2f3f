"""A bundle is fitted to a new release of its classifier from few images; what cannot be adapted is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file

from detector.bundle import load_bundle, read_manifest, save_bundle
from detector.detector import Detector
from training.retraining import adapt_cli


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a new release."""
    path = tmp_path_factory.mktemp("release") / "new.safetensors"
    save_file(tiny.trained_weights(seed=5), str(path))
    return path


def words(source: Path, trained: Path, place: Path, *more: str) -> list[str]:
    """Of `heatward adapt`."""
    where = [
        "--config",
        str(source / "config.toml"),
        "--work",
        str(place / "work"),
        "--out",
        str(place / "new.heatward"),
    ]
    return [str(trained / "detector.heatward"), *where, "--trusted", "tiny", *more]


def test_a_bundle_for_the_new_weights(
    source: Path,
    trained: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = words(source, trained, tmp_path, "--weights", str(weights), "--fraction", "0.5", "--json")
    assert adapt_cli.adapt(asked) == 0
    told = json.loads(capsys.readouterr().out)
    old, new = (load_bundle(path) for path in (trained / "detector.heatward", tmp_path / "new.heatward"))
    assert told["parent"] == old.manifest.digest == new.manifest.provenance["parent"]
    assert told["digest"] == new.manifest.digest and told["classifier"] == new.manifest.fingerprint
    assert new.manifest.fingerprint != old.manifest.fingerprint
    assert new.manifest.witness_fingerprint == old.manifest.witness_fingerprint
    assert told["images"]["fit"] == 20  # half of 100 - 24 - 20 - 16
    assert {row["label"] for row in told["before"]["attacks"]} == {"fgsm", "pgd", "mean"}
    assert told["before"]["attacks"] != told["after"]["attacks"]
    assert new.manifest.provenance["fit"] == old.manifest.provenance["fit"]
    # it is one that serves: around the new weights, and by its own thresholds
    for name, tensor in tiny.trained_weights(seed=5).items():
        assert new.classifier_weights is not None and torch.equal(new.classifier_weights[name], tensor)
    images = tiny.images(4, seed=8).images
    assert len(Detector.assemble(new, allow=("tiny",)).detect(images)) == 4
    assert (tmp_path / "work" / "adapt").exists() is False


def test_the_same_command_goes_on_and_gives_the_same(
    source: Path, trained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(source, trained, tmp_path, "--weights", str(weights), "--fit-images", "12")
    assert adapt_cli.adapt(asked) == 0
    assert "the old detector as it was → the adapted one" in capsys.readouterr().out
    first = (tmp_path / "new.heatward").read_bytes()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "attack").rglob("*.safetensors")}
    (tmp_path / "work" / "fit" / "settings.json").unlink()
    assert adapt_cli.adapt(asked) == 0
    assert (tmp_path / "new.heatward").read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_networks_begin_with_the_old_ones(source: Path, trained: Path, weights: Path, tmp_path: Path) -> None:
    asked = words(source, trained, tmp_path, "--weights", str(weights), "--fraction", "1")
    bundle = load_bundle(trained / "detector.heatward")
    known = {**bundle.manifest.provenance, "fit": {**bundle.manifest.provenance["fit"], "learning_rate": 1e-12}}  # type: ignore[dict-item]
    save_bundle(
        tmp_path / "old.heatward", replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": known}))
    )
    assert adapt_cli.adapt([str(tmp_path / "old.heatward"), *asked[1:]]) == 0
    new = load_bundle(tmp_path / "new.heatward")
    compared = [name for name in bundle.network_weights if name.startswith("0.")]
    assert compared
    for name in compared:
        assert torch.allclose(bundle.network_weights[name].float(), new.network_weights[name].float(), atol=1e-4), name


def test_what_few_images_do_not_vouch_for_is_left_out_and_said(
    source: Path, trained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(source, trained, tmp_path, "--weights", str(weights), "--fit-images", "12")
    table = tmp_path / "config.toml"
    table.write_text((source / "config.toml").read_text() + "\n[cascade]\nclears = 0.5\n\n[calibrate]\nrate = 0.05\n")
    asked[asked.index("--config") + 1] = str(table)
    wanted = ("--set", "calibrate.tail=true", "--set", 'calibrate.by="prediction"')
    assert adapt_cli.adapt([*asked, *wanted]) == 0
    said = capsys.readouterr().err
    assert "estimates no tail. calibrate.tail: an estimate needs at least 200 calibration images" in said
    assert "among those of all classes. calibrate.rate: 24 calibration images" in said
    assert "cascade" not in said, "the file does not decide that"
    assert read_manifest(tmp_path / "new.heatward").calibration == {}


def test_another_architecture_begins_anew(
    source: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tiny, "net", partial(tiny.net, width=6))
        save_file(tiny.trained_weights(), str(tmp_path / "wide.safetensors"))
    more = ("--weights", str(tmp_path / "wide.safetensors"), "--set", "classifier.arguments={ width = 6 }")
    asked = words(source, trained, tmp_path, *more, "--classifier", "python:tiny:net", "--allow-inaccurate")
    asked += ["--fraction", "1", "--json"]
    code = adapt_cli.adapt(asked)
    said = capsys.readouterr()
    assert code == 0, said.err
    assert json.loads(said.out)["before"] is None
    assert "other shapes: the old detector cannot be asked" in said.err


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [
        ((), 2, "say what is new: --weights FILE"),
        (("--weights", "none.safetensors"), 2, "There is no weights file none.safetensors"),
        (("--weights", "{folder}/other.safetensors"), 2, "does not fit the net"),
        (("--weights", "{source}/net.safetensors"), 2, "guards this very classifier"),
        (("--weights", "{weights}", "--labels", "{folder}/labels.txt"), 2, "other classes, or in another order"),
        (("--weights", "{weights}", "--fit-images", "1000"), 1, "1000 images to fit on are wanted, 40 are there"),
        (("--weights", "{weights}", "--set", "fit.epochs=3"), 2, "the bundle decides that"),
        (("--weights", "{weights}", "--out", "{trained}/detector.heatward"), 2, "is the old bundle"),
        (("--weights", "{weights}", "--out", "{folder}/labels.txt/new.heatward"), 2, "cannot be written"),
        (("--classifier", "torchscript:{folder}/program.pt"), 1, "shows no inner layers"),
    ],
)
def test_what_cannot_be_adapted(
    more: tuple[str, ...],
    code: int,
    expected: str,
    source: Path,
    trained: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file(tiny.net(width=6).state_dict(), str(tmp_path / "other.safetensors"))
    (tmp_path / "labels.txt").write_text("\n".join(reversed(tiny.CLASSES)))
    if any("torchscript" in word for word in more):
        with pytest.warns(DeprecationWarning):
            program = torch.jit.trace(tiny.net().eval(), torch.rand(2, 3, 16, 16))
            torch.jit.save(program, str(tmp_path / "program.pt"))
    places = {"folder": tmp_path, "source": source, "weights": weights, "trained": trained}
    asked = words(source, trained, tmp_path, *(word.format(**places) for word in more))
    before = read_manifest(trained / "detector.heatward").digest
    assert adapt_cli.adapt(asked) == code
    assert expected in capsys.readouterr().err
    assert read_manifest(trained / "detector.heatward").digest == before and not (tmp_path / "new.heatward").exists()


def test_code_of_a_bundle_from_elsewhere_is_not_run(
    source: Path, trained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [word for word in words(source, trained, tmp_path) if word not in ("--trusted", "tiny")]
    assert adapt_cli.adapt([*asked, "--weights", str(weights)]) == 2
    assert "runs code from 'tiny', which is not trusted" in capsys.readouterr().err


def test_a_bundle_that_does_not_know_its_recipe(
    source: Path, trained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(trained / "detector.heatward")
    save_bundle(
        tmp_path / "bare.heatward", replace(bundle, manifest=bundle.manifest.model_copy(update={"provenance": {}}))
    )
    asked = [str(tmp_path / "bare.heatward"), *words(source, trained, tmp_path)[1:], "--weights", str(weights)]
    assert adapt_cli.adapt(asked) == 1
    assert "does not say what it was made with (no attacks, fit, twins" in capsys.readouterr().err


def changed(trained: Path, place: Path, **provenance: Any) -> Path:
    """The bundle with another past."""
    bundle = load_bundle(trained / "detector.heatward")
    manifest = bundle.manifest.model_copy(update={"provenance": {**bundle.manifest.provenance, **provenance}})
    save_bundle(place / "changed.heatward", replace(bundle, manifest=manifest))
    return place / "changed.heatward"


def test_deliveries_are_part_of_the_recipe(
    source: Path, trained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = [
        {"label": "jpeg", "steps": [{"jpeg": 80}], "of": ["pgd"]},
        {"label": "chat", "steps": [{"resize": 0.7}], "train": False},
    ]
    bundle = changed(trained, tmp_path, deliveries=ways)
    asked = words(source, trained, tmp_path, "--weights", str(weights), "--fraction", "0.5", "--json")
    assert adapt_cli.adapt([str(bundle), *asked[1:]]) == 0
    told = json.loads(capsys.readouterr().out)
    labels = [row["label"] for row in told["after"]["attacks"]]
    assert (
        labels
        == ["fgsm", "pgd", "pgd@jpeg", "mean", "mean@jpeg"]
        == [row["label"] for row in told["before"]["attacks"]]
    )
    made = load_bundle(tmp_path / "new.heatward").manifest.provenance["deliveries"]
    assert [each["label"] for each in made] == ["jpeg"]  # type: ignore[index,union-attr,call-overload]


def test_what_else_the_file_says_does_not_count(
    source: Path, trained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (source / "config.toml").read_text().replace("[classifier]", "[classifier]\narguments = { width = 5 }")
    text += '[[deliveries]]\nlabel = "jpeg"\nsteps = [{ jpeg = 80 }]\nof = ["fgsm"]\n'
    (tmp_path / "config.toml").write_text(text)
    asked = words(source, trained, tmp_path, "--weights", str(weights), "--fit-images", "12", "--json")
    asked[asked.index("--config") + 1] = str(tmp_path / "config.toml")
    assert adapt_cli.adapt(asked) == 0, capsys.readouterr().err
    assert {row["label"] for row in json.loads(capsys.readouterr().out)["after"]["attacks"]} == {"fgsm", "pgd", "mean"}


def test_an_attack_that_a_bundle_names_is_not_called_unless_trusted(
    source: Path, trained: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = {"name": "python:antigravity:fly", "label": "fly", "family": "one-step", "parameters": {}}
    bundle = changed(trained, tmp_path, attacks=[theirs])
    asked = words(source, trained, tmp_path, "--weights", str(weights))
    assert adapt_cli.adapt([str(bundle), *asked[1:]]) == 2
    assert "runs code from 'antigravity', and that is not trusted" in capsys.readouterr().err
    assert "antigravity" not in sys.modules
