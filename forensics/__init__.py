"""What a person looks at: the heatmaps behind a verdict, the report of an evaluation, figures."""
