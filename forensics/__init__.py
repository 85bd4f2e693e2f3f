"""What a person looks at: the heatmaps behind a verdict."""
