"""The stages of a job: each reads the shards of the one before, and makes only what is missing or stale."""
