"""Attacks that ask do what they say, disguises keep a picture a picture, and the tables count right."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.robustness.query_attacks import ATTACKS, EPS, Picture
from benchmarks.robustness.query_disguises import DISGUISES
from benchmarks.robustness.query_sequences import Asked, among, attacked, by_accounts, row, seen_after
from detector.queries import fingerprint


def images(count: int, seed: int = 0) -> list[Picture]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 196, (count, 4, 4, 3), dtype=np.uint8)
    return list(coarse.repeat(4, 1).repeat(4, 2))


def redness(queries: list[Picture]) -> NDArray[np.float32]:
    """Class 1 where red prevails in a corner, else class 0: every image here can be fooled."""
    red = [float(query[:4, :4, 0].mean() - query[:4, :4].mean()) for query in queries]
    return np.array([[0, each] for each in red], np.float32)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_sends_pictures_and_ends_where_the_label_flips(name: str) -> None:
    sent: list[Picture] = []

    def ask(queries: list[Picture]) -> NDArray[np.float32]:
        sent.extend(queries)
        return redness(queries)

    image = images(1)[0]
    image[..., 0] = image[..., 1:].mean(2) + 4  # a little red
    (result,) = attacked(ATTACKS[name], [image], ask, 3000, DISGUISES["as they are"])
    assert result.succeeded and len(result.queries) < 3000
    assert all(query.dtype == np.uint8 and query.shape == image.shape for query in sent)
    if name == "square":
        assert max(np.abs(query.astype(int) - image).max() for query in sent) <= round(255 * EPS)
        assert redness(sent[-1:]).argmax() != redness([image]).argmax()


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_changes_a_query_and_keeps_its_shape(name: str) -> None:
    image = images(1)[0]
    worn = [DISGUISES[name](image, number, np.random.default_rng(number)) for number in (1, 2)]
    assert all(each.dtype == np.uint8 and each.shape == image.shape for each in worn)
    assert np.array_equal(worn[0], worn[1]) == (name == "as they are")


def probes(count: int) -> list:
    rng, image = np.random.default_rng(1), images(1, 7)[0]
    return [fingerprint(image + rng.integers(0, 5, image.shape, dtype=np.uint8)) for _ in range(count)]


def test_the_query_at_which_it_is_seen_alone_among_others_and_by_accounts() -> None:
    alone = seen_after(probes(100), moves=False)
    assert alone == 35
    others = [fingerprint(image) for image in images(300)]
    found = among(probes(100), others, 10, np.random.default_rng(0))
    assert found is not None and alone <= found < 60
    shared = by_accounts(probes(200), 4)
    assert shared is not None and shared >= 4 * alone
    assert by_accounts(probes(100), 4) is None
    assert seen_after(probes(34), moves=False) is None


def test_a_row_tells_what_was_seen_and_who_succeeded_before() -> None:
    results = [Asked(probes(50), True), Asked(probes(10), True), Asked(probes(60), False)]
    assert row("x", results, [40, None, 45]) == "| x | 2 of 2 | 45 | 45 | 1 of 2 |"
    assert row("x", results, [None, None, None]) == "| x | 0 of 2 | – | – | 2 of 2 |"
