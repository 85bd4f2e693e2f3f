"""Which detectors are loaded: reload, versions, canary, shadow."""
