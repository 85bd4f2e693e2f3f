"""Attribution heatmaps: what the classifier looked at. One method a file, each batched over images and classes.

`METHODS` holds the methods that give one map a class. Channel attribution, which gives channels too, is
`channel_attribution` and `class_activation_gradients`
(`attribute_margin`, `attribute_classes` when the forward pass has been made).
"""

from __future__ import annotations

from detector.heatmaps.cam import cam
from detector.heatmaps.channels import (
    ChannelAttribution,
    ClassAttribution,
    LayerAttribution,
    attribute_classes,
    attribute_margin,
    channel_attribution,
    class_activation_gradients,
)
from detector.heatmaps.gradient import (
    gradient,
    gradient_times_input,
    input_gradients,
    integrated_gradients,
    smoothgrad,
)
from detector.heatmaps.heatmap import Heatmap, Method
from detector.heatmaps.occlusion import occlusion

__all__ = [
    "METHODS",
    "ChannelAttribution",
    "ClassAttribution",
    "Heatmap",
    "LayerAttribution",
    "Method",
    "attribute_classes",
    "attribute_margin",
    "cam",
    "channel_attribution",
    "class_activation_gradients",
    "gradient",
    "gradient_times_input",
    "input_gradients",
    "integrated_gradients",
    "occlusion",
    "smoothgrad",
]

METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient_times_input": gradient_times_input,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
    "cam": cam,
    "occlusion": occlusion,
}
