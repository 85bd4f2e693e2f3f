from __future__ import annotations

import tiny
import torch

from detector.classifier import Classifier, load_classifier
from detector.classifier.weights import halve_where_lossless


def test_halved_weights_make_the_same_classifier(tiny_classifier: Classifier) -> None:
    rounded = {n: t.half().float() if t.is_floating_point() else t for n, t in tiny_classifier.state_dict().items()}
    halved = halve_where_lossless(rounded)
    assert halved["head.weight"].dtype == torch.float16
    whole, half = load_classifier(tiny.SPEC, state_dict=rounded), load_classifier(tiny.SPEC, state_dict=halved)
    assert whole.fingerprint == half.fingerprint


def test_weights_that_need_their_bits_keep_them() -> None:
    state_dict = {"weight": torch.tensor([1 / 3]), "count": torch.tensor(3), "huge": torch.tensor([1e9])}
    kept = halve_where_lossless(state_dict)
    assert all(torch.equal(kept[name], value) and kept[name].dtype == value.dtype for name, value in state_dict.items())
