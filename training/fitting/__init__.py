"""Heatmap networks: attribution shards of the split `fit` in, a fitted ensemble out."""
