"""The report of an evaluation: numbers and examples that training left in a folder in, one HTML page out."""
