"""heatward.v1.DetectionService."""
