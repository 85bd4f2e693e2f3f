"""Which detectors are loaded: the registry of versions, and reload."""
