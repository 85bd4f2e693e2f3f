"""The heatmap classifier: `Evidence` in, an attack score and a distribution over origin labels out.

    groups per candidate ─▶ one token per candidate ─┐
                                                     ├─▶ attention ─▶ origin head, (B, C)
    groups per image ─────▶ one token per image ─────┴──────────────▶ family head, (B, families)

Groups of numbers stand side by side, in the order of `detector.evidence.groups`.

The family head says *clean* or which family of attack. Families are told apart because a pooled binary head makes them
fight (docs/experiments.md) and because the origin label hides in another place for each of them. The attack score is
−log P(clean), plus a share of the novelty (`detector.scoring.novelty`), which no attack has trained; with a floor under
the witness's answer (`detector.scoring.floor`), the greater of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detector.errors import BundleDamagedError
from detector.evidence import (
    ALL_CLASSES_UP_TO,
    PER_CANDIDATE,
    PER_IMAGE,
    Evidence,
    EvidenceShape,
)
from detector.scoring.floor import Floor
from detector.scoring.novelty import Novelty
from detector.scoring.standardise import Standardise
from detector.settings import NetworkSettings, ScoreSettings
from detector.surrogate import straight

__all__ = [
    "EvidenceShape",
    "HeatmapNetwork",
    "NetworkOutput",
    "NetworkSettings",
    "ScoreSettings",
    "ensemble_weights",
    "score",
]

SHARED = ("novelty.", "floor.")
"""Parts that depend on no network, and are stored once."""
FIRST = 3
"""Candidates whose numbers the image token of a black box reads."""


@dataclass(frozen=True)
class NetworkOutput:
    """family_logits (B, families), family 0 = clean; origin_logits (B, C) over the candidates."""

    family_logits: Tensor
    origin_logits: Tensor


class HeatmapNetwork(nn.Module):
    """See the module's docstring.

    Args:
        shape: Sizes of the evidence.
        families: Number of families, clean (index 0) counted.
        settings: Widths and dropout.
    """

    def __init__(self, shape: EvidenceShape, families: int, settings: NetworkSettings) -> None:
        super().__init__()
        width, token = settings.width, settings.token
        features, channels = shape.columns(PER_CANDIDATE), shape.columns(PER_IMAGE)
        self.scale_features = Standardise((1, features))
        self.scale_channels = Standardise((channels,))
        # of a black box, nearly all that is known stands beside candidates: the image token reads the first ones, too
        self.first = min(FIRST, shape.candidates) if shape.black_box else 0
        self.novelty = Novelty(shape, settings.score)
        self.floor = Floor() if settings.score.floor_weight else None

        self.encode_features = nn.Linear(features, token)
        self.encode_rank = nn.Parameter(torch.zeros(shape.candidates, token))
        # with few classes a class has an identity (its channels are its own); with many only its rank counts
        identities = shape.classes if shape.classes <= ALL_CLASSES_UP_TO else 0
        self.encode_class = nn.Embedding(identities, token) if identities else None
        self.image_to_class = nn.Linear(width, identities) if identities else None

        self.encode_image = nn.Sequential(
            nn.Linear(channels + self.first * features, width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
        )
        self.image_to_token = nn.Linear(width, token)
        self.mix = nn.TransformerEncoderLayer(
            token, settings.heads, 2 * token, settings.dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.family_head = nn.Sequential(
            nn.Linear(width + 2 * token, width), nn.GELU(), nn.Dropout(settings.dropout), nn.Linear(width, families)
        )
        self.origin_head = nn.Sequential(nn.Linear(token, token), nn.GELU(), nn.Linear(token, 1))

    @classmethod
    def ensemble(
        cls, shape: EvidenceShape, families: int, settings: NetworkSettings, weights: dict[str, Tensor]
    ) -> list[HeatmapNetwork]:
        """Rebuild `settings.ensemble` networks from weights stored under `0.`, `1.`, …; frozen, in eval mode.

        They share one `novelty` and one `floor`, which depend on no network and are stored once.

        Raises:
            BundleDamagedError: The weights do not fit the sizes.
        """
        networks: list[HeatmapNetwork] = []
        shared = {name: tensor.float() for name, tensor in weights.items() if name.startswith(SHARED)}
        for member in range(settings.ensemble):
            prefix = f"{member}."
            own = {name.removeprefix(prefix): t.float() for name, t in weights.items() if name.startswith(prefix)}
            network = cls(shape, families, settings)
            try:
                network.load_state_dict(own | shared)
            except RuntimeError as error:
                raise BundleDamagedError(f"the heatmap network's weights do not fit its sizes: {error}") from error
            if broken := [name for name, tensor in (own | shared).items() if tensor.isnan().any()]:
                raise BundleDamagedError(f"the heatmap network's {broken[0]} holds NaN: train the bundle again")
            if network.floor is not None:
                network.floor.check()
            if networks:
                network.novelty, network.floor = networks[0].novelty, networks[0].floor
            networks.append(network.eval().requires_grad_(False))
        return networks

    @torch.no_grad()
    def fit_scales(self, evidence: Evidence) -> None:
        """Take the standardising statistics from a sample of the fit images."""
        self.scale_features.fit(evidence.columns(PER_CANDIDATE))
        self.scale_channels.fit(evidence.columns(PER_IMAGE))

    def fit_usual(self, clean: Evidence, unharmed: Evidence) -> None:
        """Learn what is usual of clean images, and of clean images and noise twins."""
        self.novelty.fit(clean, unharmed)
        if self.floor is not None:
            self.floor.fit(clean)

    def forward(self, evidence: Evidence) -> NetworkOutput:
        features = self.scale_features(evidence.columns(PER_CANDIDATE))  # (B, C, n)
        tokens = self.encode_features(features) + self.encode_rank
        if self.encode_class is not None:
            tokens = tokens + self.encode_class(evidence.candidates)
        seen = self.scale_channels(evidence.columns(PER_IMAGE))
        if self.first:
            seen = torch.cat([seen, features[:, : self.first].flatten(1)], dim=1)
        image = self.encode_image(seen)  # (B, width)

        mixed = self.mix(torch.cat([self.image_to_token(image)[:, None], tokens], dim=1))  # (B, 1 + C, token)
        family_logits = self.family_head(torch.cat([image, mixed[:, 0], mixed[:, 1]], dim=1))
        origin_logits = self.origin_head(mixed[:, 1:])[..., 0]
        if self.image_to_class is not None:
            origin_logits = origin_logits + self.image_to_class(image).gather(1, evidence.candidates)
        return NetworkOutput(family_logits, origin_logits)


def score(networks: Sequence[HeatmapNetwork], evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Average an ensemble: on the graph of the evidence, where that is on one, and else on none.

    Args:
        networks: In eval mode.
        evidence: About B images.

    Returns:
        Attack score (B,), −log of the mean P(clean) plus the weighted novelty, or the weighted floor where that is
        greater, higher is more attack-like; origin probabilities (B, C).
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and evidence.logits.requires_grad):
        return _averaged(networks, evidence)


def _averaged(networks: Sequence[HeatmapNetwork], evidence: Evidence) -> tuple[Tensor, Tensor]:
    outputs = [network(evidence) for network in networks]
    log_clean = torch.stack([output.family_logits.double().log_softmax(1)[:, 0] for output in outputs])
    origin = torch.stack([output.origin_logits.softmax(1) for output in outputs]).mean(0)
    attack_score = math.log(len(networks)) - log_clean.logsumexp(0)
    novelty, floor = networks[0].novelty, networks[0].floor
    attack_score = attack_score + novelty.settings.novelty_weight * novelty(evidence)
    if floor is not None:
        beside = novelty.settings.floor_weight * floor(evidence)
        # an attacker goes down both where they are close (detector.surrogate)
        attack_score = straight(torch.maximum(attack_score, beside).detach(), torch.logaddexp(attack_score, beside))
    return attack_score, origin


def ensemble_weights(networks: Sequence[HeatmapNetwork]) -> dict[str, Tensor]:
    """The inverse of `HeatmapNetwork.ensemble`: all weights in one dictionary, matrices in half precision.

    Novelty and floor, fitted alike for each, are those of the first.

    Calibrate networks that were loaded from these, so that what is calibrated is what is served.
    """
    weights = {name: tensor for name, tensor in networks[0].state_dict().items() if name.startswith(SHARED)}
    for member, network in enumerate(networks):
        for name, tensor in network.state_dict().items():
            if not name.startswith(SHARED):
                is_matrix = tensor.ndim >= 2 and not name.startswith("scale_")
                weights[f"{member}.{name}"] = tensor.half() if is_matrix else tensor
    return weights
