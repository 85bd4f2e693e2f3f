"""One attack against `heatward serve`, over gRPC: **at which query does the server's metric say that it saw it?**"""

from __future__ import annotations

import time
from urllib.request import urlopen

import heatward
import numpy as np
from numpy.typing import NDArray

from benchmarks.robustness.query_attacks import Attack, Picture
from benchmarks.serving.start import serving

__all__ = ["attack_server"]

WAIT_S = 0.3  # the server compares a few times a second
EVERY = 10
CLASSES = 10  # of the embedded classifier


def attack_server(attack: Attack, image: Picture, most: int) -> str:
    """Asks a server with the embedded detector, which is told that image's attack only, and stops at the alert."""
    with serving("embedded", query_alerts="true", metrics_port=0) as server, heatward.Client(server.address) as client:
        label = client.detect(image).predicted.index
        sequence = attack(image, label, np.random.default_rng(0))
        query = next(sequence)
        for number in range(1, most + 1):
            try:
                query = sequence.send(logits(client.detect(query)))
            except StopIteration:
                return f"succeeded after {number} queries; " + ("seen" if alerts(server.metrics_address) else "unseen")
            if number % EVERY == 0 and alerts(server.metrics_address):
                return f"seen within {number} queries"
    return f"unseen after {most} queries"


def logits(verdict: heatward.Verdict) -> NDArray[np.float32]:
    """What an attacker makes of an answer: log probabilities of the first classes, next to nothing for the others."""
    found = np.full(CLASSES, -20.0, np.float32)
    for each in verdict.top:
        found[each.index] = np.log(max(each.probability, 1e-9))
    return found


def alerts(metrics_address: str) -> int:
    time.sleep(WAIT_S)
    with urlopen(f"http://{metrics_address}/metrics") as page:
        lines = page.read().decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("heatward_query_alerts_total")))
