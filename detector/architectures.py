"""Small classifier architectures that ship with heatward: a seed of weights in, an `nn.Module` out.

`cifar10_net` follows the design of K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024), section 3:
a frozen whitening convolution, three blocks of two convolutions, a scaled linear head. 1.97 M parameters, 118 M
multiply-adds an image. Its inputs are *normalised* (mean/std) images; `Classifier` does the normalising.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CIFAR10_MEAN", "CIFAR10_STD", "CifarNet", "cifar10_net"]

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


class ConvBlock(nn.Module):
    """conv → pool → norm → GELU → conv → norm → GELU: halves the side of its input."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm1(self.pool(self.conv1(x))))
        x = self.activation(self.norm2(self.conv2(x)))
        return x


class CifarNet(nn.Module):
    """A fast CIFAR-10 classifier, (B, 3, 32, 32) → (B, classes).

    Args:
        widths: Channels of the three blocks.
        classes: Number of classes.
    """

    def __init__(self, widths: tuple[int, int, int] = (64, 256, 256), classes: int = 10) -> None:
        super().__init__()
        whitened = 2 * 3 * 2 * 2
        self.whiten = nn.Conv2d(3, whitened, 2)
        self.activation = nn.GELU()
        self.block1 = ConvBlock(whitened, widths[0])
        self.block2 = ConvBlock(widths[0], widths[1])
        self.block3 = ConvBlock(widths[1], widths[2])
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(widths[2], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.whiten(x))  # (B, 24, 31, 31)
        x = self.block1(x)  # (B, 64, 15, 15)
        x = self.block2(x)  # (B, 256, 7, 7)
        x = self.block3(x)  # (B, 256, 3, 3)
        x = self.pool(x).flatten(1)
        logits: Tensor = self.head(x) / x.shape[1]
        return logits


def cifar10_net(widths: tuple[int, int, int] = (64, 256, 256)) -> CifarNet:
    """The architecture of the embedded classifier, freshly initialised (weights come from the bundle)."""
    return CifarNet(widths)


def whitening_filters(images: Tensor, epsilon: float = 2e-2) -> Tensor:
    """Eigenvectors of the 2×2 patch covariance and their negatives, scaled to unit variance.

    Args:
        images: (N, 3, H, W), normalised.
        epsilon: Added to the eigenvalues, which run from 10 down to 1e-4 on JPEG copies (4:2:0 leaves hardly any fine
            colour): without it a filter is tuned to compression noise and the net falls for any noise.

    Returns:
        (24, 3, 2, 2), ready for `CifarNet.whiten.weight`.
    """
    patches = images.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    patches = patches - patches.mean(0)
    eigenvalues, eigenvectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (eigenvectors / (eigenvalues + epsilon).sqrt()).T.reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])
