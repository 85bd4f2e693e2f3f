"""From evidence to a p-value: the heatmap networks, how unusual an image is, the calibration of their score."""
