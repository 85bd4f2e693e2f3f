from __future__ import annotations

import numpy as np
import pytest

from server.observers.drift import ALARM, Drift

RNG = np.random.default_rng


class Traffic:
    """Clean images score N(0, 1); p-values are ranks among `size` such scores, drawn once."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.rng = RNG(seed)
        self.calibration = np.sort(self.rng.normal(size=size))
        self.drift = Drift(size)

    def send(self, images: int, share: float = 1.0, shift: float = 0.0) -> np.ndarray:
        """The e-value (log10) after each image, a `share` of which score higher by `shift`."""
        scores = self.rng.normal(size=images) + shift * (self.rng.random(images) < share)
        above = len(self.calibration) - np.searchsorted(self.calibration, scores)
        seen = []
        for p_value in ((1 + above) / (len(self.calibration) + 1)).tolist():
            self.drift.observe(p_value)
            seen.append(self.drift.log10_e_value)
        return np.array(seen)


@pytest.mark.parametrize("size", [19, 200, 2000, 20_000])
def test_clean_traffic_however_long_raises_no_alarm_though_its_calibration_is_finite(size: int):
    """A test of exact uniformity would: 100,000 images tell 2,000 ranks from uniform ones."""
    assert max(Traffic(size, seed).send(50_000).max() for seed in (1, 2)) < ALARM


def test_repeated_over_many_calibrations_the_promise_holds():
    """At most 1 % in 100,000 images and 1 % of calibrations: 50 runs of 2,000 should show none."""
    assert sum(bool(Traffic(500, seed).send(2000).max() >= ALARM) for seed in range(50)) == 0


@pytest.mark.parametrize(
    ("share", "shift", "within"),
    [(0.1, 3.6, 600), (0.5, 3.0, 100), (1.0, 1.0, 150), (1.0, -1.0, 150)],
    ids=["10 % attacked", "half attacked", "blur: all score higher", "all score lower"],
)
def test_a_shift_raises_the_alarm_soon_even_after_long_clean_traffic(share: float, shift: float, within: int):
    for seed in range(3):
        traffic = Traffic(2000, seed)
        traffic.send(20_000)
        assert traffic.send(within, share, shift).max() >= ALARM


def test_the_alarm_stays_while_the_shift_lasts_and_goes_after_it():
    traffic = Traffic(2000)
    assert (traffic.send(20_000, 0.3, 3.0)[500:] >= ALARM).all()
    assert (traffic.send(3000)[-1000:] < ALARM).all()
    assert traffic.send(300, 0.3, 3.0)[-1] >= ALARM


def test_one_photograph_sent_again_and_again_is_unlike_the_calibration():
    drift = Drift(2000)
    for _ in range(100):
        drift.observe(0.995)
    assert drift.log10_e_value >= ALARM


def test_the_flagged_share_is_of_recent_images():
    drift = Drift(999)
    assert drift.flagged_share(0.01) == 0
    for i in range(100):
        drift.observe(0.03 if i % 2 else 0.5)
    assert drift.flagged_share(0.05) == pytest.approx(0.5)
    assert drift.flagged_share(0.01) == 0
    for _ in range(5000):
        drift.observe(0.01)
    assert drift.flagged_share(0.01) == pytest.approx(1, abs=0.01)
    for _ in range(5000):
        drift.observe(0.5)
    assert drift.flagged_share(0.05) == pytest.approx(0, abs=0.01)


def test_the_value_stays_between_its_bounds():
    drift = Drift(500)
    assert drift.log10_e_value == pytest.approx(-5)
    for _ in range(5000):
        drift.observe(1 / 501)
    assert drift.log10_e_value <= 6
