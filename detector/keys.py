"""PEM files, as OpenSSL writes them → **Ed25519 keys** (RFC 8032, RFC 8410): a private one signs, public ones verify.

`cryptography` does the mathematics; it is imported where a key is read. A key's name is the sha256 of its public half
in DER: `openssl pkey -pubin -in FILE -outform DER | sha256sum` prints it, too. No error shows what a key file holds.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import ConfigError
from detector.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SHOWN", "PublicKeys", "SigningKey", "make_key"]

SHOWN = 16
"""Characters of a key's name that messages show."""
LONGEST = 2**20
BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
BEGIN = b"-----BEGIN "
OPEN = stat.S_IWGRP | stat.S_IRWXO
"""A group may read a key: that is how Kubernetes hands a Secret to a pod."""
MAKE = "heatward keygen FILE makes a pair"


@dataclass(frozen=True)
class SigningKey:
    """A private key."""

    name: str
    file: Path
    private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def read(cls, setting: str, file: Path) -> SigningKey:
        """The private key in a file; `setting` is what named the file, for errors.

        Raises:
            ConfigError: It cannot be read, or is no private Ed25519 key in PEM without a passphrase.
        """
        serialization, ed25519 = _library(setting)
        content, place = _content(setting, file), f"{setting}: {printable(str(file))}"
        if b"PUBLIC KEY-----" in content and b"PRIVATE KEY-----" not in content:
            raise ConfigError(f"{place} holds a public key: name the private one, which signs")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except TypeError:  # what the library says of a passphrase
            raise ConfigError(
                f"{place} asks for a passphrase: name a key without one that only the job may read (openssl pkey -in "
                "KEY -out NEW takes it off)"
            ) from None
        except Exception:
            raise ConfigError(f"{place} is no private key in PEM (PKCS8): {MAKE}") from None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise ConfigError(f"{place} is {_kind(key)}, expected an Ed25519 key: {MAKE}")
        return cls(_name(key.public_key()), file, key)

    def public(self) -> PublicKeys:
        """Its public half, to verify what it signed."""
        return PublicKeys({self.name: self.private.public_key()})

    def exposure(self) -> str:
        """What is to be said where others may read or replace the file; empty otherwise."""
        mode = stat.S_IMODE(self.file.stat().st_mode)
        if os.name != "posix" or not mode & OPEN:
            return ""
        file = printable(str(self.file))
        return f"{file} is open to others (mode {mode:04o}), who could sign with it: chmod 600 {file}"


@dataclass(frozen=True)
class PublicKeys:
    """Public keys by name: those that are trusted."""

    by_name: Mapping[str, Ed25519PublicKey]

    @classmethod
    def read(cls, setting: str, files: Sequence[Path]) -> PublicKeys:
        """Every public key of some files, each with one or more of them.

        Raises:
            ConfigError: One cannot be read, or holds anything but public Ed25519 keys in PEM.
        """
        serialization, ed25519 = _library(setting)
        found: dict[str, Any] = {}
        for file in files:
            content, place = _content(setting, file), f"{setting}: {printable(str(file))}"
            blocks = [(match[1], match[0]) for match in BLOCK.finditer(content)]
            if any(b"PRIVATE KEY" in kind for kind, _ in blocks):
                raise ConfigError(
                    f"{place} holds a private key, which has no place where bundles are verified: name the public one "
                    "(openssl pkey -in KEY -pubout)"
                )
            if not blocks:
                raise ConfigError(f"{place} holds no public key in PEM (-----BEGIN PUBLIC KEY-----): {MAKE}")
            if content.count(BEGIN) > len(blocks):
                raise ConfigError(f"{place} is cut off: a key in it begins and does not end: copy the file again")
            for _, block in blocks:
                try:
                    key = serialization.load_pem_public_key(block)
                except Exception:
                    raise ConfigError(f"{place} is damaged, or holds something else than public keys: {MAKE}") from None
                if not isinstance(key, ed25519.Ed25519PublicKey):
                    raise ConfigError(f"{place} is {_kind(key)}, expected an Ed25519 key: {MAKE}")
                found[_name(key)] = key
        return cls(found)

    def __str__(self) -> str:
        return ", ".join(name[:SHOWN] for name in self.by_name)


def make_key(file: Path, public: Path) -> SigningKey:
    """Make a pair of keys, each in a new file; only the owner may read the private one.

    Raises:
        ConfigError: One of the files is there already.
        OSError: They cannot be written.
    """
    serialization, ed25519 = _library("keygen")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    halves = {
        file: key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        public: key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    }
    for path in halves:
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{printable(str(path))} is there already: a key is never replaced, give another name")
    made: list[Path] = []
    try:
        for path, content in halves.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if path == file else 0o644)
            made.append(path)
            with open(descriptor, "wb") as stream:
                stream.write(content)
    except OSError:  # half a pair would be in the way of the next one
        for path in made:
            path.unlink()
        raise
    return SigningKey(_name(key.public_key()), file, key)


def _library(setting: str) -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigError(f"{setting}: signatures need cryptography: pip install 'heatward[serve]'") from error
    return serialization, ed25519


def _content(setting: str, file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such name"
        raise ConfigError(f"{setting}: cannot read {printable(str(file))}: {reason}") from None
    if len(content) > LONGEST:
        raise ConfigError(f"{setting}: {printable(str(file))} has more than {LONGEST} bytes: name a key in PEM")
    return content


def _name(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _kind(key: object) -> str:
    """What a key is that is none of ours: the library calls its class `_RSAPublicKey`, `X25519PrivateKey`, ..."""
    kind = re.sub(r"^_|(Public|Private)Key$", "", type(key).__name__)
    return f"a key of the kind {kind}"
