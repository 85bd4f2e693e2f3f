"""Worked examples: recipe, configuration and what to expect, one folder each."""
