"""Images of one caller: an attack's queries are suspicious; photographs, retries and a camera that moves are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detector.queries import ENOUGH, NEAR, QuerySequence, fingerprint

Pixels = NDArray[np.uint8]


def photograph(rng: np.random.Generator, side: int = 32) -> Pixels:
    """Light and shade of several sizes, and a little texture."""
    layers = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (2, 4, 8, 16)]
    large = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in layers]
    mixed = np.tensordot([0.4, 0.3, 0.2, 0.1], np.stack(large).astype(float), 1)
    return np.clip(mixed + rng.normal(0, 3, mixed.shape), 0, 255).astype(np.uint8)


def noisy(image: Pixels, rng: np.random.Generator, grey_levels: int = 8) -> Pixels:
    changed = image.astype(int) + grey_levels * rng.choice([-1, 1], image.shape)
    return np.clip(changed, 0, 255).astype(np.uint8)


def played(sequence: QuerySequence, images: list[Pixels]) -> list[int]:
    """Numbers of the images that are suspicious, from 1."""
    return [number for number, image in enumerate(images, 1) if sequence.add(fingerprint(image))]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("side", [32, 50, 224])
def test_probes_about_one_photograph_are_an_alert_within_fifty(rng: np.random.Generator, side: int):
    image, sequence = photograph(rng, side), QuerySequence(1000)
    found = played(sequence, [noisy(image, rng) for _ in range(50)])
    assert found[0] > NEAR and len(found) >= ENOUGH and sequence.similarity == 1


def test_steps_of_one_pixel_are_an_alert(rng: np.random.Generator):
    image, sequence = photograph(rng), QuerySequence(1000)
    queries = [image.copy() for _ in range(60)]
    for query, place in zip(queries, rng.permutation(image.size), strict=False):
        query.flat[place] ^= 128
    played(sequence, queries)
    assert sequence.similarity == 1


def test_changes_that_no_field_shows_are_no_repeats(rng: np.random.Generator):
    """Whoever knows the fields keeps their sums: two pixels of one field, one up and one down."""
    image, sequence = np.clip(photograph(rng), 1, 254), QuerySequence(1000)
    queries = []
    for row, column in [(row, 4 * column) for row in range(10) for column in range(8)]:
        query = image.copy()
        query[row, column] += 1
        query[row, column + 1] -= 1
        queries.append(query)
    assert np.array_equal(fingerprint(queries[0]).look, fingerprint(queries[1]).look)
    played(sequence, queries)
    assert sequence.similarity == 1


def test_brighter_and_paler_copies_are_near(rng: np.random.Generator):
    image, sequence = photograph(rng) * 0.5, QuerySequence(1000)
    queries = [np.clip(image * rng.uniform(0.7, 1.3) + rng.uniform(-30, 60), 0, 255) for _ in range(60)]
    played(sequence, [query.astype(np.uint8) for query in queries])
    assert sequence.similarity == 1


def test_an_attack_among_photographs_is_found_and_they_are_not_suspicious(rng: np.random.Generator):
    image, sequence = photograph(rng), QuerySequence(1000)
    images = [noisy(image, rng) if number % 10 == 0 else photograph(rng) for number in range(1, 601)]
    found = played(sequence, images)
    assert sequence.similarity == 1 and all(number % 10 == 0 for number in found)


def test_short_attacks_on_one_photograph_after_another_add_up(rng: np.random.Generator):
    sequence = QuerySequence(1000)
    for _ in range(3):
        image = photograph(rng)
        played(sequence, [noisy(image, rng) for _ in range(20)])
    assert sequence.similarity == 1


def test_photographs_and_retries_are_not_suspicious(rng: np.random.Generator):
    sequence = QuerySequence(300)
    images = [photograph(rng) for _ in range(400)]
    assert played(sequence, images) == [] == played(sequence, images[-300:] * 20)


def test_a_few_versions_of_each_photograph_are_not_suspicious(rng: np.random.Generator):
    """As JPEG files of another quality, or a short burst."""
    sequence = QuerySequence(1000)
    assert played(sequence, [noisy(image, rng, 2) for _ in range(50) for image in [photograph(rng)] * NEAR]) == []


def test_a_camera_that_moves_is_excused_unless_asked_otherwise(rng: np.random.Generator):
    wide = photograph(rng, 400)
    frames = [np.ascontiguousarray(wide[100:324, left : left + 224]) for left in range(0, 170)]
    excused, strict = QuerySequence(1000), QuerySequence(1000, moves=False)
    assert played(excused, frames) == []
    played(strict, frames)
    assert strict.similarity == 1


def test_what_is_out_of_the_window_is_forgotten(rng: np.random.Generator):
    image, sequence = photograph(rng), QuerySequence(100)
    played(sequence, [noisy(image, rng) for _ in range(50)])
    assert sequence.suspicious >= ENOUGH
    played(sequence, [photograph(rng) for _ in range(100)])
    assert sequence.suspicious == 0 and len(sequence) == 100


def test_an_image_smaller_than_the_grid_has_a_fingerprint(rng: np.random.Generator):
    look = fingerprint(rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)).look
    assert look.shape == (64,) and np.isfinite(look).all()


def test_an_image_of_one_colour_has_a_fingerprint():
    assert not fingerprint(np.full((32, 32, 3), 200, np.uint8)).look.any()
