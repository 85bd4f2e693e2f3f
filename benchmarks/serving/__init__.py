"""The server under load, under abuse and under bad input: what serving adds to the detector, and what it survives."""
