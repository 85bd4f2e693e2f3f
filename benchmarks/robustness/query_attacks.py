"""Attacks that only ask, as sequences of queries: an image and its label in, 8-bit images out, answers back in.

    square     Andriushchenko et al. 2020, "Square Attack"; L∞, reads scores
    simba      Guo et al. 2019, "Simple Black-box Adversarial Attacks"; one pixel's channel at a time, reads scores
    hopskip    Chen et al. 2020, "HopSkipJumpAttack"; L2, reads labels
    boundary   Brendel et al. 2018, "Decision-Based Adversarial Attacks"; reads labels
    rays       Chen & Gu 2020, "RayS"; L∞, reads labels

Each is a generator: it yields the next query (H, W, 3) uint8 and is sent its logits. What is sent is a picture, so
steps smaller than a grey level are made larger: they would be lost on the way. An attack ends where it has succeeded,
and returns what it found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray

__all__ = ["ATTACKS", "Attack", "Picture", "Sequence"]

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]
Sequence = Generator[Picture, NDArray[np.float32], Picture]
Attack = Callable[[Picture, int, np.random.Generator], Sequence]

EPS = 8 / 255
LEVELS = 2 / 255  # the root mean square of a probe that survives rounding
CLOSE = 1.0  # L2 at which a decision-based attack on 32 px is content; larger images: as much for each pixel


def square(image: Picture, label: int, rng: np.random.Generator, share: float = 0.3) -> Sequence:
    """Squares of ±EPS, ever smaller ones, are kept where the margin falls."""
    source = image / 255.0
    height, width, _ = source.shape
    best = np.clip(source + EPS * rng.choice([-1.0, 1.0], (1, width, 3)), 0, 1)
    least = margin((yield picture(best)), label)
    asked = 1
    while least > 0:
        side = max(1, round(math.sqrt(share * 2.0 ** -(asked // 50) * height * width)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        tried = best.copy()
        part = np.s_[top : top + side, left : left + side]
        tried[part] = np.clip(source[part] + EPS * rng.choice([-1.0, 1.0], (1, 1, 3)), 0, 1)
        found = margin((yield picture(tried)), label)
        asked += 1
        if found < least:
            best, least = tried, found
    return picture(best)


def simba(image: Picture, label: int, rng: np.random.Generator, step: float = 0.2) -> Sequence:
    """One channel of one pixel is moved, up or else down, and left so where the probability falls."""
    best = image / 255.0
    logits = yield picture(best)
    while logits.argmax() == label:
        for place in rng.permutation(best.size):
            for sign in (1, -1):
                tried = best.copy()
                tried.flat[place] = np.clip(tried.flat[place] + sign * step, 0, 1)
                answer = yield picture(tried)
                if log_probability(answer, label) < log_probability(logits, label):
                    best, logits = tried, answer
                    break
            if logits.argmax() != label:
                break
    return picture(best)


def hopskip(image: Picture, label: int, rng: np.random.Generator, probes: int = 100) -> Sequence:
    """The boundary's normal is estimated from random probes around a point on it; the point walks along it."""
    source = image / 255.0
    point = yield from start(source, label, rng)
    point = yield from nearer(source, point, label)
    turn = 0
    while True:
        turn += 1
        distance = norm(point - source)
        if distance <= CLOSE * math.sqrt(source.size / 3072):
            return picture(point)
        size = max(distance / math.sqrt(source.size), LEVELS * math.sqrt(source.size))
        votes, directions = [], []
        for _ in range(round(probes * math.sqrt(turn))):
            probe = rng.normal(size=source.shape)
            probe *= size / norm(probe)
            sent = np.clip(point + probe, 0, 1)
            votes.append(1.0 if (yield picture(sent)).argmax() != label else -1.0)
            directions.append(sent - point)
        mean = float(np.mean(votes))
        weights = np.array(votes) - (mean if abs(mean) < 1 else 0.0)
        gradient = np.tensordot(weights, np.stack(directions), 1)
        gradient /= norm(gradient) + 1e-12
        stride = distance / math.sqrt(turn)
        while stride > 1e-3:
            tried = np.clip(point + stride * gradient, 0, 1)
            if (yield picture(tried)).argmax() != label:
                point = yield from nearer(source, tried, label)
                break
            stride /= 2


