"""What a detector catches, misses and flags in error: shards in, tables, JSON and one HTML report out."""

SCHEMA_VERSION = 4
"""Of evaluation.json. Raise this when what is measured changes: finished evaluations are made again."""
