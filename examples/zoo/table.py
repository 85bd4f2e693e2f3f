"""The detectors of this folder side by side: `work/zoo/*/evaluate` in, one row a classifier out, as Markdown.

python -m examples.zoo.table work/zoo/resnet18 work/zoo/vit
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from training.evaluation.metrics import Estimate
from training.evaluation.result import HEATWARD, EvaluationResult
from training.evaluation.tables import blank_table, percent_only, render, share_only


def rows(folders: list[Path]) -> Iterator[tuple[str, ...]]:
    """Two rows a classifier: the means over attacks that its detector learned from, and over those it did not."""
    for folder in folders:
        found = EvaluationResult.read(folder / "evaluate")
        false = found.false_positives[HEATWARD]["clean"]
        for mean in found.macro:
            if mean.label != "mean":
                continue
            own = mean.detectors[HEATWARD]
            worst = next(each for each in found.macro if each.label == "worst" and each.seen == mean.seen)
            yield (
                folder.name,
                percent_only(found.classifier.accuracy),
                f"{'seen' if mean.seen else 'unseen'}, {mean.attacks}",
                share_only(own.auroc),
                share_only(worst.detectors[HEATWARD].auroc),
                *(_rate(own.tpr[rate]) for rate in found.rates),
                _rate(own.tpr_on_correct[found.rates[0]]),
                _rate(own.recovered.top1),
                " · ".join(_rate(false[rate]) for rate in found.rates),
            )


def _rate(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="+", help="folders of `heatward train` jobs")
    folders = parser.parse_args().work
    flagged = ("flagged at 1 %", "at 5 %", "at 1 % of correct")
    names = ("mean AUROC", "worst AUROC", *flagged, "label recovered", "clean flagged at 1 · 5 %")
    table = blank_table("Detectors of foreign classifiers", "classifier", numbers=("right", "attacks", *names))
    for row in rows(folders):
        table.add_row(*row)
    print(render([table]))


if __name__ == "__main__":
    main()
