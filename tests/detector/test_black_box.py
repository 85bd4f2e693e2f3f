"""A black box: its answers come back as they were, bad ones are named, and methods that need more refuse it."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.classifier.black_box import BlackBox
from detector.errors import (
    BlackBoxError,
    ClassifierSpecError,
    ImageShapeError,
    LayerNotFoundError,
    NoGradientError,
    NonFiniteLogitsError,
)
from detector.heatmaps import METHODS, channel_attribution, class_activation_gradients, occlusion, rise

CLASSES = ("dark", "grey", "light")
ANSWER_ONLY = {"occlusion", "rise"}


def brightness(images: Tensor) -> Tensor:
    """Probabilities (n, 3) that follow the brightness of the top left quarter."""
    level = images[:, :, :4, :4].mean((1, 2, 3))
    return torch.stack([-4 * level, 0 * level, 4 * level], 1).softmax(1)


def box(predict: Any = brightness, **settings: Any) -> BlackBox:
    return BlackBox(predict, CLASSES, (8, 8), **settings)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "convert",
    [
        lambda p: p,
        lambda p: p.numpy(),
        lambda p: p.double().numpy()[:, ::-1][:, ::-1],
        lambda p: np.frombuffer(p.numpy().astype(">f4").tobytes(), ">f4").reshape(p.shape),  # read-only, as off a wire
        lambda p: p.tolist(),
    ],
    ids=["tensor", "array", "strided doubles", "big-endian bytes", "lists"],
)
def test_softmax_gives_the_probabilities_back(convert: Any, images: Tensor) -> None:
    logits = box(lambda some: convert(brightness(some)))(images)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.softmax(1), brightness(images), atol=1e-6, rtol=0)


def test_certainty_gives_finite_logits(images: Tensor) -> None:
    sure = torch.tensor([[0, 1, 0]]).expand(5, 3)  # a box that tells its label alone
    logits = box(lambda some: sure)(images)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1), sure.float(), atol=1e-6, rtol=0)


def test_calls_stay_within_max_batch(images: Tensor) -> None:
    sizes = []

    def predict(some: Tensor) -> Tensor:
        sizes.append(len(some))
        return brightness(some)

    torch.testing.assert_close(box(predict, max_batch=2)(images), box()(images))
    assert sizes == [2, 2, 1]
    assert box(predict)(images[:0]).shape == (0, 3)
    assert len(sizes) == 3  # nothing to ask


def test_predict_sees_no_gradient_and_cannot_spoil_the_images(images: Tensor) -> None:
    def predict(some: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not some.requires_grad
        some -= 0.5  # normalises in place
        return brightness(some)

    before = images.clone()
    box(predict)(images.requires_grad_())
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (torch.full((5, 2), 0.5), BlackBoxError, r"mine answers \(5, 2\) for 5 images, expected \(5, 3\)"),
        (torch.full((4, 3), 1 / 3), BlackBoxError, r"mine answers \(4, 3\) for 5 images"),
        (torch.full((3,), 1 / 3), BlackBoxError, r"mine answers \(3,\)"),
        (np.array([[1, 0, 0], [0, np.nan, 1], *[[1, 0, 0]] * 3]), NonFiniteLogitsError, r"mine .* images \[1\] of 5"),
        (torch.full((5, 3), float("inf")), NonFiniteLogitsError, "mine answered NaN or infinity"),
        (
            torch.tensor([[3.0, -2.0, 0.0]]).expand(5, 3),
            BlackBoxError,
            r"values in -2 … 3 .* end `predict` in a soft",
        ),
        (torch.full((5, 3), 0.5), BlackBoxError, r"sums 1\.5 … 1\.5"),
        ("cat", BlackBoxError, "mine failed on 5 images .ValueError"),
        (None, BlackBoxError, "mine"),
    ],
    ids=["classes", "images", "flat", "nan", "infinity", "logits", "sigmoids", "text", "nothing"],
)
def test_answers_that_are_no_probabilities_are_named(
    answer: Any, error: type[Exception], message: str, images: Tensor
) -> None:
    with pytest.raises(error, match=message):
        box(lambda some: answer, name="mine")(images)


@pytest.mark.parametrize(
    ("classes", "input_size", "settings"),
    [
        (("cat",), (8, 8), {}),
        (("cat", "cat"), (8, 8), {}),
        (CLASSES, (0, 8), {}),
        (CLASSES, (8, 8), {"max_batch": 0}),
    ],
)
def test_unusable_descriptions_are_refused_before_the_first_call(
    classes: tuple[str, ...], input_size: tuple[int, int], settings: dict[str, int]
) -> None:
    with pytest.raises(ClassifierSpecError, match=r"^mine: expected"):
        BlackBox(brightness, classes, input_size, name="mine", **settings)


def test_images_of_another_size_are_refused(images: Tensor) -> None:
    with pytest.raises(ImageShapeError, match=r"mine takes images \(B, 3, 8, 8\), got \(5, 3, 7, 8\)"):
        box(name="mine")(images[:, :, 1:])


# --- heatmaps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(METHODS) - ANSWER_ONLY))
def test_methods_by_gradient_or_layer_refuse_it_by_name(name: str, images: Tensor) -> None:
    with pytest.raises((NoGradientError, LayerNotFoundError), match=r"'mine' .* 'occlusion'.* 'rise'") as raised:
        METHODS[name](box(name="mine"), images, None)  # type: ignore[arg-type]
    assert "'gradient'" not in str(raised.value)  # nothing else that would fail


def test_channel_methods_refuse_it_by_name(images: Tensor) -> None:
    with pytest.raises(NoGradientError, match="'mine'"):
        channel_attribution(box(name="mine"), images, ["1"])  # type: ignore[arg-type]
    with pytest.raises(NoGradientError, match="'mine'"):
        class_activation_gradients(box(name="mine"), images, "1")  # type: ignore[arg-type]


# --- far away ----------------------------------------------------------------------------------------------------


class Answering(BaseHTTPRequestHandler):
    """Float32 images in the body, probabilities as JSON back."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        images = np.frombuffer(body, np.float32).reshape(-1, 3, 8, 8)
        answer = json.dumps(brightness(torch.tensor(images)).tolist()).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def remote() -> Iterator[BlackBox]:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the machine has

        def ask(images: Tensor) -> Any:
            with direct.open(url, images.numpy().tobytes(), timeout=30) as response:
                return json.load(response)

        try:
            yield box(ask, name=url, max_batch=16)
        finally:
            server.shutdown()
            thread.join()


def test_a_remote_classifier_is_explained(remote: BlackBox, images: Tensor) -> None:
    dark = torch.full((2, 3, 8, 8), 0.1)
    dark[:, :, :4, :4] = 1.0  # the quarter that it reads
    light = torch.tensor([[2], [2]])
    covered = occlusion(remote, dark, light, grid=2).maps
    assert (covered.flatten(2).argmax(2) == 0).all()
    torch.testing.assert_close(covered, occlusion(box(), dark, light, grid=2).maps)
    sampled = rise(remote, dark, light, samples=32, cells=2).maps
    torch.testing.assert_close(sampled, rise(box(), dark, light, samples=32, cells=2).maps)
    assert (sampled[:, :, :4, :4].amin((2, 3)) > sampled[:, :, 4:, 4:].amax((2, 3))).all()


def test_a_lost_connection_is_one_of_our_errors(images: Tensor) -> None:
    lost = ConnectionResetError("peer is gone")

    def ask(some: Tensor) -> Tensor:
        raise lost

    with pytest.raises(BlackBoxError, match=r"far failed .*ConnectionResetError: peer is gone") as raised:
        rise(box(ask, name="far"), images)
    assert raised.value.__cause__ is lost
