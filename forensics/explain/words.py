"""An explanation in; the sentences that the page and the picture share out. Rates and p-values are said as they are."""

from __future__ import annotations

from detector.scoring.groups import SHARED
from forensics.explain.captions import Caption
from forensics.explain.compute import CHANNEL_SHARE, ChannelResult, Explanation, Mask, MethodResult, Target

__all__ = [
    "READING",
    "badge",
    "channel_words",
    "flagged_words",
    "kept_words",
    "mask_words",
    "p_words",
    "paper_words",
    "percent",
    "recovered_words",
    "seconds_words",
    "shorten",
    "tail_words",
    "target_words",
]

RATES = (0.01, 0.05)
READING = (
    "Every map has a colour scale of its own, so it shows where, not how much. The methods ask different questions and "
    "may disagree; none of them proves what the classifier understood."
)


def badge(explanation: Explanation) -> tuple[str, str]:
    """The verdict in two words, and its tone: "alarm", "doubt" or "calm"."""
    strict, loose = RATES
    if explanation.verdict.p_value <= strict:
        return "Attacked", "alarm"
    return ("Suspicious", "doubt") if explanation.verdict.p_value <= loose else ("Not flagged", "calm")


def flagged_words(explanation: Explanation) -> str:
    """Whether it is flagged at 1 % and at 5 %, and where so few calibration images allow no such rate."""
    total = explanation.calibration_images
    reached = [rate for rate in RATES if 1 / (total + 1) <= rate]
    flagged = [rate for rate in reached if explanation.verdict.p_value <= rate]
    others = [rate for rate in reached if rate not in flagged]
    said = f"Flagged at {' and at '.join(map(percent, flagged))}" if flagged else ""
    if others:
        said += f"{', not at ' if said else 'Not flagged at '}{' nor at '.join(map(percent, others))}"
    said = f"{said} false positives." if said else ""
    missing = " and ".join(percent(rate) for rate in RATES if rate not in reached)
    return f"{said} {missing} is out of reach with {total} calibration images.".strip() if missing else said


def p_words(explanation: Explanation) -> str:
    """What the p-value counts."""
    total = explanation.calibration_images
    as_attacked = round(explanation.verdict.p_value * (total + 1)) - 1
    count, verb = f"{as_attacked:,}" if as_attacked else "None", "looks" if as_attacked == 1 else "look"
    images, group = "calibration images", explanation.verdict.calibration_group
    if group:
        named = "classes with few images" if group == SHARED else shorten(group, 24)
        images = f"images of its calibration group ({named})"
    return f"{count} of {total:,} clean {images} {verb} at least as attacked."


def tail_words(explanation: Explanation) -> str:
    """How rare such a score may be, where it is higher than those of all these images; "" elsewhere."""
    tail = explanation.verdict.tail
    if tail is None:
        return ""
    return (
        f"A tail fitted to their highest scores estimates that a share of {tail.probability:.1g} of clean images "
        f"({tail.low:.1g} to {tail.high:.1g}) scores so high: an estimate, no promise."
    )


def recovered_words(explanation: Explanation) -> str:
    """How to take the recovered labels."""
    if badge(explanation)[1] == "calm":
        return "Label before an attack, had there been one"
    return "Before the attack it probably showed"


def percent(share: float) -> str:
    """Whole per cent; the ends are not rounded to certainty."""
    if 0 < share < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= share < 1 else f"{share:.0%}".replace("%", " %")


def target_words(target: Target) -> str:
    """Such as `predicted: frog`."""
    return f"{target.role}: {target.name}"


def seconds_words(seconds: float) -> str:
    """Two digits that matter."""
    if seconds < 0.01:
        return "<0.01 s"
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def mask_words(target: Target, mask: Mask) -> str:
    """How large the chosen part is, and what it is worth."""
    area = percent(float(mask.shown.mean()))
    return f"{area} of the image · logit {target.logit:z.1f}, alone {mask.kept:z.1f}, without it {mask.deleted:z.1f}"


def channel_words(channels: ChannelResult, paper: str) -> str:
    """What the channels are."""
    return (
        f"Layer {channels.layer} answers with {channels.count} channels, learned filters of one map each. Each gets a "
        f"weight from 0 (silent) to 1, {percent(CHANNEL_SHARE)} on average, chosen by optimisation to keep the most of "
        f"the class's logit ({paper}). Shown are the heaviest channels and where on this image each is active: what a "
        "channel answers to, not a part with a name."
    )


def kept_words(explanation: Explanation, at: int) -> str:
    """How many channels one class needs, and what they are worth."""
    target, channels = explanation.targets[at], explanation.channels
    return (
        f"{target_words(target)} · logit {target.logit:z.1f}; with the channels so weighted {channels.kept[at]:z.1f}, "
        f"{channels.open[at]} of {channels.count} above one half"
    )


def paper_words(said: Caption, result: MethodResult) -> str:
    """The paper, and what the method cost on this image, all classes together."""
    cost = seconds_words(result.seconds).replace(" ", "\u00a0")
    return f"{said.paper} ·\u00a0{cost}" if said.paper else cost


def shorten(text: str, most: int) -> str:
    """With an ellipsis where it is longer."""
    return text if len(text) <= most else text[: most - 1].rstrip(" ,") + "…"
