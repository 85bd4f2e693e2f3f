"""`heatward inspect`: nothing of a manifest is cut, and nothing in it, however odd, steers the terminal."""

from __future__ import annotations

import json
import os
import random
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest
from heatward import cli
from heatward.cli import inspect as module

STEERING = "\x1b[2K\n\u202e"


def estimate(value: float, count: int) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "count": count}


MEASURED = {
    "accuracy": estimate(0.88, 2000),
    "attacks": [
        {
            "label": label,
            "auroc": estimate(0.99, count),
            "tpr": {"0.01": estimate(0.91, count)},
            "recovery": {"all": {"top1": estimate(0.83, count)}},
        }
        for label, count in (("pgd-8", 900), ("cw", 12))
    ],
    "false_positives": {"clean": {"0.01": estimate(0.0123, 2000)}},
}
PROVENANCE = {"attacks": [{"label": f"attack-{n}", "parameters": {"eps": "8/255"}} for n in range(30)], "seed": 7}


def bundle(folder: Path, **changes: Any) -> str:
    manifest = {"format": "heatward-bundle", "measured": MEASURED, "provenance": PROVENANCE, **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def closed_port() -> int:
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return int(once.getsockname()[1])


def test_each_rate_of_a_bundle_stands_beside_its_number_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", bundle(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if line.startswith("attack "))
    assert head.split() == ["attack", "n", "auroc", "tpr_at_1_percent", "tpr_at_5_percent", "recovery"]
    row = lines[lines.index(head) + 1]
    assert " ".join(row.split()) == "pgd-8 900 0.99 [0.98, 1] 0.91 [0.9, 0.92] - 0.83 [0.82, 0.84]"
    assert lines[lines.index(head) + 3] == "fewer than 30 images, so these rates mean little: cw"
    assert "  accuracy: 0.88 [0.87, 0.89] (n = 2000)" in lines
    assert "    clean: 0.01: 0.0123 [0.0023, 0.0223] (n = 2000)" in lines


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("signature", "said"),
    [
        (None, "nobody"),
        ({"key": "a1" * 32, "digest": "d" * 64}, f"key {'a1' * 32}, it says (heatward verify BUNDLE --key FILE tells"),
        ({"key": STEERING, "digest": "d" * 64}, "key "),
        ({"key": "a1" * 32, "digest": "e" * 64}, "a signature of another bundle: it does not fit"),
        ({}, "a signature that cannot be read"),
        ([1], "a signature that cannot be read"),
        ("not JSON", "a signature that cannot be read"),
    ],
)
def test_whose_key_signed_a_bundle_is_told_as_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], signature: Any, said: str, packed: bool
) -> None:
    target = bundle(tmp_path, files={"manifest.json": "d" * 64})
    if signature is not None:
        text = "{" if signature == "not JSON" else json.dumps(signature)
        (tmp_path / "signature.json").write_text(text)
    if packed:
        with zipfile.ZipFile(tmp_path / "a.heatward", "w") as archive:
            for file in tmp_path.glob("*.json"):
                archive.write(file, file.name)
        target = str(tmp_path / "a.heatward")
    assert cli.main(["inspect", target]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("signed by")]
    assert line.removeprefix("signed by").strip().startswith(said) and line.isprintable()
    assert [each.split() for each in out.splitlines() if each.startswith("digest")] == [["digest", "d" * 64]]
    assert cli.main(["inspect", target, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert ("signature" in told) == (signature is not None)
    assert told.get("signature") == (signature if isinstance(signature, dict) else None if signature is None else {})


def test_a_signature_without_end_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = bundle(tmp_path)
    with (tmp_path / "signature.json").open("wb") as file:
        file.truncate(module.MAX_MANIFEST_BYTES + 1)
    assert cli.main(["inspect", target]) == 2
    assert "signature.json is larger than" in capsys.readouterr().err


def test_a_bundle_tells_how_it_is_calibrated_and_what_its_glance_clears(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"clears": 0.65, "threshold": -1.5, "views": ["flip"]}
    cascade = {**told, "shape": {"groups": {}}, "settings": {"width": 256}}
    assert cli.main(["inspect", bundle(tmp_path, calibration={"tail": True}, cascade=cascade)]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("calibrated")
    assert lines[at + 1].split() == ["tail:", "True"]
    at = lines.index("cascade")
    assert [line.strip() for line in lines[at + 1 : at + 4]] == ["clears: 0.65", "threshold: -1.5", "views: flip"]


def test_a_bundle_tells_whether_it_looks_for_patches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for patches, told in (({"area": 0.02, "masks": 36}, True), (None, False), ("odd", False)):
        assert cli.main(["inspect", bundle(tmp_path, patches=patches)]) == 0
        assert ("looked for on request: area: 0.02, masks: 36" in capsys.readouterr().out) == told


def test_a_web_server_that_does_not_answer_is_no_missing_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", f"http://127.0.0.1:{closed_port()}/a.heatward"]) == 2
    said = capsys.readouterr().err
    assert "Cannot connect" in said and "404" not in said


def test_nothing_but_a_list_of_classes_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", bundle(tmp_path, measured={"notes": {"a": ["x" * 500, {"b": None}]}})]) == 0
    out = capsys.readouterr().out
    assert "…" not in out and "x" * 500 in out
    assert all(f"label: attack-{n}, parameters: (eps: 8/255)" in out for n in range(30))


def test_what_a_manifest_says_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = bundle(
        tmp_path,
        families=[STEERING],
        classifier={"classes": [STEERING], "source": STEERING},
        operating_points={STEERING: STEERING},
        measured={STEERING: {STEERING: STEERING}, "attacks": [{"label": STEERING, "auroc": STEERING}]},
        provenance={STEERING: [{STEERING: STEERING}]},
    )
    assert cli.main(["inspect", target]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
    assert cli.main(["inspect", target, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out)["families"] == [STEERING]


@pytest.mark.parametrize(
    "changes",
    [
        {"measured": 1, "provenance": "x", "operating_points": [1], "classifier": None, "families": 3, "files": 1},
        {"measured": {"attacks": [1, {"label": None}, {"label": {}}], "accuracy": {"value": 1}}},
        {"classifier": {"classes": 5, "input_size": "x"}, "measured": {"a": {"b": {"c": {"d": [[1], {}]}}}}},
        {"operating_points": {"x": None}, "measured": {"accuracy": {**estimate(0.5, 1), "value": "high"}}},
    ],
)
def test_a_manifest_of_another_shape_is_shown_as_it_is(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", bundle(tmp_path, **changes)]) == 0
    assert "bundle " in capsys.readouterr().out


def test_json_of_a_manifest_is_valid_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "heatward-bundle", "a": [NaN, -Infinity, "\\ud800"]}')
    assert cli.main(["inspect", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert facts["a"] == [None, None, "\\ud800"]


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_manifest_that_nests_too_deep_is_an_error(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "[" * 900 + "]" * 900
    (tmp_path / "manifest.json").write_text(f'{{"format": "heatward-bundle", "provenance": {{"a": {deep}}}}}')
    assert cli.main(["inspect", str(tmp_path), *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "the manifest nests too deep" in err


def test_a_pipe_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "x.heatward")  # nobody writes: opening it would wait for ever
    assert cli.main(["inspect", str(tmp_path / "x.heatward")]) == 2
    assert "neither a folder nor a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_file_is_an_error_and_no_traceback(
    method: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.heatward"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("manifest.json", json.dumps({"format": "heatward-bundle", "numbers": list(range(300))}))
    whole, dice = path.read_bytes(), random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        path.write_bytes(damaged)
        code = cli.main(["inspect", str(path)])
        err = capsys.readouterr().err
        assert (code, err.count("\n")) in ((0, 0), (2, 1)), err
        assert code == 0 or str(path) in err


def test_a_bundle_is_inspected_by_its_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = pytest.importorskip("fsspec", reason="fsspec comes with the extra heatward[remote]").filesystem("memory")
    with system.open("/shop/my.heatward", "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("manifest.json", json.dumps({"format": "heatward-bundle", "provenance": {"seed": 7}}))
    assert cli.main(["inspect", "memory://shop/my.heatward?key=secret"]) == 2
    said = capsys.readouterr().err
    assert "memory://shop/my.heatward: there is no such object or bucket (404)" in said
    assert "secret" not in said
    assert cli.main(["inspect", "memory://shop/my.heatward"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["bundle", "memory://shop/my.heatward"]
    system.pipe_file("/shop/bad.heatward", b"PK\x03\x04 no zip")
    assert cli.main(["inspect", "memory://shop/bad.heatward"]) == 2
    assert "memory://shop/bad.heatward: cannot be read: BadZipFile" in capsys.readouterr().err
    assert cli.main(["inspect", "nosuch://shop/bad.heatward"]) == 2
    assert "Protocol not known: nosuch" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["dns:///localhost:1", "unix:///no/such.sock", "https://localhost:1"])
def test_the_address_of_a_server_is_no_bundles_url(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", address]) == 2
    assert "404" not in capsys.readouterr().err
    assert not module.URL.fullmatch(address)
