"""Jobs that sign what they make, and vouch for nothing that their key has not signed before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from PIL import Image
from safetensors.torch import save_file
from signers import pair
from small_bundles import save_small, small_bundle
from tiny_store import NEVER, make_store, words

from detector.bundle import load_bundle, save_bundle, sign_bundle, verify_bundle
from detector.bundle.archive import SIGNATURE, read_files
from detector.bundle.folder import POINTER, newest
from detector.detector import Detector
from detector.errors import SignatureError
from forensics.report import app
from training.job import Job
from training.retraining import adapt_cli, cli
from training.retraining.store import Store
from training.stages import evaluate


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, image in enumerate(tiny.images(count, seed=77).images):
        pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def recalibrate(target: Path, clean: Path, *more: str) -> int:
    return cli.recalibrate([str(target), "--clean", str(clean), "--trusted", "tiny", "--rate", "0.05", *more])


def is_signed(path: Path) -> bool:
    return SIGNATURE in read_files(path)[0]


def test_a_trained_bundle_is_signed_and_otherwise_the_same(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, trusted = pair(place)
    out = place / "signed.heatward"
    asked = ["bundle", "--config", str(source / "config.toml"), "--work", str(place / "work"), "--out", str(out)]
    assert app.train([*asked, "--sign-key", str(place / "key.pem")]) == 0
    assert f"signed by {key.name[:16]}" in capsys.readouterr().err
    assert verify_bundle(out, trusted)[0] == load_bundle(trained / "detector.heatward").manifest.digest
    assert str(place) not in load_bundle(out).manifest.model_dump_json()


@pytest.mark.parametrize("command", ["train", "retrain", "recalibrate"])
def test_a_wrong_key_is_said_before_anything_is_made(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    save_small(tmp_path / "store" / "a.heatward")
    pair(tmp_path)
    config = ["--config", str(source / "config.toml"), "--work", str(tmp_path / "work")]
    words = {
        "train": [*config, "--out", str(tmp_path / "a.heatward")],
        "retrain": [*config, "--champion", str(tmp_path / "store")],
        "recalibrate": [str(tmp_path / "store"), "--clean", str(tmp_path)],
    }[command]
    run = {"train": app.train, "retrain": app.retrain, "recalibrate": cli.recalibrate}[command]
    assert run([*words, "--sign-key", str(tmp_path / "key.pub")]) == 2
    assert "sign_key: " in (said := capsys.readouterr().err) and "holds a public key" in said
    assert not (tmp_path / "work").exists() and not (tmp_path / "store" / POINTER).exists()


def test_a_key_that_is_open_to_others_is_used_with_a_warning(
    source: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair(place)
    (place / "key.pem").chmod(0o644)
    out = place / "a.heatward"
    asked = ["bundle", "--config", str(source / "config.toml"), "--work", str(place / "work"), "--out", str(out)]
    assert app.train([*asked, "--sign-key", str(place / "key.pem")]) == 0
    assert capsys.readouterr().err.count("warning: ") == 1 and is_signed(out)


def test_a_champion_is_signed_before_the_pointer_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, trusted = pair(tmp_path)
    save_small(tmp_path / "store" / "a.heatward", "a")
    store = Store.open(tmp_path / "store")
    first = store.champion()
    seen: list[str] = []

    def point(folder: Path, champion: object) -> None:
        for path in folder.glob("0001*.heatward"):
            seen.append(verify_bundle(path, trusted)[1])
        raise OSError("the machine stops here")

    with monkeypatch.context() as patched:
        patched.setattr("training.retraining.store.write_champion", point)
        with pytest.raises(OSError, match="stops here"):
            store.promote(small_bundle("b"), "promoted", "better", first, key)
    assert seen == [key.name]
    promoted = store.promote(small_bundle("b"), "promoted", "better", first, key)
    assert verify_bundle(store.path(promoted), trusted)[0] == promoted.digest


def test_a_bundle_that_is_there_unsigned_is_signed_when_it_becomes_champion(tmp_path: Path) -> None:
    key, trusted = pair(tmp_path)
    save_small(tmp_path / "store" / "a.heatward", "a")
    save_small(tmp_path / "store" / "b", "b")
    store = Store.open(tmp_path / "store")
    first = store.rollback("a")
    for letter in "ba":
        promoted = store.promote(small_bundle(letter), "promoted", "better", first, key)
        assert promoted.bundle.startswith(letter)
        assert verify_bundle(store.path(promoted), trusted)[0] == promoted.digest
        first = promoted


def test_a_retraining_signs_its_champion_and_nothing_that_is_not_promoted(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, trusted = pair(place)
    store = make_store(place, trained, NEVER)
    asked = words(source, place, "--sign-key", str(place / "key.pem"))
    assert app.retrain(asked) == 1  # whose the champion is, nobody knows
    assert "first.heatward is not signed" in capsys.readouterr().err
    assert not (place / "work" / "retrain" / "challenger.heatward").exists()
    sign_bundle(store.folder / "first.heatward", key)
    assert app.retrain(asked) == 0
    champion = newest(store.folder)
    assert champion.name != "first.heatward" and verify_bundle(champion, trusted)[1] == key.name
    assert app.retrain(asked) == 3
    assert not is_signed(place / "work" / "retrain" / "challenger.heatward")


def test_new_thresholds_are_signed_only_on_a_signed_bundle(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, trusted = pair(tmp_path)
    other, _ = pair(tmp_path, "other")
    store, signing = make_store(tmp_path, trained, NEVER), ("--sign-key", str(tmp_path / "key.pem"))
    first, clean = store.champion(), write_images(tmp_path / "clean", 30)
    for unsigned in (True, False):
        assert recalibrate(store.folder, clean, *signing) == 1
        assert ("is not signed" if unsigned else "is signed by the key") in capsys.readouterr().err
        sign_bundle(store.path(first), other)
    assert store.champion() == first
    sign_bundle(store.path(first), key)
    assert recalibrate(store.folder, clean, *signing) == 0
    assert verify_bundle(newest(store.folder), trusted)[0] == store.champion().digest != first.digest
    assert "will not be" not in capsys.readouterr().err
    assert recalibrate(store.folder, write_images(tmp_path / "more", 31)) == 0  # a person may sign it later
    assert "its successor will not be: servers with bundle_keys refuse" in capsys.readouterr().err
    assert not is_signed(newest(store.folder))
    out = tmp_path / "new.heatward"
    assert recalibrate(store.path(first), clean, *signing, "--out", str(out)) == 0
    assert verify_bundle(out, trusted)[1] == key.name
    capsys.readouterr()
    assert recalibrate(out, clean, "--out", str(tmp_path / "unsigned.heatward")) == 0
    assert "new.heatward is signed, its successor will not be" in capsys.readouterr().err


def test_an_adapted_bundle_is_signed_only_if_the_old_one_is(
    source: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    key, trusted = pair(tmp_path)
    monkeypatch.setenv("HEATWARD_SIGN_KEY", str(tmp_path / "key.pem"))
    save_file(tiny.trained_weights(seed=5), str(tmp_path / "new.safetensors"))
    old = tmp_path / "old.heatward"
    old.write_bytes((trained / "detector.heatward").read_bytes())
    asked = [str(old), "--config", str(source / "config.toml"), "--work", "work", "--out", "new.heatward"]
    asked += ["--trusted", "tiny", "--weights", "new.safetensors", "--fraction", "0.5"]
    assert adapt_cli.adapt(asked) == 1
    assert "old.heatward is not signed" in capsys.readouterr().err and not (tmp_path / "new.heatward").exists()
    sign_bundle(old, key)
    assert adapt_cli.adapt(asked) == 0
    assert verify_bundle("new.heatward", trusted)[1] == key.name
    assert not is_signed(tmp_path / "work" / "adapted.heatward")
    monkeypatch.delenv("HEATWARD_SIGN_KEY")
    capsys.readouterr()
    assert adapt_cli.adapt(asked) == 0
    assert "old.heatward is signed, its successor will not be" in capsys.readouterr().err
    assert not is_signed(tmp_path / "new.heatward")


def test_what_was_measured_is_another_bundle_that_no_old_signature_fits(
    source: Path, trained: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, trusted = pair(place)
    bundle, out = place / "old.heatward", place / "measured.heatward"
    made = load_bundle(trained / "detector.heatward")
    save_bundle(bundle, replace(made, manifest=made.manifest.model_copy(update={"measured": {}})))
    asked = ["--config", str(source / "config.toml"), "--work", str(place / "work"), "--bundle", str(bundle)]
    asked += ["--out", str(out)]
    signing = ("--sign-key", str(place / "key.pem"))
    assert app.evaluate([*asked, *signing]) == 1
    assert "old.heatward is not signed" in capsys.readouterr().err and not out.exists()
    before = sign_bundle(bundle, key)
    assert app.evaluate([*asked, *signing]) == 0
    assert verify_bundle(out, trusted)[0] != before and load_bundle(out).manifest.measured
    assert "will not be" not in capsys.readouterr().err
    assert app.evaluate(asked) == 0
    assert "old.heatward is signed, its successor will not be" in capsys.readouterr().err
    assert not is_signed(out) and is_signed(bundle)


def test_without_a_key_nothing_is_signed(trained: Path, tmp_path: Path) -> None:
    _, trusted = pair(tmp_path)
    assert not is_signed(trained / "detector.heatward")
    with pytest.raises(SignatureError):
        load_bundle(trained / "detector.heatward", trusted)


def test_an_evaluated_bundle_is_signed_by_the_key_of_the_one_it_was(
    source: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, trusted = pair(place)
    asked = ["--config", str(source / "config.toml"), "--work", str(place / "work")]
    signing = ["--sign-key", str(place / "key.pem")]
    first, told, bare = (place / f"{name}.heatward" for name in ("first", "told", "bare"))
    assert app.train(["bundle", *asked, "--out", str(bare)]) == 0
    assert app.evaluate([*asked, *signing, "--bundle", str(bare), "--out", str(told)]) == 1
    assert "is not signed" in capsys.readouterr().err and not told.exists()
    sign_bundle(bare, key)
    bare.rename(first)
    assert app.evaluate([*asked, *signing, "--bundle", str(first), "--out", str(told)]) == 0
    assert load_bundle(told, trusted).manifest.measured


def test_what_was_measured_is_written_into_the_bundle_that_was_measured(
    source: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--config", str(source / "config.toml"), "--work", str(place / "work")]
    bundle, told = place / "bundle.heatward", place / "told.heatward"
    assert app.train(["bundle", *asked, "--out", str(bundle)]) == 0
    before = load_bundle(bundle).calibration_scores

    def replaced(job: Job, detector: Detector) -> None:
        measured(job, detector)
        save_small(bundle)

    measured = evaluate.evaluate_detector
    monkeypatch.setattr(evaluate, "evaluate_detector", replaced)
    assert app.evaluate([*asked, "--bundle", str(bundle), "--out", str(told)]) == 0
    assert load_bundle(told).calibration_scores.equal(before)
