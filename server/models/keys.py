"""`bundle_keys` → **the public keys of which one must have signed a bundle**, and a stamp that changes when they do."""

from __future__ import annotations

from detector.keys import PublicKeys
from server.config import ServerConfig
from server.models.folder import Stamp, stamp

__all__ = ["stamp_of_keys", "trusted_keys"]


def trusted_keys(config: ServerConfig) -> PublicKeys | None:
    """The keys as their files are now; None where bundles need not be signed.

    Raises:
        ConfigError: A file cannot be read, or holds something else.
    """
    return PublicKeys.read("bundle_keys", config.bundle_keys) if config.bundle_keys is not None else None


def stamp_of_keys(config: ServerConfig) -> Stamp:
    """So that a bundle which was refused is tried again once its key is trusted."""
    return tuple(entry for file in config.bundle_keys or () for entry in stamp(file))
