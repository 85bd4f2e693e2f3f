"""What a detector catches, misses and flags in error: shards in, tables, JSON and examples out."""
