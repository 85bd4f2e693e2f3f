"""Attacks that ask do what they say, disguises keep a picture a picture, and the tables count right."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.robustness.query_attacks import ATTACKS, EPS, Picture
from benchmarks.robustness.query_disguises import DISGUISES, Rehearsed
from benchmarks.robustness.query_sequences import SHORT, Asked, among, attacked, by_accounts, row, seen_after
from benchmarks.robustness.query_traffic import nearest
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
    assert result.succeeded and result.bare and len(result.queries) < 3000
    assert all(query.dtype == np.uint8 and query.shape == image.shape for query in sent)
    if name == "square":
        assert max(np.abs(query.astype(int) - image).max() for query in sent) <= round(255 * EPS)
        assert redness(sent[-1:]).argmax() != redness([image]).argmax()


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_changes_a_query_and_keeps_its_shape(name: str) -> None:
    image = images(1)[0]
    disguise = deepcopy(DISGUISES[name])
    worn = [disguise(image, number, np.random.default_rng(number)) for number in (1, 2)]
    assert all(each.dtype == np.uint8 and each.shape == image.shape for each in worn)
    assert np.array_equal(worn[0], worn[1]) == (name == "as they are" or isinstance(disguise, Rehearsed))


def test_who_rehearses_sends_queries_as_they_are_up_to_the_alert_and_then_shades_them_no_more_than_is_needed() -> None:
    disguise, rng = Rehearsed(1, 2, 4, 8, 16, 32), np.random.default_rng(0)
    queries = pictures(200)
    sent = [disguise(query, number, rng) for number, query in enumerate(queries)]
    bare = [np.array_equal(*each) for each in zip(sent, queries, strict=True)]
    assert bare.index(False) == 34, "the 35th would be the alert"
    changes = [np.abs(one.astype(int) - other).max() for one, other in zip(sent, queries, strict=True)]
    assert 0 < changes[34] < max(changes)
    assert seen_after(map(fingerprint, sent), moves=False) is None
    assert np.array_equal(disguise(queries[0], 0, rng), queries[0]), "an exact repeat is passed over"


def test_the_find_of_an_attack_may_fool_by_its_disguise_alone() -> None:
    image = images(1)[0]
    image[..., 0] = image[..., 1:].mean(2) + 4
    blue = np.zeros_like(image)
    (result,) = attacked(ATTACKS["square"], [image], redness, 50, lambda *_: blue)
    assert result.succeeded and not result.bare


def test_an_attack_may_end_where_it_is_seen() -> None:
    stubborn = np.array([[1, 0]], np.float32)
    long, short = (
        attacked(
            ATTACKS["square"], images(1), lambda _: stubborn, 100, DISGUISES["as they are"], until_seen=until_seen
        )[0]
        for until_seen in (False, True)
    )
    assert (len(long.queries), len(short.queries)) == (100, max(seen_after(long.queries) or 0, SHORT + 1))
    assert not short.succeeded


def test_the_distances_of_the_nearest_are_those_of_the_images_before() -> None:
    photographs = [fingerprint(image) for image in images(60)]
    looks = np.stack([each.look for each in photographs])
    distances = np.linalg.norm(looks[:, None] - looks, axis=2)
    least = [sorted(distances[place, max(0, place - 20) : place]) for place in range(5, 60)]
    assert nearest(photographs, 20) == pytest.approx((min(d[0] for d in least), min(d[4] for d in least)), abs=1e-3)
    assert nearest([*photographs, photographs[-1]], 20)[0] == pytest.approx(0, abs=1e-3)


def pictures(count: int) -> list[Picture]:
    rng, image = np.random.default_rng(1), images(1, 7)[0]
    return [image + rng.integers(0, 5, image.shape, dtype=np.uint8) for _ in range(count)]


def probes(count: int) -> list:
    return [fingerprint(picture) for picture in pictures(count)]


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
