"""The embedded detector: its classifier, and the configuration it is trained with."""
