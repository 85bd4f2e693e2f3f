"""Foreign classifiers for CIFAR-10, each with a detector: a ResNet-18, a ViT, an MLP-Mixer, a ConvNeXt."""
