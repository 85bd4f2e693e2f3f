"""May the detector compute in less than float32? Its p-values, computed in both.

    python -m benchmarks.detection.precision data/test                 # bfloat16 on the CPU (slow where it has none)
    python -m benchmarks.detection.precision data/test --device cuda   # also TF32

Judges photographs (a folder, one subfolder per class), and the same ones attacked by PGD, in float32 and in less. A
p-value is a rank among scores computed in float32: it keeps its promise where the shares flagged are the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from detector.bundle import EMBEDDED
from detector.detector import Detector, Verdict
from detector.malloc import keep_freed_memory
from examples.demo.images import ATTACKS, load_photographs
from training.attacks import attack_images
from training.evaluation.metrics import auroc
from training.progress import make_progress
from training.stages.attack import predict

BATCH = 10
RATES = (0.01, 0.05, 0.2)
FLOAT32 = "float32"


@contextmanager
def computing_in(precision: str, device: str) -> Iterator[None]:
    """Within it, what is computed is computed so."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--bundle", type=Path, default=EMBEDDED)
    parser.add_argument("--images", type=int, default=200, help="clean ones (%(default)s)")
    parser.add_argument("--attacked", type=int, default=50, help="how many of them are attacked, too (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    detector = Detector.from_bundle(arguments.bundle, device=arguments.device)
    found = load_photographs(arguments.photographs, detector.classifier, arguments.images)
    clean = torch.stack([each.pixels for each in found])  # (N, 3, H, W) uint8
    some = clean[: arguments.attacked]
    origin = predict(detector.classifier, some, BATCH)
    attacked = attack_images(ATTACKS["PGD 8/255"], detector.classifier, some, origin, seed=0, batch_size=BATCH)
    images = torch.cat([clean, attacked]).float() / 255

    precisions = [FLOAT32, *(["TF32"] if "cuda" in arguments.device else []), "bfloat16"]
    verdicts: dict[str, list[Verdict]] = {precision: [] for precision in precisions}
    with make_progress() as progress:
        for precision, judged in verdicts.items():
            with progress.task(precision, len(images)) as advance:
                for batch in images.to(arguments.device).split(BATCH):
                    with computing_in(precision, arguments.device):
                        judged.extend(detector.detect(batch))
                    advance(len(batch))
    print(f"\n{len(clean)} photographs, {len(attacked)} attacked (PGD 8/255), {arguments.device}\n")
    shares = " | ".join(f"clean flagged at {rate:.0%}" for rate in RATES)
    print(f"| precision | {shares} | attacked flagged at 1% | AUROC | p-value moves, median | other label |")
    print("|---" * (len(RATES) + 5) + "|")
    for precision in precisions:
        print(row(precision, verdicts[precision], verdicts[FLOAT32], len(clean)))


def row(precision: str, judged: list[Verdict], reference: list[Verdict], clean: int) -> str:
    p_values, scores = (np.array([getattr(each, name) for each in judged]) for name in ("p_value", "attack_score"))
    moved = np.abs(p_values - np.array([each.p_value for each in reference]))[:clean]
    other = np.mean([one.label != two.label for one, two in zip(judged, reference, strict=True)])
    cells = [
        precision,
        *(f"{np.mean(p_values[:clean] <= rate):.1%}" for rate in RATES),
        f"{np.mean(p_values[clean:] <= RATES[0]):.1%}",
        f"{auroc(scores[clean:], scores[:clean]):.3f}",
        f"{np.median(moved):.3f}",
        f"{other:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