def boundary(image: Picture, label: int, rng: np.random.Generator) -> Sequence:
    """A random step around the image, then one towards it; both grow and shrink with their success."""
    source = image / 255.0
    point = yield from start(source, label, rng)
    point = yield from nearer(source, point, label)
    around, towards = 0.1, 0.1
    while norm(point - source) > CLOSE * math.sqrt(source.size / 3072):
        away = point - source
        distance = norm(away)
        step = rng.normal(size=source.shape)
        step *= max(around * distance, LEVELS * math.sqrt(source.size)) / norm(step)
        step -= away * (step * away).sum() / distance**2
        tried = source + (away + step) * distance / norm(away + step)
        if (yield picture(np.clip(tried, 0, 1))).argmax() == label:
            around = max(around * 0.9, 0.01)
            continue
        around = min(around * 1.1, 0.5)
        closer = np.clip(source + (tried - source) * (1 - towards), 0, 1)
        if (yield picture(closer)).argmax() != label:
            point, towards = closer, min(towards * 1.1, 0.5)
        else:
            point, towards = np.clip(tried, 0, 1), max(towards * 0.9, 0.01)
    return picture(point)


def rays(image: Picture, label: int, _rng: np.random.Generator) -> Sequence:
    """Blocks of a vector of signs are turned round; a turn is kept where the boundary comes nearer."""
    source = image / 255.0
    sign, distance = np.ones(source.size), 1.0
    blocks = 1
    while True:
        width = -(-source.size // blocks)
        for block in range(blocks):
            turned = sign.copy()
            turned[block * width : (block + 1) * width] *= -1
            direction = turned.reshape(3, *source.shape[:2]).transpose(1, 2, 0)  # blocks of one channel, as published
            found = yield from halved(source, direction, distance, label)
            if found < distance:
                sign, distance = turned, found
            if distance <= EPS:
                return picture(np.clip(source + distance * direction, 0, 1))
        blocks = min(2 * blocks, source.size)


def halved(
    source: Floats, direction: Floats, start: float, label: int
) -> Generator[Picture, NDArray[np.float32], float]:
    """How far along a direction the label flips; infinity where it does not at `start`."""
    if (yield picture(np.clip(source + start * direction, 0, 1))).argmax() == label:
        return math.inf
    low, high = 0.0, start
    while high - low > 1 / 255:
        middle = (low + high) / 2
        answer = yield picture(np.clip(source + middle * direction, 0, 1))
        low, high = (middle, high) if answer.argmax() == label else (low, middle)
    return high


def start(source: Floats, label: int, rng: np.random.Generator) -> Generator[Picture, NDArray[np.float32], Floats]:
    """Noise, laid over the image more and more, until the label flips."""
    noise = rng.random(source.shape)
    share = 0.0
    while True:
        share = min(1.0, share + 0.2)
        tried = (1 - share) * source + share * noise
        if (yield picture(tried)).argmax() != label:
            return tried
        if share == 1:
            noise, share = rng.random(source.shape), 0.0


def nearer(source: Floats, point: Floats, label: int) -> Generator[Picture, NDArray[np.float32], Floats]:
    """Halves the way to the image until the boundary is found."""
    low, high = 0.0, 1.0
    while (high - low) * np.abs(point - source).max() > 1 / 255:
        middle = (low + high) / 2
        answer = yield picture(source + middle * (point - source))
        low, high = (middle, high) if answer.argmax() == label else (low, middle)
    return source + high * (point - source)


def picture(image: Floats) -> Picture:
    return np.rint(image * 255).astype(np.uint8)


def norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector))


def margin(logits: NDArray[np.float32], label: int) -> float:
    """Of the label over all others; it is fooled at 0 and below."""
    return float(logits[label] - np.delete(logits, label).max())


def log_probability(logits: NDArray[np.float32], label: int) -> float:
    top = float(logits.max())
    return float(logits[label]) - top - math.log(float(np.exp(logits - top).sum()))


ATTACKS: dict[str, Attack] = {
    "square": square,
    "simba": simba,
    "hopskip": hopskip,
    "boundary": boundary,
    "rays": rays,
}
