"""What each heatmap method says, in one line, and the paper it comes from. Needs no torch, as a wrong name does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detector.heatmaps.overlay import Kind

__all__ = ["CAPTIONS", "CHANNELS_PAPER", "Caption"]

FONG_2019 = "Fong, Patrick & Vedaldi 2019"
CHANNELS_PAPER = f"{FONG_2019}, section 4"


@dataclass(frozen=True)
class Caption:
    """How a method is presented."""

    title: str
    text: str
    paper: str
    kind: Kind


CAPTIONS: dict[str, Caption] = {
    "gradient": Caption(
        "Gradient",
        "How strongly a small change of the pixel moves the class's logit, up or down.",
        "Simonyan, Vedaldi & Zisserman 2014",
        "size",
    ),
    "gradient_times_input": Caption(
        "Gradient × input",
        "Gradient times pixel value: the logit split over pixels, to first order. Black pixels get nothing.",
        "Shrikumar, Greenside & Kundaje 2017",
        "signed",
    ),
    "integrated_gradients": Caption(
        "Integrated gradients",
        "Gradients averaged on the way from a black image: the pixels' shares add up to the logit's rise.",
        "Sundararajan, Taly & Yan 2017",
        "signed",
    ),
    "smoothgrad": Caption(
        "SmoothGrad",
        "The gradient averaged over noisy copies of the image, so that what flickers cancels out.",
        "Smilkov, Thorat, Kim, Viégas & Wattenberg 2017",
        "size",
    ),
    "cam": Caption(
        "Grad-CAM",
        "Where a deep layer's channels, each weighted by its mean gradient, speak for the class. Coarse as the layer.",
        "Selvaraju et al. 2017",
        "size",
    ),
    "occlusion": Caption(
        "Occlusion",
        "How far the logit falls when a block is covered with the image's mean colour. Needs no gradient.",
        "Zeiler & Fergus 2014",
        "signed",
    ),
    "rise": Caption(
        "RISE",
        "The class's mean probability over random masks that keep the pixel. Needs no gradient.",
        "Petsiuk, Das & Saenko 2018",
        "size",
    ),
    "meaningful": Caption(
        "Meaningful perturbation",
        "A small, smooth part, found by optimisation, whose blurring lowers the class's probability most.",
        "Fong & Vedaldi 2017",
        "mask",
    ),
    "extremal": Caption(
        "Extremal perturbation",
        "The smooth part of a fixed area that alone, all else blurred, keeps the most of the class's logit.",
        FONG_2019,
        "mask",
    ),
}
