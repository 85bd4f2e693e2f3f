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


def note_unsigned(champion: Path, key: SigningKey | None, progress: Progress) -> None:
    """Say that the successor of a signed bundle will not be signed, in time to stop the job."""
    from detector.bundle.archive import MANIFEST, SIGNATURE, read_files

    if key is None and SIGNATURE in read_files(champion, (MANIFEST, SIGNATURE))[0]:
        progress.note(
            "the champion is signed, its successor will not be: servers with bundle_keys refuse that until somebody "
            "signs it (heatward sign), or give sign_key"
        )
