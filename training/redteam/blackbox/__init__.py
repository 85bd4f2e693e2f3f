"""Attacks that only ask: a goal, images and a budget in; what was found, and after how many questions, out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from training.redteam.blackbox.goal import Found, Goal
from training.redteam.blackbox.hopskipjump import hop_skip_jump
from training.redteam.blackbox.simba import simba
from training.redteam.blackbox.square import square
from training.redteam.values import Budget

__all__ = ["DECISION", "SCORE", "BlackBox", "Found", "Goal"]

BlackBox = Callable[[Goal, Tensor, Budget, int], Found]
"""Goal, images (B, 3, H, W), budget and seed → what was found."""

SCORE: dict[str, BlackBox] = {"square": square, "simba": simba}
"""They read probabilities and p-values."""
DECISION: dict[str, BlackBox] = {"hopskipjump": hop_skip_jump}
"""They read label and flag."""
