"""A classifier known by its answers alone: **images (B, 3, H, W) in [0, 1]** → `predict` → **probabilities (B, K)**.

`predict` may be anything that can be called: a function, a model of another framework, a client of a remote one. Its
answers are checked and handed on as log-probabilities, the logits whose softmax is the answer. It gives no gradients
and shows no layers: 'occlusion' and 'rise' explain it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from detector.errors import BlackBoxError, ClassifierSpecError, ImageShapeError, NonFiniteLogitsError
from detector.images.batch import check_images
from detector.text import briefly

__all__ = ["BlackBox"]

TOLERANCE = 0.01  # leaves room for half precision and for probabilities rounded on their way


class BlackBox:
    """A callable under guard, in the place of a `Classifier` where a method needs answers only.

    Attributes:
        name: What errors call it.
        classes: Names, in the order of the probabilities.
        input_size: (height, width).
        differentiable: False.
        no_gradient: Why.
        layers: ().
        no_layers: Why.
        deepest: None: no layer to look at.
    """

    differentiable = False
    no_gradient = "it is a black box"
    layers: tuple[str, ...] = ()
    no_layers = "a black box hides its own"
    deepest: str | None = None

    def __init__(
        self,
        predict: Callable[[Tensor], ArrayLike | Tensor],
        classes: Sequence[str],
        input_size: tuple[int, int],
        *,
        name: str = "black box",
        max_batch: int | None = None,
    ) -> None:
        """Wrap `predict`; it is not called yet.

        Args:
            predict: (n, 3, H, W) float images in [0, 1], its own copy, → (n, K) probabilities: a tensor, a numpy array
                or nested lists.
            classes: Names, in the order of the probabilities.
            input_size: (height, width) of the images it takes.
            name: What errors call it.
            max_batch: Images a call, at most; None for any number.

        Raises:
            ClassifierSpecError: Fewer than two classes, two of one name, or a size or `max_batch` below 1.
        """
        self.name = name
        self.classes = tuple(classes)
        self.num_classes = len(self.classes)
        self.input_size = input_size
        self._predict = predict
        self._max_batch = max_batch
        if self.num_classes < 2 or len(set(self.classes)) < self.num_classes:
            raise ClassifierSpecError(f"{name}: expected at least two different class names, got {self.classes}")
        if len(input_size) != 2 or min(input_size) < 1:
            raise ClassifierSpecError(f"{name}: expected input_size (height, width) >= 1, got {input_size}")
        if max_batch is not None and max_batch < 1:
            raise ClassifierSpecError(f"{name}: expected max_batch >= 1 or None, got {max_batch}")

    def __call__(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, K), float32, on the images' device; no gradient.

        Probabilities are clamped at 1.2e-7, float32's resolution at 1: softmax gives them back but for that.

        Raises:
            BlackBoxError: `predict` raised (its exception is the cause), or its answer is not (n, K) probabilities.
            ImageShapeError: Not a batch of float32 images, or of another size than `input_size`.
            NonFiniteLogitsError: NaN or infinity.
        """
        check_images(images)
        if images.shape[1:] != (3, *self.input_size):
            height, width = self.input_size
            raise ImageShapeError(f"{self.name} takes images (B, 3, {height}, {width}), got {tuple(images.shape)}")
        with torch.no_grad():
            parts = torch.split(images, self._max_batch or len(images)) if len(images) else ()
            answers = [self._ask(part).to(images.device) for part in parts]
            probabilities = torch.cat([torch.empty(0, self.num_classes, device=images.device), *answers])
            return probabilities.clamp_min(torch.finfo(torch.float32).eps).log()

    def _ask(self, images: Tensor) -> Tensor:
        try:
            answer = self._predict(images.detach().clone())
            probabilities = answer.detach().float() if isinstance(answer, Tensor) else torch.from_numpy(_array(answer))
        except Exception as error:  # the user's code, or a network's
            raise BlackBoxError(
                f"{self.name} failed on {len(images)} images ({type(error).__name__}: {briefly(error)}): "
                "check that it can be reached and answers numbers."
            ) from error
        self._check(probabilities, len(images))
        return probabilities

    def _check(self, probabilities: Tensor, count: int) -> None:
        if tuple(probabilities.shape) != (count, self.num_classes):
            raise BlackBoxError(
                f"{self.name} answers {tuple(probabilities.shape)} for {count} images, expected "
                f"{(count, self.num_classes)}: a row an image, one probability for each of its classes."
            )
        finite = probabilities.isfinite().all(1)
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise NonFiniteLogitsError(
                f"{self.name} answered NaN or infinity for images {bad} of {count} in one call: "
                "check the model and that images lie in [0, 1]."
            )
        low, high, sums = probabilities.min(), probabilities.max(), probabilities.sum(1)
        if low < -TOLERANCE or high > 1 + TOLERANCE or (sums - 1).abs().max() > TOLERANCE:
            raise BlackBoxError(
                f"{self.name} answers values in {low:.3g} … {high:.3g} with sums {sums.min():.3g} … {sums.max():.3g}, "
                "expected probabilities that sum to 1: end `predict` in a softmax."
            )


def _array(answer: ArrayLike) -> NDArray[np.float32]:
    """A copy that torch can take whatever the byte order, strides and writability."""
    return np.array(answer, dtype=np.float32, order="C")
