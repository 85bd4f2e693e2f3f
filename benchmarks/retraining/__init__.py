"""Retraining: what it costs when data grow."""
