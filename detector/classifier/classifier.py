"""The frozen model under guard: **images (B, 3, H, W) in [0, 1]** → `Classifier` → **logits (B, K)** and activations.

Loading probes the model with a few images (`probe.py`): does it answer one logit per class, whatever the batch,
does a gradient reach the images, which layers have spatial maps. Hooks live for one call and parameters never change.
Not for several threads at once: one thread (the server's engine) owns a classifier; only `fit` and `prepare` may be
called from any thread.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.classifier.preprocessing import Normalized, Preprocessing, fit_to, to_images
from detector.classifier.probe import probe
from detector.classifier.sources import TRUSTED_MODULES, Net, build_net
from detector.classifier.sources.asked import HIDES, AskedNet
from detector.classifier.taps import hooked, spread
from detector.errors import ImageShapeError, LayerNotFoundError, NonFiniteLogitsError
from detector.images.batch import check_images
from detector.spec import ClassifierSpec
from detector.text import nearest, printable

__all__ = ["TRUSTED_MODULES", "Classifier", "ClassifierSpec", "Preprocessing", "load_classifier"]


def load_classifier(
    spec: ClassifierSpec,
    *,
    device: str | torch.device = "cpu",
    state_dict: dict[str, Tensor] | None = None,
    allow: Collection[str] | None = None,
) -> Classifier:
    """Build, freeze and probe the classifier that `spec` describes.

    Args:
        spec: Source, weights, input size, classes, preprocessing.
        device: Where it runs.
        state_dict: Weights that win over `spec.weights` (from a bundle).
        allow: For a spec that came in a bundle: the code it may run beside `TRUSTED_MODULES`, Python modules (or
            packages) and program files by name. None, for a spec that the user wrote, allows any.

    Raises:
        ClassifierSpecError: The source, weights or preprocessing cannot be used, or the net does not answer logits.
    """
    device = torch.device(device)
    net = build_net(spec, device=device, state_dict=state_dict, allow=allow)
    return Classifier(spec, net, device=device)


class Classifier:
    """A frozen classifier.

    Attributes:
        spec: What it was built from.
        module: Images (B, 3, H, W) in [0, 1] → logits (B, K); stays frozen and in eval mode.
        classes: Names, in the order of the logits.
        input_size: (height, width).
        device: Where it runs.
        embeddable: Whether spec + `state_dict()` are enough to build it again (all but programs).
        differentiable: Whether a gradient reaches the images.
        no_gradient: Why none does; empty where one does.
        layers: Names of submodules with (B, C, h, w) output, in order of execution; () where hooks do not reach.
        fingerprint: sha256 (hex) over architecture, weights, classes and preprocessing, the same on every machine.
    """

    def __init__(self, spec: ClassifierSpec, net: Net, *, device: str | torch.device = "cpu") -> None:
        """Freeze and probe `net`; most callers want `load_classifier`."""
        self.spec = spec
        self.classes = spec.classes
        self.num_classes = len(spec.classes)
        self.input_size = spec.input_size
        self.device = torch.device(device)
        self.embeddable = net.embeddable
        self._net = net.module
        self.module = Normalized(net.module, spec.preprocessing).requires_grad_(False).to(self.device)
        if net.embeddable:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.fingerprint = _fingerprint(spec, net, self.state_dict())
        found = probe(self.module, self._net if self.embeddable else nn.Module(), spec, self.device)
        self._probed = found.layers
        self.layers = tuple(layer.name for layer in found.layers)
        asked = isinstance(net.module, AskedNet)
        self.no_gradient = HIDES if asked else found.no_gradient
        self._no_layers = HIDES if asked else found.no_layers
        self.differentiable = not self.no_gradient

    def __call__(self, images: Tensor) -> Tensor:
        """Classify (B, 3, H, W) images in [0, 1]: float32 logits (B, K), attached to the graph if images are.

        Images of another size than `input_size` are fine where the net takes them.

        Raises:
            ImageShapeError: Not a batch of float32 images, or of a size that the net does not take.
            NonFiniteLogitsError: NaN or infinity; names the images of the batch.
        """
        check_images(images, device=self.device)
        try:
            logits: Tensor = self.module(images).float()
        except (RuntimeError, AssertionError) as error:  # a ViT asserts
            if tuple(images.shape[2:]) == self.input_size or isinstance(error, torch.OutOfMemoryError):
                raise
            height, width = self.input_size
            raise ImageShapeError(
                f"{self.spec.source} takes images of {height}×{width}, got {tuple(images.shape)}: resize ({error})"
            ) from error
        finite = logits.isfinite().all(1)
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise NonFiniteLogitsError(
                f"{self.spec.source} answered NaN or infinity for images {bad} of a batch of {len(images)}: "
                "check its weights and that images lie in [0, 1]."
            )
        return logits

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring (H, W, 3) uint8 RGB pixels to the input size; `preprocessing.to_images` makes images of a batch.

        Pixels that already have the input size are untouched, so a prepared (or attacked) image survives.
        """
        return fit_to(pixels, self.input_size, self.spec.preprocessing)

    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Bring (H, W, 3) uint8 RGB pixels to the input size: (3, H, W) float32 in [0, 1] on the CPU, 8-bit values."""
        return to_images(torch.tensor(np.ascontiguousarray(self.fit(pixels)))[None])[0].contiguous()

    def activations(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Classify and keep what the named layers answered.

        With gradients enabled the activations hang on the graph, so `torch.autograd.grad(logits[...], activation)`
        works although every parameter is frozen. A layer that runs several times gives its last answer. Later
        in-place operations of the net do not reach the activations.

        Args:
            images: (B, 3, H, W) in [0, 1].
            layers: Names out of `self.layers`.

        Returns:
            Logits (B, K) and, per name in the order asked for, (B, C, h, w).

        Raises:
            LayerNotFoundError: No such layer; lists near names.
        """
        self._check_layers(layers)
        check_images(images, device=self.device)
        if torch.is_grad_enabled() and not images.requires_grad:
            images = images.detach().requires_grad_()
        kept: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> Tensor:
            kept[name] = output
            copy: Tensor = output.clone()  # the net goes on with a copy: an in-place ReLU leaves ours as it is
            return copy

        with hooked(self._net, layers, keep):
            logits = self(images)
        return logits, {name: kept[name] for name in layers}

    def changed(self, images: Tensor, layer: str, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Classify with what `layer` answers, (B, C, h, w), replaced by `change(answer)`: logits (B, K).

        Raises:
            LayerNotFoundError: No such layer; lists near names.
        """
        self._check_layers([layer])
        with hooked(self._net, [layer], lambda _, output: change(output)):
            return self(images)

    def depths(self, count: int = 4) -> tuple[str, ...]:
        """`count` layers spread evenly over the net's depth, the deepest included; fewer where it has fewer.

        The last block (or activation function) of each resolution comes first; a net with fewer resolutions than
        `count` adds other blocks, then other layers.
        """
        return spread(self._probed, count)

    @property
    def no_layers(self) -> str:
        """Why `layers` is empty; empty where it is not."""
        if self.layers:
            return ""
        if self._no_layers:
            return self._no_layers
        if not self.embeddable:
            return "TorchScript and exported programs hide theirs: give the net as torchvision:, timm: or python:"
        return "no module of it answers maps (B, C, h, w)"

    def state_dict(self) -> dict[str, Tensor]:
        """The net's parameters and buffers: copies on the CPU."""
        return {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in self._net.state_dict().items()
        }

    def _check_layers(self, layers: Sequence[str]) -> None:
        for name in layers:
            if name not in self.layers:
                raise LayerNotFoundError(self._no_layer(name))

    def _no_layer(self, name: str) -> str:
        if not self.layers:
            return f"{self.spec.source} shows no inner layers ({self.no_layers}): 'occlusion' and 'rise' need none."
        last = ", ".join(self.layers[-5:])
        hint = nearest(name, self.layers) or f"; the last ones are {last}."
        return f"{self.spec.source} has no layer '{printable(name)}' with a spatial map{hint}"


def _fingerprint(spec: ClassifierSpec, net: Net, state_dict: dict[str, Tensor]) -> str:
    described = spec.model_dump(mode="json", exclude={"source", "weights"}) | {"architecture": net.identity}
    if not net.fingerprinted:
        described, state_dict = described | {"arguments": {}}, {}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(state_dict.items()):
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
