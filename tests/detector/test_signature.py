"""Signed bundles: what the key signed is taken, whatever was done to it since is not."""

from __future__ import annotations

import base64
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from signers import pair
from small_bundles import save_small, small_bundle

from detector.bundle import EMBEDDED, load_bundle, read_manifest, save_bundle, sign_bundle, verify_bundle
from detector.bundle.archive import MANIFEST, SIGNATURE, read_files, write_files
from detector.detector import Detector
from detector.errors import BundleDamagedError, BundleForeignError, SignatureError
from detector.keys import PublicKeys, SigningKey

Pair = tuple[SigningKey, PublicKeys]


@pytest.fixture
def keys(tmp_path: Path) -> Pair:
    return pair(tmp_path)


@pytest.fixture(params=["a.heatward", "a"])
def signed(request: pytest.FixtureRequest, tmp_path: Path, keys: Pair) -> Path:
    path: Path = tmp_path / request.param
    save_bundle(path, small_bundle("a"), key=keys[0])
    return path


def said_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_files(path)[0][SIGNATURE])
    return found


def edit(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    contents = read_files(path)[0]
    change(contents)
    write_files(path, contents)


def test_a_signed_bundle_is_taken_with_its_key_and_without(signed: Path, keys: Pair) -> None:
    key, trusted = keys
    digest = read_manifest(signed).digest
    assert load_bundle(signed, trusted).manifest == load_bundle(signed).manifest
    assert verify_bundle(signed, trusted) == (digest, key.name)
    assert (said_in(signed)["key"], said_in(signed)["digest"]) == (key.name, digest)


def test_signing_afterwards_is_the_same_as_at_once(tmp_path: Path, keys: Pair, signed: Path) -> None:
    later = tmp_path / "later" / signed.name
    digest = save_small(later, "a")
    unsigned = read_files(later)[0]
    with pytest.raises(SignatureError, match=r"is not signed, .*heatward sign .*--key FILE"):
        load_bundle(later, keys[1])
    assert sign_bundle(later, keys[0]) == digest == read_manifest(later).digest
    assert read_files(later)[0] == read_files(signed)[0]
    assert {name: data for name, data in read_files(later)[0].items() if name != SIGNATURE} == unsigned
    if signed.is_file():
        assert later.read_bytes() == signed.read_bytes()  # Ed25519 has no chance in it


def test_a_bundle_keeps_its_signature_however_it_is_packed(tmp_path: Path, signed: Path, keys: Pair) -> None:
    contents = read_files(signed)[0]
    with zipfile.ZipFile(tmp_path / "again.heatward", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents, reverse=True):
            archive.writestr(name, contents[name])
    write_files(tmp_path / "folder", contents)
    for place in (tmp_path / "again.heatward", tmp_path / "folder"):
        assert verify_bundle(place, keys[1]) == verify_bundle(signed, keys[1])


def test_the_signature_of_another_bundle_does_not_fit(tmp_path: Path, signed: Path, keys: Pair) -> None:
    save_bundle(tmp_path / "other.heatward", small_bundle("b"), key=keys[0])
    signature = read_files(tmp_path / "other.heatward")[0][SIGNATURE]
    edit(signed, lambda contents: contents.update({SIGNATURE: signature}))
    with pytest.raises(SignatureError, match=r"has the signature of another bundle \(.*sign it again"):
        load_bundle(signed, keys[1])
    claimed = {**json.loads(signature), "digest": read_manifest(signed).digest}
    edit(signed, lambda contents: contents.update({SIGNATURE: json.dumps(claimed).encode()}))
    with pytest.raises(SignatureError, match=r"does not fit, though it names the trusted key .*sign it again"):
        load_bundle(signed, keys[1])


def test_what_was_changed_after_signing_is_refused_even_with_right_digests(signed: Path, keys: Pair) -> None:
    signature = read_files(signed)[0][SIGNATURE]
    save_small(signed, "x")  # somebody's own bundle, whole in itself
    edit(signed, lambda contents: contents.update({SIGNATURE: signature}))
    assert load_bundle(signed).manifest.provenance["letter"] == "x"
    with pytest.raises(SignatureError, match="has the signature of another bundle"):
        load_bundle(signed, keys[1])


def test_a_changed_file_is_found_whoever_signed(signed: Path, keys: Pair) -> None:
    edit(signed, lambda contents: contents.update({"network.safetensors": contents["network.safetensors"] + b"\0"}))
    with pytest.raises(BundleDamagedError, match=r"network\.safetensors differs from the sha256"):
        load_bundle(signed, keys[1])


def test_the_signature_is_looked_at_before_any_weight(
    signed: Path, keys: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("weights of a bundle that nobody trusts were read")

    monkeypatch.setattr("detector.bundle.bundle._unpacked", never)
    with pytest.raises(SignatureError):
        load_bundle(signed, pair(tmp_path, "other")[1])


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{}",
        b"\x80\x04\x95 a pickle",
        b"[" * 60_000,
        {"algorithm": "none"},
        {"format": "heatward-bundle"},
        {"signature": "not base64!"},
        {"key": "../../etc"},
        {"more": 1},
    ],
)
def test_a_broken_signature_harms_only_those_who_ask_for_one(
    tmp_path: Path, keys: Pair, broken: bytes | dict[str, Any]
) -> None:
    path = tmp_path / "a.heatward"
    save_bundle(path, small_bundle("a"), key=keys[0])
    content = broken if isinstance(broken, bytes) else json.dumps({**said_in(path), **broken}).encode()
    edit(path, lambda contents: contents.update({SIGNATURE: content}))
    load_bundle(path)
    with pytest.raises(SignatureError, match=r"signature\.json is damaged: sign it again"):
        load_bundle(path, keys[1])
    sign_bundle(path, keys[0])
    load_bundle(path, keys[1])


