"""Evidence of the right shapes about no image."""

from __future__ import annotations

import torch

from detector.evidence import Evidence


def evidence_of(batch: int, classes: int, candidates: int, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator)
    return Evidence(
        logits=logits,
        candidates=logits.topk(candidates).indices,
        maps=torch.randn(batch, candidates, 2, 4, 4, generator=generator),
        margin_maps=torch.randn(batch, 6, 4, 4, generator=generator),
        class_features=torch.randn(batch, candidates, 13, generator=generator),  # 2 views, with a witness
        channels=torch.randn(batch, 36, generator=generator),  # 12, the witness's 6, 3 depths · 2 views · 3
    )
