"""The frozen model under guard: **images (B, 3, H, W) in [0, 1]** → `Classifier` → **logits (B, K)** and activations.

Loading probes the model with a few images (`probe.py`): does it answer one logit per class, whatever the batch,
does a gradient reach the images, which layers have spatial maps. Hooks live for one call and parameters never change.
Not for several threads at once: one thread (the server's engine) owns a classifier; only `fit` and `prepare` may be
called from any thread.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.classifier.heads import Head
from detector.classifier.preprocessing import Normalized, Preprocessing, fit_to, to_images
from detector.classifier.probe import probe
from detector.classifier.sources import TRUSTED_MODULES, Net, build_net, complete
from detector.classifier.sources.asked import HIDES, AskedNet
from detector.classifier.sources.kserve import STATE as ANSWERS
from detector.classifier.sources.kserve import KServeNet
from detector.classifier.taps import Tap, first_tensor, hooked, spread, with_first
from detector.errors import ClassifierSpecError, ImageShapeError, LayerNotFoundError, NonFiniteLogitsError
from detector.images.batch import check_images
from detector.spec import ClassifierSource, ClassifierSpec
from detector.text import briefly, nearest, printable

__all__ = [
    "TRUSTED_MODULES",
    "Classifier",
    "ClassifierSource",
    "ClassifierSpec",
    "Preprocessing",
    "load_classifier",
]


def load_classifier(
    spec: ClassifierSpec | ClassifierSource,
    *,
    device: str | torch.device = "cpu",
    state_dict: dict[str, Tensor] | None = None,
    allow: Collection[str] | None = None,
) -> Classifier:
    """Build, freeze and probe the classifier that `spec` describes.

    Args:
        spec: Source, weights, input size, classes, preprocessing; of a `ClassifierSource`, the source tells the rest.
        device: Where it runs.
        state_dict: Weights that win over `spec.weights` (from a bundle).
        allow: For a spec that came in a bundle: the code it may run beside `TRUSTED_MODULES`, Python modules (or
            packages) and program files by name. None, for a spec that the user wrote, allows any.

    Raises:
        ClassifierSpecError: The source, weights or preprocessing cannot be used, or the net does not answer logits.
    """
    device = torch.device(device)
    if isinstance(spec, ClassifierSource):
        spec = complete(spec)
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
        taps: Submodules whose output holds maps of the image, in order of execution: (B, D, h, w), (B, h, w, D), or
            tokens on a grid, read as (B, D, h, w) all alike; () where hooks do not reach.
        layers: Their names.
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
            _channels_last(self.module)
        self._hides = HIDES if isinstance(net.module, AskedNet) else ""
        # what a model that is asked answers has become logits already
        judged = spec.model_copy(update={"output": "logits"}) if self._hides else spec
        before = _buffers(net.module)
        found = probe(self.module, self._net if self.embeddable else nn.Module(), judged, self.device)
        after = _buffers(net.module)
        if changing := [name for name in before | after if not _same(before.get(name), after.get(name))]:
            raise ClassifierSpecError(
                f"{spec.source} changes {printable(changing[0])!r} in its state dict whenever it is asked, and a "
                "bundle keeps a net as it is: let it change in training alone (if self.training: …), or "
                "register the buffer with persistent=False."
            )
        self.module.head = found.head
        if found.head.probabilities:
            self.spec = spec.model_copy(update={"output": "probabilities"})
        self.fingerprint = _fingerprint(spec, net, found.head, self.state_dict())
        self.taps = found.taps
        self.layers = tuple(tap.name for tap in found.taps)
        self._left_out = found.left_out
        self.no_gradient = self._hides or found.no_gradient
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
                f"{self.spec.source} takes images of {height}×{width}, got {tuple(images.shape)}: resize "
                f"({briefly(error)})"
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
        """Classify and keep what the named layers answered, as maps whatever their layout.

        With gradients enabled the maps hang on the graph, so `torch.autograd.grad(logits[...], maps)` works although
        every parameter is frozen. A layer that runs several times gives its last answer. Later in-place operations of
        the net do not reach the maps.

        Args:
            images: (B, 3, H, W) in [0, 1].
            layers: Names out of `self.layers`.

        Returns:
            Logits (B, K) and, per name in the order asked for, maps (B, D, h, w).

        Raises:
            ImageShapeError: As above, or a layer's tokens fill no grid at this size.
            LayerNotFoundError: No such layer; lists near names.
        """
        taps = self._named(layers)
        check_images(images, device=self.device)
        if torch.is_grad_enabled() and not images.requires_grad:
            images = images.detach().requires_grad_()
        kept: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> Any:
            def copied(maps: Tensor) -> Tensor:
                kept[name] = maps
                return maps.clone()  # the net goes on with a copy: an in-place ReLU leaves ours as it is

            return self._with_maps(taps[name], output, images, copied)

        with hooked(self._net, layers, keep):
            logits = self(images)
        return logits, {name: kept[name] for name in layers}

    def changed(self, images: Tensor, layer: str, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Classify with the maps of `layer`, (B, D, h, w), replaced by `change(maps)`: logits (B, K).

        Tokens beside the maps stay as they are.

        Raises:
            ImageShapeError: As above, or the layer's tokens fill no grid at this size.
            LayerNotFoundError: No such layer; lists near names.
        """
        taps = self._named([layer])
        with hooked(self._net, [layer], lambda name, output: self._with_maps(taps[name], output, images, change)):
            return self(images)

    def depths(self, count: int = 4) -> tuple[str, ...]:
        """`count` layers spread evenly over the net's depth, the deepest included; fewer where it has fewer.

        The last block (or activation function) of each resolution comes first; a net with fewer resolutions than
        `count` adds other blocks, then other layers. A transformer of one resolution gives blocks at even distances.
        """
        return spread(self.taps, count)

    @property
    def deepest(self) -> str | None:
        """The layer to look at where none is named: the last one; among tokens the last whole block."""
        if not self.taps or self.taps[-1].layout.axes == "NCHW":
            return self.layers[-1] if self.layers else None
        return self.depths(1)[0]

    @property
    def no_layers(self) -> str:
        """Why `layers` is empty; empty where it is not."""
        if self.layers:
            return ""
        if self._hides:
            return self._hides
        if not self.embeddable:
            return "TorchScript and exported programs hide theirs: give the net as torchvision:, timm:, hf: or python:"
        reasons = Counter(self._left_out.values()).most_common(1)
        told = "no module of it answers maps (B, D, h, w) of the image in any layout that heatward reads"
        return told + "".join(f"; of most, {reason}" for reason, _ in reasons)

    def ask_again(self, before: Mapping[str, Tensor] | None = None) -> None:
        """See that a served model is the one that it was; of any other net, whose weights are here, nothing is asked.

        Args:
            before: What a bundle or a work folder holds of it; None: what it said when it was loaded.

        Raises:
            FingerprintMismatchError: It answers otherwise.
            ClassifierUnavailableError: It does not answer.
        """
        if isinstance(self._net, KServeNet):
            answers = None if before is None else before.get(ANSWERS)
            self._net.ask_again(None if answers is None else answers.float())

    def state_dict(self) -> dict[str, Tensor]:
        """The net's parameters and buffers: copies on the CPU."""
        return {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in self._net.state_dict().items()
        }

    def _named(self, layers: Sequence[str]) -> dict[str, Tap]:
        taps = {tap.name: tap for tap in self.taps}
        for name in layers:
            if name not in taps:
                raise LayerNotFoundError(self._no_layer(name))
        return {name: taps[name] for name in layers}

    def _with_maps(self, tap: Tap, output: Any, images: Tensor, change: Callable[[Tensor], Tensor]) -> Any:
        """A module's output with its maps changed."""
        tensor = first_tensor(output)
        size = (images.shape[2], images.shape[3])
        layout = None if tensor is None else tap.layout.resized(tensor, size, self.input_size)
        if tensor is None or layout is None:
            came = "nothing" if tensor is None else f"{tuple(tensor.shape)}, which is no grid of the image's shape"
            raise ImageShapeError(
                f"{self.spec.source}: for images of {size[0]}×{size[1]} layer '{tap.name}' answers {came}: resize them "
                f"to {self.input_size[0]}×{self.input_size[1]}"
            )
        return with_first(output, layout.back(change(layout.to_maps(tensor)), tensor))

    def _no_layer(self, name: str) -> str:
        if not self.layers:
            return f"{self.spec.source} shows no inner layers ({self.no_layers}): 'occlusion' and 'rise' need none."
        if reason := self._left_out.get(name):
            return f"{self.spec.source}: '{printable(name)}' is no layer to look at: {reason}."
        last = ", ".join(self.layers[-5:])
        hint = nearest(name, self.layers) or f"; the last ones are {last}."
        return f"{self.spec.source} has no layer '{printable(name)}' with a spatial map{hint}"


def _channels_last(module: nn.Module) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:  # torch's own `to` fails where others have five dimensions
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """What its state dict holds beside parameters: copies."""
    stored = module.state_dict().keys()
    return {name: value.clone() for name, value in module.named_buffers() if name in stored}


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether both are there and alike; NaN is like NaN."""
    if one is None or other is None or one.shape != other.shape:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _fingerprint(spec: ClassifierSpec, net: Net, head: Head, state_dict: dict[str, Tensor]) -> str:
    described = spec.model_dump(mode="json", exclude={"source", "weights", "output"}) | {"architecture": net.identity}
    if head.kind:  # plain logits, the only answers that there were once, are not mentioned
        described["head"] = head.kind
    if not net.fingerprinted:
        described, state_dict = described | {"arguments": {}}, {}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(state_dict.items()):
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