@pytest.mark.parametrize("length", [0, 63, 64, 65])
def test_a_signature_of_any_bytes_does_not_fit(tmp_path: Path, keys: Pair, length: int) -> None:
    path = tmp_path / "a.heatward"
    save_bundle(path, small_bundle("a"), key=keys[0])
    said = {**said_in(path), "signature": base64.b64encode(bytes(length)).decode()}
    edit(path, lambda contents: contents.update({SIGNATURE: json.dumps(said).encode()}))
    with pytest.raises(SignatureError, match="its signature does not fit"):
        load_bundle(path, keys[1])


def test_keys_are_rotated_by_trusting_both_for_a_while(tmp_path: Path, signed: Path, keys: Pair) -> None:
    new, only_new = pair(tmp_path, "new")
    both = PublicKeys.read("bundle_keys", [tmp_path / "key.pub", tmp_path / "new.pub"])
    assert verify_bundle(signed, both)[1] == keys[0].name
    with pytest.raises(SignatureError, match=f"signed by the key {keys[0].name[:16]}, trusted are {new.name[:16]}: "):
        load_bundle(signed, only_new)
    sign_bundle(signed, new)
    assert verify_bundle(signed, both)[1] == verify_bundle(signed, only_new)[1] == new.name


def test_a_key_that_claims_anothers_name_is_not_believed(tmp_path: Path, signed: Path, keys: Pair) -> None:
    sign_bundle(signed, pair(tmp_path, "mallory")[0])
    said = {**said_in(signed), "key": keys[0].name}
    edit(signed, lambda contents: contents.update({SIGNATURE: json.dumps(said).encode()}))
    with pytest.raises(SignatureError, match="its signature does not fit"):
        load_bundle(signed, keys[1])


def test_a_signature_for_something_else_is_none_of_a_bundle(signed: Path, keys: Pair) -> None:
    """Who has the digest itself signed, say as a file's hash, has signed no bundle."""
    digest = read_manifest(signed).digest
    signature = base64.b64encode(keys[0].private.sign(digest.encode())).decode()
    said = {**said_in(signed), "signature": signature}
    edit(signed, lambda contents: contents.update({SIGNATURE: json.dumps(said).encode()}))
    with pytest.raises(SignatureError, match="its signature does not fit"):
        load_bundle(signed, keys[1])


def test_a_bundle_in_a_store_is_signed_where_it_lies(tmp_path: Path, keys: Pair) -> None:
    digest = save_small(tmp_path / "a.heatward")
    system, url = fsspec.filesystem("memory"), "memory://signed/a.heatward"
    system.pipe_file("/signed/a.heatward", (tmp_path / "a.heatward").read_bytes())
    with pytest.raises(SignatureError, match=f"^{url} is not signed, .*heatward sign {url} --key FILE"):
        load_bundle(url, keys[1])
    assert sign_bundle(url, keys[0]) == digest
    assert verify_bundle(url, keys[1]) == (digest, keys[0].name)


@pytest.mark.parametrize("name", ["a.heatward", "a.bundle"])
def test_what_a_link_leads_to_is_signed_whatever_its_name(tmp_path: Path, keys: Pair, name: str) -> None:
    link = tmp_path / "current.heatward"
    save_small(tmp_path / "made.heatward")
    (tmp_path / "made.heatward").rename(tmp_path / name)
    link.symlink_to(name)
    digest = sign_bundle(link, keys[0])
    assert link.is_symlink() and verify_bundle(tmp_path / name, keys[1]) == (digest, keys[0].name)


def test_who_could_read_a_bundle_can_read_it_signed(tmp_path: Path, keys: Pair, signed: Path) -> None:
    save_small(signed)
    read = signed / SIGNATURE if signed.is_dir() else signed
    (signed / MANIFEST if signed.is_dir() else signed).chmod(0o644)
    before = os.umask(0o077)
    try:
        sign_bundle(signed, keys[0])
    finally:
        os.umask(before)
    assert read.stat().st_mode & 0o777 == 0o644


def test_a_folder_of_bundles_is_none_and_this_is_said(tmp_path: Path, keys: Pair) -> None:
    save_small(tmp_path / "a.heatward")
    with pytest.raises(BundleForeignError, match="it is a folder of bundles, name one of them"):
        sign_bundle(tmp_path, keys[0])


def test_a_damaged_bundle_is_not_signed(tmp_path: Path, keys: Pair) -> None:
    path = tmp_path / "a.heatward"
    save_small(path)
    edit(path, lambda contents: contents.update({"network.safetensors": b"changed"}))
    before = path.read_bytes()
    with pytest.raises(BundleDamagedError):
        sign_bundle(path, keys[0])
    assert path.read_bytes() == before


def test_a_bundle_saved_anew_is_not_signed_by_whom_signed_the_old(signed: Path, keys: Pair) -> None:
    save_bundle(signed, load_bundle(signed))
    assert SIGNATURE not in read_files(signed)[0]


def test_the_embedded_detector_is_nobodys_until_signed(tmp_path: Path, keys: Pair) -> None:
    with pytest.raises(SignatureError, match=r"cifar10\.heatward is not signed"):
        Detector.from_bundle(EMBEDDED, keys=keys[1])
