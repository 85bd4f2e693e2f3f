"""Verdicts: heatward beside other detectors, what each part of the evidence is worth, and in which precision."""
