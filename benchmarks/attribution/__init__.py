"""Heatmaps and learned masks: how good they are, what they cost, and what each detects by itself."""
