"""What a model that is asked says: logits, probabilities or neither; and the numbers that it takes."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor

from detector.classifier import Preprocessing
from detector.classifier.sources.asked import AskedNet, Input, read_input
from detector.classifier.sources.scores import Scores
from detector.errors import ClassifierSpecError

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 1.0, 0.0]])


def read(scores: Tensor, answers: str | None = None) -> Tensor:
    return Scores("onnx:m", answers).logits(scores.numpy())  # type: ignore[arg-type]


def test_what_sums_to_one_or_to_a_hundred_are_probabilities() -> None:
    shares = LOGITS.softmax(1)
    for scores, told in (
        (shares, None),
        (100 * shares, None),
        (100 * shares, "probabilities"),
        (shares, "probabilities"),
    ):
        torch.testing.assert_close(read(scores, told), LOGITS.log_softmax(1))
    torch.testing.assert_close(read(LOGITS), LOGITS)


def test_what_is_told_is_believed_where_it_can_be() -> None:
    shares = LOGITS.softmax(1)
    torch.testing.assert_close(read(shares, "logits"), shares)
    with pytest.raises(ClassifierSpecError, match=r"expected probabilities: if they are logits"):
        read(LOGITS, "probabilities")


def test_a_sigmoid_for_each_class_is_no_head() -> None:
    with pytest.raises(ClassifierSpecError, match="multi-label"):
        read(LOGITS.sigmoid())
    torch.testing.assert_close(read(LOGITS.sigmoid(), "logits"), LOGITS.sigmoid())


def test_what_is_not_finite_decides_nothing_and_stays() -> None:
    shares = LOGITS.softmax(1)
    broken = torch.cat([shares, torch.full((1, 3), torch.nan)])
    found = read(broken)
    torch.testing.assert_close(found[:2], LOGITS.log_softmax(1))
    assert found[2].isnan().all()


def takes(shape: tuple[int | None, ...], dtype: str, **preprocessing: object) -> Input:
    spec = tiny.SPEC.model_copy(update={"preprocessing": Preprocessing(**preprocessing)})
    return read_input("images", shape, dtype, spec, None)


def test_pixels_of_eight_bits_are_not_normalised() -> None:
    seen: list[int] = []

    def answer(parts: object) -> list[object]:
        for part in parts:  # type: ignore[attr-defined]
            seen.extend(part.reshape(-1).tolist())
        return [torch.zeros(len(part), 4).numpy() for part in parts]  # type: ignore[attr-defined]

    pixels = torch.arange(3 * 16 * 16).reshape(1, 3, 16, 16) % 256
    for std in (1.0, 1 / 255):
        seen.clear()
        wanted = takes((None, 3, 16, 16), "uint8", std=(std, std, std))
        AskedNet("onnx:m", wanted, 8, answer, 4, "logits")(pixels / 255 / std)  # type: ignore[arg-type]
        assert seen == pixels.reshape(-1).tolist()
    for wrong in ({"mean": (0.5, 0.5, 0.5)}, {"std": (0.25, 0.25, 0.25)}):
        with pytest.raises(ClassifierSpecError, match="leave mean and std out"):
            takes((None, 3, 16, 16), "uint8", **wrong)


@pytest.mark.parametrize("shape", [(None, 1, 16, 16), (None, 16, 16, 1)])
def test_a_model_of_one_channel_gets_one(shape: tuple[int | None, ...]) -> None:
    assert takes(shape, "float32", channel_order="grey").name == "images"
    with pytest.raises(ClassifierSpecError, match='channel_order = "grey"'):
        takes(shape, "float32")
