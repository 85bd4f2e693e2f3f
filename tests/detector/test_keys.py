"""Key files: read for what they are, and refused with what is wrong; nothing of a key is ever shown."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from signers import pair

from detector.errors import ConfigError
from detector.keys import PublicKeys, SigningKey, make_key


def private_pem(key: Any, passphrase: bytes | None = None) -> bytes:
    locked: Any = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    return pem


def public_pem(key: Any) -> bytes:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    pem: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, kind)
    return pem


ED, RSA = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)
EC, X = ec.generate_private_key(ec.SECP256R1()), x25519.X25519PrivateKey.generate()


def test_a_pair_is_made_for_its_owner_alone_and_never_twice(tmp_path: Path) -> None:
    made, trusted = pair(tmp_path)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    read = SigningKey.read("sign_key", tmp_path / "key.pem")
    assert read.name == made.name and [*trusted.by_name] == [made.name] and not read.exposure()
    before = (tmp_path / "key.pem").read_bytes()
    for taken, free in (("key.pem", "new.pub"), ("new.pem", "key.pub")):
        with pytest.raises(ConfigError, match="is there already: a key is never replaced"):
            make_key(tmp_path / taken, tmp_path / free)
    assert (tmp_path / "key.pem").read_bytes() == before and len([*tmp_path.iterdir()]) == 2


def test_the_name_of_a_key_is_what_openssl_would_say(tmp_path: Path) -> None:
    key, _ = pair(tmp_path)
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.private.public_key().public_bytes(serialization.Encoding.DER, kind)
    assert key.name == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize(("mode", "open_to_others"), [(0o600, 0), (0o440, 0), (0o644, 1), (0o660, 1), (0o604, 1)])
def test_a_private_key_that_is_open_to_others_is_named(tmp_path: Path, mode: int, open_to_others: bool) -> None:
    pair(tmp_path)
    (tmp_path / "key.pem").chmod(mode)
    said = SigningKey.read("sign_key", tmp_path / "key.pem").exposure()
    assert bool(said) == open_to_others and (
        not said or f"(mode {mode:04o}), who could sign with it: chmod 600" in said
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (private_pem(RSA), "is a key of the kind RSA, expected an Ed25519 key: heatward keygen FILE makes a pair"),
        (private_pem(EC), "is a key of the kind .*expected an Ed25519 key"),
        (private_pem(X), "is a key of the kind X25519, expected an Ed25519 key"),
        (private_pem(ED, b"open sesame"), "asks for a passphrase: .*openssl pkey"),
        (public_pem(ED), "holds a public key: name the private one, which signs"),
        (private_pem(ED).replace(b"MC4C", b"MC4D"), "is no private key in PEM"),
        (b"", "is no private key in PEM"),
        (b"\x80\x04\x95 a pickle", "is no private key in PEM"),
    ],
)
def test_what_cannot_sign_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^sign_key: .*{said}") as caught:
        SigningKey.read("sign_key", tmp_path / "key")
    assert "PRIVATE KEY-----" not in str(caught.value) and "MC4" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (public_pem(RSA), "is a key of the kind RSA, expected an Ed25519 key"),
        (public_pem(ED) + public_pem(EC), "is a key of the kind .*expected an Ed25519 key"),
        (private_pem(ED), "holds a private key, which has no place where bundles are verified"),
        (public_pem(ED) + private_pem(ED), "holds a private key"),
        (public_pem(ED).replace(b"MCow", b"MCox"), "is damaged, or holds something else"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "holds something else than public keys"),
        (b"", "holds no public key in PEM"),
        (public_pem(ED) + public_pem(ED)[:60], "is cut off: a key in it begins and does not end"),
        (b"-----BEGIN PUBLIC KEY-----" * 60_000, "has more than 1048576 bytes"),
    ],
)
def test_what_cannot_verify_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^bundle_keys: .*{said}"):
        PublicKeys.read("bundle_keys", [tmp_path / "key"])


@pytest.mark.parametrize("place", ["none", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, place: str) -> None:
    for read in (SigningKey.read, lambda setting, file: PublicKeys.read(setting, [file])):
        with pytest.raises(ConfigError, match=r"^that_setting: cannot read "):
            read("that_setting", tmp_path / place)


def test_several_keys_of_several_files_are_trusted_together(tmp_path: Path) -> None:
    (one, _), (two, _), (three, _) = (pair(tmp_path, name) for name in ("one", "two", "three"))
    both = (tmp_path / "one.pub").read_bytes() + b"\nthe next one:\n" + (tmp_path / "two.pub").read_bytes()
    (tmp_path / "both").write_bytes(both)
    trusted = PublicKeys.read("bundle_keys", [tmp_path / "both", tmp_path / "three.pub", tmp_path / "one.pub"])
    assert [*trusted.by_name] == [one.name, two.name, three.name]
