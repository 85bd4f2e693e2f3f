"""A bundle's digest and a key → **`signature.json`**, which lies in the bundle; that and public keys → whose it is.

    every file ─▶ sha256 ─▶ manifest.json ─▶ digest ─▶ Ed25519 ─▶ signature.json

The digest covers all that is loaded; the signature lies outside it, so that signing changes neither digest nor version.
What is signed is the digest behind a line that says what it is, so that a signature made for something else never fits.
"""

from __future__ import annotations

import base64
import binascii
import logging
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detector.bundle.archive import SIGNATURE
from detector.errors import SignatureError
from detector.keys import SHOWN, PublicKeys, SigningKey

__all__ = ["check_signature", "sign"]

log = logging.getLogger("heatward.bundle")

FORMAT: Final = "heatward-signature"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Signature(BaseModel):
    """What the file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["heatward-signature"] = FORMAT
    algorithm: Literal["ed25519"] = "ed25519"
    key: Sha256
    """Name of the key."""
    digest: Sha256
    """Of the bundle."""
    signature: str
    """Base64 of its 64 bytes."""


def sign(digest: str, key: SigningKey) -> bytes:
    """The content of `signature.json` for a bundle of this digest. The same key gives the same bytes."""
    signature = base64.b64encode(key.private.sign(_statement(digest))).decode()
    return (_Signature(key=key.name, digest=digest, signature=signature).model_dump_json(indent=2) + "\n").encode()


def check_signature(place: Path, digest: str, content: bytes | None, keys: PublicKeys) -> str:
    """Refuse a bundle that none of these keys signed.

    Args:
        place: The bundle, for errors.
        digest: Its digest, which was computed from what it holds.
        content: Of its `signature.json`; None where it has none.
        keys: Those that are trusted.

    Returns:
        The name of the key that signed it.

    Raises:
        SignatureError: It is not signed, the signature is damaged, is another bundle's, or an unknown key's.
    """
    again = f"sign it again where the key is (heatward sign {place} --key FILE)"
    if content is None:
        raise SignatureError(
            f"{place} is not signed, and only signed bundles are taken: sign it where the key is "
            f"(heatward sign {place} --key FILE), or name a signed one"
        )
    try:
        said = _Signature.model_validate_json(content)
        signature = base64.b64decode(said.signature, validate=True)
    except (ValidationError, binascii.Error, ValueError):
        raise SignatureError(f"{place}: its {SIGNATURE} is damaged: {again}") from None
    if said.digest != digest:
        raise SignatureError(
            f"{place} has the signature of another bundle ({said.digest[:SHOWN]}, its own digest is {digest[:SHOWN]}): "
            f"{again}"
        )
    key = keys.by_name.get(said.key)
    if key is None:
        raise SignatureError(
            f"{place} is signed by the key {said.key[:SHOWN]}, trusted are {keys}: sign it with one of these, or have "
            "the new key's public half trusted, too"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _statement(digest))
    except InvalidSignature:
        raise SignatureError(
            f"{place}: its signature does not fit, though it names the trusted key {said.key[:SHOWN]}: somebody "
            f"changed it, or the file is damaged; {again}"
        ) from None
    log.info("signed by a trusted key", extra={"digest": digest, "key": said.key})
    return said.key


def _statement(digest: str) -> bytes:
    """What is signed."""
    return f"heatward bundle\n{digest}\n".encode()
