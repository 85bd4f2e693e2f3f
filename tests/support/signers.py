"""Pairs of keys, for what signs and what verifies."""

from __future__ import annotations

from pathlib import Path

from detector.keys import PublicKeys, SigningKey, make_key

__all__ = ["pair"]


def pair(folder: Path, name: str = "key") -> tuple[SigningKey, PublicKeys]:
    """A key in `NAME.pem` of the folder, its public half in `NAME.pub`."""
    key = make_key(folder / f"{name}.pem", folder / f"{name}.pub")
    return key, PublicKeys.read("bundle_keys", [folder / f"{name}.pub"])
