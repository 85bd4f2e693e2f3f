"""The setting `sign_key` → **the key that signs what a job makes**, and what it vouches for by that.

A job that begins with a bundle, or compares with one and replaces it, takes only one that the same key signed:
otherwise whoever can write into the store would have it signed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from detector.keys import PublicKeys, SigningKey
from training.progress import Progress

__all__ = ["note_unsigned", "public_keys", "signing_key"]


def signing_key(file: Path | None, *, quiet: bool = False) -> SigningKey | None:
    """The key; None where nothing is to be signed. Says so where others may read it, unless `quiet`.

    Raises:
        ConfigError: The file cannot be read, or is no private Ed25519 key in PEM.
    """
    if file is None:
        return None
    key = SigningKey.read("sign_key", file)
    if not quiet and (exposure := key.exposure()):
        print(f"warning: {exposure}", file=sys.stderr)
    return key


def public_keys(key: SigningKey | None) -> PublicKeys | None:
    """What the bundle that a job begins with must be signed by."""
    return key.public() if key is not None else None


def note_unsigned(bundle: Path, key: SigningKey | None, progress: Progress, what: str = "the champion") -> None:
    """Say that what is made of a signed bundle will not be signed, in time to stop the job.

    Args:
        bundle: What the job begins with: a path or a URL.
        key: Signs what is made.
        progress: Is told.
        what: The bundle, in the note.
    """
    from detector.bundle.archive import MANIFEST, SIGNATURE, read_files
    from detector.remote import local_copy

    if key is not None:
        return
    with local_copy(bundle) as file:
        signed = SIGNATURE in read_files(file, (MANIFEST, SIGNATURE))[0]
    if signed:
        progress.note(
            f"{what} is signed, its successor will not be: servers with bundle_keys refuse that until somebody "
            "signs it (heatward sign), or give sign_key"
        )
