"""Whether attention tells more than activations: a vision transformer's evidence with and without its heads.

    heatward train --config examples/zoo/vit.toml               # once: makes the shards
    python -m benchmarks.detection.attention --config examples/zoo/vit.toml

Of each block of a timm vision transformer and each of its heads, with A (N, N) the attention after its softmax and G
the gradient in A of the margin between the two likeliest classes, four numbers are put beside `margin.channels`: the
sum of max(G, 0), LeGrad's relevance (Bousselham et al. 2024), and of max(G·A, 0), that of gradient attention rollout
(Chefer et al. 2021), the entropy of the class token's attention, and that of its gradient-weighted part. Of the rollout
over all blocks come entropy and highest share. The networks are the recipe's, fitted with and without.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.detection.black_box import means, measured, table
from detector.classifier import Classifier
from detector.errors import ConfigError
from training.evaluation.tables import render
from training.job import Job, open_job
from training.load import load_config
from training.progress import make_progress
from training.shards import folder, read_shard, write_json, write_shard

EPSILON = 1e-12
BATCH = 128


class Heads:
    """The attention of every block during a forward pass, with its gradient.

    Args:
        classifier: Of a timm vision transformer with a class token.
    """

    def __init__(self, classifier: Classifier) -> None:
        if not isinstance(classifier.module.net, VisionTransformer) or classifier.module.net.cls_token is None:
            raise ConfigError(
                f"{classifier.spec.source}: expected a timm vision transformer with a class token; give its --config"
            )
        self.classifier = classifier
        self._seen: list[Tensor] = []
        for part in classifier.module.net.modules():
            if isinstance(part, Attention):
                setattr(part, "fused_attn", False)  # noqa: B010  typed as final; the attention is computed where it can be seen
                part.attn_drop.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen.append(inputs[0])

    def __call__(self, images: Tensor) -> Tensor:
        """(B, n): the numbers of images (B, 3, H, W) in [0, 1]."""
        self._seen.clear()
        logits = self.classifier(images.clone().requires_grad_())
        first, second = logits.topk(2).values.T
        gradients = torch.autograd.grad((first - second).sum(), self._seen)
        numbers: list[Tensor] = []
        rollout = torch.eye(self._seen[0].shape[-1], device=images.device).expand(len(images), -1, -1)
        for attention, gradient in zip(self._seen, gradients, strict=True):  # (B, heads, N, N)
            attention = attention.detach()
            weighted = (attention * gradient).clamp_min(0)
            numbers += [
                gradient.clamp_min(0).sum((2, 3)).add(EPSILON).log(),
                weighted.sum((2, 3)).add(EPSILON).log(),
                _entropy(attention[:, :, 0]),
                _entropy(weighted[:, :, 0]),
            ]
            rollout = rollout + weighted.mean(1) @ rollout
        shown = rollout[:, 0, 1:]
        shares = shown / shown.sum(-1, keepdim=True).add(EPSILON)
        return torch.cat([*numbers, _entropy(shown)[:, None], shares.amax(-1, keepdim=True)], 1)


def _entropy(values: Tensor) -> Tensor:
    """Of non-negative values, scaled to shares over the last dimension."""
    shares = values / values.sum(-1, keepdim=True).add(EPSILON)
    return -(shares * shares.add(EPSILON).log()).sum(-1)


def widen(job: Job, work: Path) -> None:
    """Write the evidence of a job anew into `work`, with the numbers of the heads behind `margin.channels`."""
    heads = Heads(job.classifier)
    plans = [(split, label, plan) for split, label, plans in job.plans("attribute") for plan in plans]
    with job.progress.task("attention", len(plans), unit="shards") as done:
        for split, label, plan in plans:
            evidence = read_shard(plan.path)
            images = read_shard(folder(job.work, "attack", split, label) / plan.path.name)
            rows = {int(index): row for row, index in enumerate(images["index"])}
            chosen = images["images"][[rows[int(index)] for index in evidence["index"]]]
            channels = evidence["margin.channels"]
            device = job.classifier.device
            seen = torch.cat([heads(part.to(device).float() / 255).cpu() for part in torch.split(chosen, BATCH)])
            evidence["margin.channels"] = torch.cat([channels, seen.to(channels.dtype)], 1)
            write_shard(folder(work, "attribute", split, label) / plan.path.name, evidence, "")
            done(1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a job whose attribute stage is finished")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    config = load_config(options.config, {"threads": options.threads})  # open_job sets what the configuration says
    found = {"activations": measured(config, True, torch.device("cpu"))}
    with tempfile.TemporaryDirectory() as temporary:
        with make_progress() as progress:
            widen(open_job(config, progress, look_only=True), Path(temporary))
        wider = config.model_copy(update={"work": Path(temporary)})
        found["activations and attention"] = measured(wider, True, torch.device("cpu"))
    print(render([table(each, name) for name, each in found.items()]))
    for name, each in found.items():
        print(name, {key: round(value, 4) for key, value in means(each["attacks"], families=False).items()})
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
