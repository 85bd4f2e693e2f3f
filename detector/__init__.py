"""The science of heatward: an image goes in, a verdict comes out. Knows nothing of gRPC, of attacks or of training.

Import the module you need (`from detector.classifier import load_classifier`): this package imports nothing itself, so
`detector.errors` costs no torch. Imports inside it only go down: errors, settings → spec, images → classifier →
heatmaps → evidence → scoring → bundle → detector.
"""
