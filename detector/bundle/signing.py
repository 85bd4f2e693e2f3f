"""A bundle that lies somewhere, and a key → **the same bundle, signed**; and public keys → whose it is."""

from __future__ import annotations

from pathlib import Path

from detector.bundle.archive import MANIFEST, SIGNATURE, read_files, write_files, write_zip
from detector.bundle.bundle import load_bundle
from detector.bundle.signature import check_signature, sign
from detector.files import write_file
from detector.keys import PublicKeys, SigningKey
from detector.remote import is_url, local_copy

__all__ = ["sign_bundle", "verify_bundle"]


def sign_bundle(path: str | Path, key: SigningKey) -> str:
    """Sign a bundle where it lies, in place of a signature that is there; errors as `load_bundle` and `save_bundle`.

    It is verified first: a key signs nothing that could not be loaded. Where a link leads to it, the file behind the
    link is signed; who could read it before can read it then.

    Returns:
        Its digest, which stays the same.
    """
    with local_copy(path) as file:
        digest = load_bundle(file).manifest.digest
        content = sign(digest, key)
        if file.is_dir():
            write_file(file / SIGNATURE, content, like=file / MANIFEST)
        elif is_url(path):
            write_files(Path(path), {**read_files(file)[0], SIGNATURE: content})
        else:
            write_zip(file.resolve(), {**read_files(file)[0], SIGNATURE: content})
    return digest


def verify_bundle(path: str | Path, keys: PublicKeys) -> tuple[str, str]:
    """Digest of a bundle, and the name of the key that signed it; errors as `load_bundle`."""
    with local_copy(path) as file:
        digest = load_bundle(file, keys).manifest.digest
        content = read_files(file, (MANIFEST, SIGNATURE))[0].get(SIGNATURE)
        return digest, check_signature(file, digest, content, keys)
