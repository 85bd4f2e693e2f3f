"""`heatward train --plan`: a job in; what changed since its last run, what will be made and what that costs out.

Nothing is made: the images are looked at, and the digests of all shards are compared with what lies in the work folder.
"""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict

from training.config import SPLITS, STAGES, Split, Stage
from training.data.growth import Ledger
from training.job import LEDGER, Job
from training.pipeline import MODULES, work_of
from training.progress import duration
from training.rates import Rates
from training.runners import ShardStage

__all__ = ["Forecast", "forecast"]

SHARDS: tuple[ShardStage, ...] = ("attack", "attribute")


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageChanges(_Told):
    """Images of one split."""

    images: int
    new: int | None
    """Since the last run; None where images do not grow, or there was no run."""
    gone: int | None


class ShardChanges(_Told):
    """Shards of one label of a split."""

    stage: ShardStage
    split: Split
    label: str
    kept: int
    made: int
    images: int
    """Source images of the shards that are made."""
    seconds: float | None


class StageCost(_Told):
    """A stage that has something to do."""

    stage: Stage
    seconds: float | None
    """None where it was not measured yet."""


class Forecast(_Told):
    """What the next run will do."""

    images: dict[Split, ImageChanges]
    shards: tuple[ShardChanges, ...]
    stages: tuple[StageCost, ...]
    seconds: float | None
    """Of all stages; None where one of them was not measured yet."""

    def lines(self) -> list[str]:
        """For a person to read."""
        said = []
        for split, found in self.images.items():
            changed = "" if found.new is None else f", {found.new} new, {found.gone} gone"
            said.append(f"images {split}: {found.images}{changed}")
        for each in self.shards:
            if each.made:
                what = f"{each.made} of {each.made + each.kept} shards, images: {each.images}"
                said.append(f"{each.stage} {each.split}/{each.label}: {what}, {_long(each.seconds)}")
        kept = sum(each.kept for each in self.shards)
        said.append(f"shards: {kept} kept, {sum(each.made for each in self.shards)} made")
        said += [f"stage {each.stage}: {_long(each.seconds)}" for each in self.stages]
        return [*said, f"in all: {_long(self.seconds)}"]


def forecast(job: Job, of: Collection[Stage] = STAGES) -> Forecast:
    """What a run of these stages of a job would do now."""
    rates, shards = Rates(job.work), []
    for stage in (each for each in SHARDS if each in of):
        for split, label, plans in job.plans(stage):
            missing = [plan for plan in plans if not plan.finished]
            images = sum(plan.rows for plan in missing)
            seconds = rates.seconds(f"{stage}/{label}", images) if images else 0.0
            made = len(missing)
            shards.append(
                ShardChanges(
                    stage=stage,
                    split=split,
                    label=label,
                    kept=len(plans) - made,
                    made=made,
                    images=images,
                    seconds=seconds,
                )
            )
    stages = []
    for name in (each for each in STAGES if each in of):
        mine = [each for each in shards if each.stage == name and each.made]
        if name in SHARDS and mine:
            stages.append(StageCost(stage=name, seconds=_sum([each.seconds for each in mine])))
        elif name not in SHARDS and not ((left := MODULES[name].outputs(job)) and left.finished):
            stages.append(StageCost(stage=name, seconds=rates.seconds(name, work_of(job, name))))
    return Forecast(
        images=_images(job),
        shards=tuple(shards),
        stages=tuple(stages),
        seconds=_sum([each.seconds for each in stages]),
    )


def _images(job: Job) -> dict[Split, ImageChanges]:
    before = Ledger.read(job.work / LEDGER).shards if job.config.images.grows else {}
    found = {}
    for split in SPLITS:
        now = {item.index for item in job.splits[split].items}
        then = {index for ids in before.get(split, {}).values() for index in ids}
        known = bool(before)
        found[split] = ImageChanges(
            images=len(now), new=len(now - then) if known else None, gone=len(then - now) if known else None
        )
    return found


def _sum(seconds: list[float | None]) -> float | None:
    known = [each for each in seconds if each is not None]
    return sum(known) if len(known) == len(seconds) else None


def _long(seconds: float | None) -> str:
    return "not measured yet" if seconds is None else f"about {duration(seconds)}" if seconds >= 1 else "under 0:01"
