"""What the classifier answers about the candidates: logits of images and of their views in, **groups of evidence** out.

logits (B, K)          ─▶ classes.logit, classes.log_probability   (B, C, 1)
of V views (B, V, K)   ─▶ views.logit, views.log_probability       (B, C, V), what changes under each view
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["answers", "answers_under_views"]


def answers(logits: Tensor, candidates: Tensor) -> dict[str, Tensor]:
    """Centred logits and log-probabilities of the candidates (B, C)."""
    return {f"classes.{name}": values for name, values in _of(logits[:, None], candidates).items()}


def answers_under_views(logits: Tensor, view_logits: Tensor, candidates: Tensor) -> dict[str, Tensor]:
    """How these change under every view."""
    own, seen = _of(logits[:, None], candidates), _of(view_logits, candidates)
    return {f"views.{name}": seen[name] - own[name] for name in own}


def _of(logits: Tensor, candidates: Tensor) -> dict[str, Tensor]:
    """Of logits (B, n, K), for each of the candidates: (B, C, n)."""
    index = candidates[:, None].expand(-1, logits.shape[1], -1)
    return {
        "logit": (logits - logits.mean(-1, keepdim=True)).gather(2, index).transpose(1, 2),
        "log_probability": logits.log_softmax(-1).gather(2, index).transpose(1, 2),
    }
