"""The contract, version 1: `detection.proto` and the code generated from it."""
