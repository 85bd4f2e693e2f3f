"""Recorded traffic and the truth about it: what a record is, shards of them on disk, and how they are read."""
