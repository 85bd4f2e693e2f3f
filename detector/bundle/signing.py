"""A bundle that lies somewhere, and a key → **the same bundle, signed**; and public keys → whose it is."""

from __future__ import annotations

from pathlib import Path

from detector.bundle.archive import MANIFEST, SIGNATURE, read_files, write_files
from detector.bundle.bundle import load_bundle
from detector.bundle.signature import check_signature, sign
from detector.files import write_file
from detector.keys import PublicKeys, SigningKey
from detector.remote import local_copy

__all__ = ["sign_bundle", "verify_bundle"]


def sign_bundle(path: str | Path, key: SigningKey) -> str:
    """Sign a bundle where it lies, in place of a signature that is there; errors as `load_bundle` and `save_bundle`.

    It is verified first: a key signs nothing that could not be loaded.

    Returns:
        Its digest, which stays the same.
    """
    with local_copy(path) as file:
        digest = load_bundle(file).manifest.digest
        content = sign(digest, key)
        if file.is_dir():
            write_file(file / SIGNATURE, content)
        else:
            write_files(Path(path), {**read_files(file)[0], SIGNATURE: content})
    return digest


def verify_bundle(path: str | Path, keys: PublicKeys) -> tuple[str, str]:
    """Digest of a bundle, and the name of the key that signed it; errors as `load_bundle`."""
    with local_copy(path) as file:
        digest = load_bundle(file, keys).manifest.digest
        content = read_files(file, (MANIFEST, SIGNATURE))[0].get(SIGNATURE)
        return digest, check_signature(file, digest, content, keys)
