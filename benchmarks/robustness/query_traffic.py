"""Traffic without an attack, as streams of fingerprints: **photographs, with what clients do to them, and video**."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.robustness.query_attacks import Picture
from detector.errors import DataError
from detector.queries import NEAR, Fingerprint, fingerprint

__all__ = ["VIDEOS", "frames", "nearest", "paths_of", "read", "usual"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SENSOR = 2.0  # grey levels of noise in every frame


def paths_of(folders: list[Path]) -> list[Path]:
    """Of all photographs in these folders.

    Raises:
        DataError: One is no folder, or none holds a photograph.
    """
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"--images {folder}: there is no such folder")
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"--images: no photograph in {', '.join(map(str, folders))}")
    return found


def read(path: Path, side: int | None = None) -> Picture:
    """A photograph as it is, or the square in its middle, resized."""
    image = Image.open(path).convert("RGB")
    return np.asarray(image if side is None else ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


def nearest(photographs: list[Fingerprint], window: int) -> tuple[float, float]:
    """The smallest distances of the first 20,000 to the nearest and the fifth nearest of the last so many."""
    looks = np.stack([each.look for each in photographs[:20_000]])
    squares = (looks**2).sum(1)
    first, enough = np.inf, np.inf
    for place in range(NEAR, len(looks)):
        before = np.s_[max(0, place - window) : place]
        found = np.partition(squares[before] + squares[place] - 2 * looks[before] @ looks[place], NEAR - 1)[:NEAR]
        first, enough = min(first, found.min()), min(enough, found[-1])
    return float(np.sqrt(max(first, 0))), float(np.sqrt(max(enough, 0)))


def usual(paths: list[Path], rng: np.random.Generator, side: int | None = None) -> Iterator[Fingerprint]:
    """Photographs; some come again: as they were, as JPEG of another quality, cropped, or in a burst of up to five."""
    for place in rng.permutation(len(paths)):
        image = read(paths[place], side)
        yield fingerprint(image)
        match rng.choice(5, p=[0.6, 0.1, 0.1, 0.1, 0.1]):
            case 1:  # retries
                for _ in range(rng.integers(1, 4)):
                    yield fingerprint(image)
            case 2:
                for _ in range(rng.integers(1, 4)):
                    yield fingerprint(compressed(image, int(rng.integers(30, 96))))
            case 3:
                for _ in range(rng.integers(1, 4)):
                    yield fingerprint(cropped(image, rng))
            case 4:
                for _ in range(rng.integers(1, 5)):
                    yield fingerprint(noisy(cropped(image, rng, 0.03), rng))


def compressed(image: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def cropped(image: Picture, rng: np.random.Generator, share: float = 0.1) -> Picture:
    """To the same size, with up to so much cut off."""
    side = len(image)
    cut = share * side * rng.random(4)
    box = (cut[0], cut[1], side - cut[2], side - cut[3])
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box=box))


def noisy(image: Picture, rng: np.random.Generator) -> Picture:
    return np.clip(np.rint(image + rng.normal(0, SENSOR, image.shape)), 0, 255).astype(np.uint8)


Move = Callable[[int, np.random.Generator], tuple[float, float, float]]
"""A frame's number, chance → shift to the right, shift down (in sides of the frame), and the side of what is seen."""


def pan(speed: float) -> Move:
    def move(number: int, _: np.random.Generator) -> tuple[float, float, float]:
        way = (number * speed) % 1.2
        return min(way, 1.2 - way), 0.0, 1.0  # to and fro, over .6 of a side

    return move


def zoom(speed: float) -> Move:
    return lambda number, _: (0.0, 0.0, (1 - speed) ** (number % 150))


def held(number: int, rng: np.random.Generator) -> tuple[float, float, float]:
    shake = 0.002 * rng.normal(size=2)
    return 0.02 * np.sin(number / 9) + shake[0] + 0.1, 0.015 * np.sin(number / 7) + shake[1] + 0.1, 1.0


VIDEOS: dict[str, Move] = {
    "pan, .1 % of the side a frame": pan(0.001),
    "pan, .25 %": pan(0.0025),
    "pan, .5 %": pan(0.005),
    "pan, 2 %": pan(0.02),
    "zoom, .2 % a frame": zoom(0.002),
    "zoom, 1 %": zoom(0.01),
    "held in the hand": held,
    "camera that stands still": lambda *_: (0.0, 0.0, 1.0),
}


def frames(path: Path, move: Move, count: int, rng: np.random.Generator, side: int = 64) -> Iterator[Fingerprint]:
    """A film over a photograph, with the noise of a sensor."""
    image = Image.open(path).convert("RGB")
    seen = 0.6 * min(image.size)
    for number in range(count):
        right, down, size = move(number, rng)
        left, top = 0.02 * image.width + right * seen, 0.1 * image.height + down * seen
        box = (left, top, min(left + size * seen, image.width), min(top + size * seen, image.height))
        yield fingerprint(noisy(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box)), rng))
