"""Evidence of the right shapes about no image: two views, three depths, a witness."""

from __future__ import annotations

import torch

from detector.evidence import Evidence


def evidence_of(batch: int, classes: int, candidates: int, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    image = {
        "margin.channels": (12,),
        "witness.answer": (4,),
        "witness.divergence": (2,),
        "views.stability": (2, 3, 3),
    }
    candidate = {
        "classes.logit": (1,),
        "views.logit": (2,),
        "classes.log_probability": (1,),
        "views.log_probability": (2,),
        "witness.log_probability": (2,),
        "witness.logit": (1,),
        "witness.log_ratio": (1,),
    }
    asked_for = {"margin.spread": (4,), "witness.channels": (6,)}
    logits = torch.randn(batch, classes, generator=generator)
    return Evidence(
        logits=logits,
        candidates=logits.topk(candidates).indices,
        groups={name: torch.randn(batch, *sizes, generator=generator) for name, sizes in image.items()}
        | {name: torch.randn(batch, candidates, *sizes, generator=generator) for name, sizes in candidate.items()}
        | {name: torch.randn(batch, *sizes, generator=generator) for name, sizes in asked_for.items()},
    )
