"""The artefact: the same bytes for the same content, and an error that says which when it cannot be trusted."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.bundle import EMBEDDED, Bundle, Manifest, load_bundle, save_bundle
from detector.bundle import archive as container
from detector.bundle import bundle as bundle_module
from detector.classifier import Classifier, load_classifier
from detector.detector import Detector
from detector.errors import BundleDamagedError, BundleError, BundleForeignError, BundleVersionError

WEIGHTS = tiny.net().state_dict()


def make(**updates: Any) -> Bundle:
    network = {"encoder.weight": torch.arange(24.0).reshape(2, 3, 4), "head.bias": torch.tensor([0.1, -0.3])}
    fields: dict[str, Any] = {
        "manifest": Manifest(
            heatward_version="0.1.0",
            classifier=tiny.SPEC,
            fingerprint="f" * 64,
            evidence={"layers": ["block1"], "steps": 3},
            families=("iterative", "minimum-norm"),
            operating_points={"0.01": 3.25},
            measured={"auroc": {"PGD": 0.999}, "undefined": float("inf")},
            provenance={"seed": 0},
        ),
        "classifier_weights": WEIGHTS,
        "network_weights": network,
        "calibration_scores": torch.linspace(0, 1, 30, dtype=torch.float64),
    }
    return Bundle(**{**fields, **updates})


SMALL = make(classifier_weights=None, manifest=make().manifest.model_copy(update={"measured": {}}))


def assert_same(loaded: Bundle, original: Bundle) -> None:
    ignored = {"files"}
    assert loaded.manifest.model_dump(exclude=ignored) == original.manifest.model_dump(exclude=ignored)
    for one, other in (
        (loaded.network_weights, original.network_weights),
        (loaded.classifier_weights or {}, original.classifier_weights or {}),
        ({"scores": loaded.calibration_scores}, {"scores": original.calibration_scores}),
        (loaded.reliability or {}, original.reliability or {}),
        (loaded.calibration_groups or {}, original.calibration_groups or {}),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def test_a_cascade_comes_back_and_without_one_nothing_is_said_of_it(tmp_path: Path) -> None:
    described = {"threshold": 0.25, "clears": 0.7}
    whole = make(
        glance_weights={"0.a": torch.ones(2)}, manifest=make().manifest.model_copy(update={"cascade": described})
    )
    save_bundle(tmp_path / "a.heatward", whole)
    loaded = load_bundle(tmp_path / "a.heatward")
    assert loaded.manifest.cascade == described
    assert loaded.glance_weights is not None and torch.equal(loaded.glance_weights["0.a"], torch.ones(2))
    save_bundle(tmp_path / "b.heatward", SMALL)
    assert "cascade" not in json.loads(files_of(tmp_path / "b.heatward")["manifest.json"])  # older releases read it
    assert load_bundle(tmp_path / "b.heatward").glance_weights is None


def test_a_cascade_without_its_networks_is_damaged(tmp_path: Path) -> None:
    save_bundle(tmp_path / "a.heatward", make(manifest=make().manifest.model_copy(update={"cascade": {"clears": 0.7}})))
    with pytest.raises(BundleDamagedError, match="lacks its file glance"):
        load_bundle(tmp_path / "a.heatward")


def rezip(path: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def files_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "saved.heatward", make())
    return tmp_path / "saved.heatward"


# --- round trip


@pytest.mark.parametrize("name", ["detector.heatward", "detector"])
def test_what_was_saved_is_loaded(tmp_path: Path, name: str) -> None:
    save_bundle(tmp_path / name, make())
    assert_same(load_bundle(tmp_path / name), make())
    assert_same(load_bundle(str(tmp_path / name)), make())
    assert os.listdir(tmp_path) == [name]


def test_a_bundle_without_the_classifiers_weights(tmp_path: Path) -> None:
    save_bundle(tmp_path / "b.heatward", SMALL)
    assert load_bundle(tmp_path / "b.heatward").classifier_weights is None


def test_the_classifier_comes_back_with_its_fingerprint(tmp_path: Path, tiny_classifier: Classifier) -> None:
    save_bundle(tmp_path / "b.heatward", make(classifier_weights=tiny_classifier.state_dict()))
    bundle = load_bundle(tmp_path / "b.heatward")
    again = load_classifier(bundle.manifest.classifier, state_dict=bundle.classifier_weights, allow=("tiny",))
    assert again.fingerprint == tiny_classifier.fingerprint


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    reordered = dict(reversed(make().network_weights.items()))
    strided = {
        name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in WEIGHTS.items()
    }
    save_bundle(tmp_path / "first.heatward", make())
    save_bundle(tmp_path / "second.heatward", make(network_weights=reordered, classifier_weights=strided))
    save_bundle(tmp_path / "third.heatward", load_bundle(tmp_path / "first.heatward"))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_half_precision_halves_weights_but_not_scores(tmp_path: Path) -> None:
    save_bundle(tmp_path / "b.heatward", make(), half=True)
    loaded = load_bundle(tmp_path / "b.heatward")
    assert loaded.network_weights["encoder.weight"].dtype == torch.float16
    assert loaded.calibration_scores.dtype == torch.float64
    assert loaded.classifier_weights is not None
    assert loaded.classifier_weights["block1.norm.num_batches_tracked"].dtype == torch.int64
    with pytest.raises(BundleError, match=r"head\.bias has values beyond"):
        save_bundle(tmp_path / "c.heatward", make(network_weights={"head.bias": torch.tensor([1e6])}), half=True)


def test_no_path_of_this_machine_is_embedded(tmp_path: Path) -> None:
    spec = tiny.SPEC.model_copy(update={"weights": "/home/someone/net.safetensors"})
    manifest = make().manifest.model_copy(update={"classifier": spec})
    save_bundle(tmp_path / "b.heatward", make(manifest=manifest))
    assert b"someone" not in (tmp_path / "b.heatward").read_bytes()


# --- damage


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_damaged(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BundleDamagedError if kept else BundleForeignError):
        load_bundle(saved)


@pytest.mark.parametrize("name", ["network.safetensors", "classifier.safetensors", "calibration.safetensors"])
def test_a_changed_file_is_named(saved: Path, name: str) -> None:
    contents = files_of(saved)
    contents[name] = contents[name][:-1] + bytes([contents[name][-1] ^ 1])
    with pytest.raises(BundleDamagedError, match=f"{name} differs"):
        load_bundle(rezip(saved, contents))


@pytest.mark.parametrize(
    "name", ["network.safetensors", "classifier.safetensors", "calibration.safetensors", "manifest.json"]
)
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    contents = files_of(saved)
    del contents[name]
    with pytest.raises(BundleDamagedError, match=f"lacks its file {name}"):
        load_bundle(rezip(saved, contents))


def test_a_manifest_edited_by_hand_is_noticed(tmp_path: Path) -> None:
    save_bundle(tmp_path / "b", make())
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("3.25", "1.25"))
    with pytest.raises(BundleDamagedError, match=r"manifest\.json differs"):
        load_bundle(tmp_path / "b")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_one_flipped_bit_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    save_bundle(folder / "b.heatward", SMALL)
    data = bytearray((folder / "b.heatward").read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    (folder / "b.heatward").write_bytes(data)
    try:
        loaded = load_bundle(folder / "b.heatward")
    except BundleError as error:
        assert "b.heatward" in str(error)
    else:
        assert_same(loaded, SMALL)  # a time stamp or an attribute of the zip


# --- foreign, newer


@pytest.mark.parametrize("content", [b"", b"\x89PNG rubbish", b"{}"])
def test_a_file_that_is_no_zip_is_foreign(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.heatward").write_bytes(content)
    with pytest.raises(BundleForeignError, match=r"b\.heatward is no heatward bundle"):
        load_bundle(tmp_path / "b.heatward")


def test_somebody_elses_zip_is_foreign(tmp_path: Path) -> None:
    with pytest.raises(BundleForeignError, match=r"no manifest\.json"):
        load_bundle(rezip(tmp_path / "b.heatward", {"word/document.xml": b"<xml/>"}))
    with pytest.raises(BundleForeignError, match="not that of a heatward bundle"):
        load_bundle(rezip(tmp_path / "b.heatward", {"manifest.json": b'{"name": "an extension"}'}))
    with pytest.raises(BundleForeignError, match=r"no manifest\.json"):
        load_bundle(tmp_path.parent)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no bundle"):
        load_bundle(tmp_path / "b.heatward")


def test_a_newer_schema_says_update_even_with_files_we_do_not_know(saved: Path) -> None:
    contents = files_of(saved)
    manifest = json.loads(contents["manifest.json"]) | {"schema_version": 5, "heatward_version": "9.1", "new": 1}
    contents |= {"manifest.json": json.dumps(manifest).encode(), "masks.safetensors": b""}
    with pytest.raises(BundleVersionError, match=r"schema version 5 \(written by heatward 9\.1\).*update heatward"):
        load_bundle(rezip(saved, contents))


def test_an_older_schema_says_train_again(saved: Path) -> None:
    contents = files_of(saved)
    contents["manifest.json"] = json.dumps(json.loads(contents["manifest.json"]) | {"schema_version": 3}).encode()
    with pytest.raises(BundleVersionError, match=r"schema version 3.*heatward train"):
        load_bundle(rezip(saved, contents))


@pytest.mark.parametrize("change", [{"evidence_epsilon": 1e-6}, {"evidence_groups": None}, {"of_the_future": 1}])
def test_scores_that_are_made_otherwise_are_refused(saved: Path, change: dict[str, Any]) -> None:
    bundle = load_bundle(saved)
    constants = {**bundle.manifest.constants, **change}
    constants = {name: value for name, value in constants.items() if value is not None}
    save_bundle(saved, make(manifest=bundle.manifest.model_copy(update={"constants": constants})))
    with pytest.raises(BundleVersionError, match=rf"{next(iter(change))} .*this heatward computes with .* train"):
        load_bundle(saved)


@pytest.mark.parametrize("lacking", ["score", "novelty_weight", "margin_share"])
def test_settings_of_the_score_are_the_bundles_own_and_whole(lacking: str) -> None:
    bundle = load_bundle(EMBEDDED)
    settings: Any = copy.deepcopy(bundle.manifest.network["settings"])
    settings["score"]["novelty_weight"] = 0.25
    changed = replace(bundle, manifest=with_settings(bundle.manifest, settings))
    assert Detector.assemble(changed).networks[0].novelty.settings.novelty_weight == 0.25
    (settings if lacking == "score" else settings["score"]).pop(lacking)
    with pytest.raises(BundleVersionError, match=rf"network\.settings.* lacks {lacking}; .*heatward train"):
        Detector.assemble(replace(bundle, manifest=with_settings(bundle.manifest, settings)))


@pytest.mark.parametrize("lacking", ["witness_noise", "candidates", "noise_draws"])
def test_settings_of_the_evidence_are_the_bundles_own_and_whole(lacking: str) -> None:
    bundle = load_bundle(EMBEDDED)
    evidence: Any = copy.deepcopy(bundle.manifest.evidence)
    (evidence if lacking in evidence else evidence["views"]).pop(lacking)
    with pytest.raises(BundleVersionError, match=f"evidence.* lacks {lacking}; "):
        Detector.assemble(replace(bundle, manifest=bundle.manifest.model_copy(update={"evidence": evidence})))


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("evidence", {"views": 3}, r"bad evidence\.views "),
        ("evidence", {"layers": None}, r"bad evidence\.layers "),
        ("network", {"shape": None}, r"bad network\.shape "),
        ("network", {"settings": {"width": "wide"}}, r"bad network\.settings\.width "),
    ],
)
def test_settings_that_are_none_are_the_bundles_damage(part: str, changed: dict[str, Any], said: str) -> None:
    bundle = load_bundle(EMBEDDED)
    settings = {**getattr(bundle.manifest, part), **changed}
    with pytest.raises(BundleDamagedError, match=f"{said}.*train the bundle again"):
        Detector.assemble(replace(bundle, manifest=bundle.manifest.model_copy(update={part: settings})))


def with_settings(manifest: Manifest, settings: Any) -> Manifest:
    return manifest.model_copy(update={"network": {**manifest.network, "settings": settings}})


def test_a_second_look_is_a_file_that_no_bundle_has(saved: Path, tmp_path: Path) -> None:
    """Bundles of 0.2.0 could hold one."""
    contents = files_of(saved) | {"second_look.safetensors": b""}
    described = json.loads(contents["manifest.json"])
    described["files"]["second_look.safetensors"] = hashlib.sha256(b"").hexdigest()
    described["files"]["manifest.json"] = bundle_module._manifest_digest(described)
    contents["manifest.json"] = json.dumps(described).encode()
    with pytest.raises(BundleForeignError, match=r"'second_look\.safetensors', which is no file of a bundle: train"):
        load_bundle(rezip(saved, contents))
    (tmp_path / "folder").mkdir()
    for name, data in contents.items():
        (tmp_path / "folder" / name).write_bytes(data)
    with pytest.raises(BundleForeignError, match=r"'second_look\.safetensors', which is no file of a bundle: train"):
        load_bundle(tmp_path / "folder")


# --- hostile


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "sub/../../evil", "evil.pkl", "a/manifest.json"])
def test_no_member_leaves_the_zip(saved: Path, name: str) -> None:
    with pytest.raises(BundleForeignError, match="no file of a bundle"):
        load_bundle(rezip(saved, files_of(saved) | {name: b"evil"}))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_zip_bomb_is_refused_before_it_unpacks(saved: Path) -> None:
    contents = files_of(saved) | {"network.safetensors": bytes(50 * 2**20)}
    with pytest.raises(BundleForeignError, match="zip bomb"):
        load_bundle(rezip(saved, contents, zipfile.ZIP_DEFLATED))


def test_a_member_over_its_limit_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(container.LIMITS, "network.safetensors", 100)
    with pytest.raises(BundleForeignError, match=r"network\.safetensors would unpack to .* at most 100"):
        load_bundle(saved)


def test_a_member_that_lies_about_its_size_is_damaged(saved: Path) -> None:
    data = saved.read_bytes()
    central = data.rindex(b"PK\x01\x02")  # the last member's entry; its size lies 24 bytes in
    lied = data[: central + 24] + (17).to_bytes(4, "little") + data[central + 28 :]
    saved.write_bytes(lied)
    with pytest.raises(BundleDamagedError):
        load_bundle(saved)


def test_a_bundle_compressed_again_by_hand_still_loads(saved: Path) -> None:
    rezip(saved, files_of(saved), zipfile.ZIP_DEFLATED)
    assert load_bundle(saved).manifest.fingerprint == "f" * 64


# --- writing


@pytest.mark.parametrize("name", ["b.heatward", "b"])
def test_a_bundle_replaces_its_predecessor(tmp_path: Path, name: str) -> None:
    save_bundle(tmp_path / name, make())
    save_bundle(tmp_path / name, SMALL)
    assert_same(load_bundle(tmp_path / name), SMALL)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["b.heatward", "b"])
def test_a_write_that_dies_leaves_the_old_bundle(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bundle(tmp_path / name, SMALL)

    def power_cut(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(KeyboardInterrupt):
        save_bundle(tmp_path / name, make())
    assert_same(load_bundle(tmp_path / name), SMALL)
    assert os.listdir(tmp_path) == [name]


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(BundleError, match="not a bundle's directory"):
        save_bundle(tmp_path / "photos", make())
    assert (tmp_path / "photos" / "cat.jpg").exists()
    assert os.listdir(tmp_path) == ["photos"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    save_bundle(tmp_path / "a" / "b" / "c.heatward", SMALL)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    load_bundle(tmp_path / "copy" / "b" / "c.heatward")


def test_reliability_is_optional_kept_whole_and_adds_one_file(tmp_path: Path) -> None:
    promised = {"levels": torch.rand(3, dtype=torch.float64), "error_rates": torch.rand(3, dtype=torch.float64)}
    with_it, without = tmp_path / "with.heatward", tmp_path / "without.heatward"
    save_bundle(with_it, make(reliability=promised), half=True)
    save_bundle(without, make(), half=True)
    assert files_of(with_it).keys() - files_of(without).keys() == {"reliability.safetensors"}
    found = load_bundle(with_it).reliability
    assert found is not None and all(torch.equal(found[name], promised[name]) for name in promised)
    assert load_bundle(without).reliability is None


def test_groups_of_a_calibration_come_back_and_only_their_bundle_names_them(tmp_path: Path) -> None:
    save_bundle(tmp_path / "plain.heatward", SMALL)
    assert "calibration" not in json.loads(files_of(tmp_path / "plain.heatward")["manifest.json"])
    manifest = SMALL.manifest.model_copy(update={"calibration": {"by": "prediction", "groups": {"cat": 30}}})
    grouped = replace(SMALL, manifest=manifest, calibration_groups={"group": torch.arange(3)})
    save_bundle(tmp_path / "grouped.heatward", grouped)
    assert_same(load_bundle(tmp_path / "grouped.heatward"), grouped)
    assert load_bundle(tmp_path / "plain.heatward").calibration_groups is None


def test_a_witness_that_the_networks_read_must_be_there() -> None:
    bundle = load_bundle(EMBEDDED)
    without = bundle.manifest.model_copy(update={"witness": None, "witness_fingerprint": ""})
    with pytest.raises(BundleDamagedError, match="read what a witness says, and it holds none: train the bundle again"):
        Detector.assemble(replace(bundle, manifest=without, witness_weights=None))
