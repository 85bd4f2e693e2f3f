"""Attribution heatmaps: what the classifier looked at. One method a file, each batched over images and classes.

`METHODS` holds the methods that give one map a class. Channel attribution, which gives channels too, is
`channel_attribution` and `class_activation_gradients` (`attribute_margin`, `attribute_classes` when the forward pass
has been made), and `channel_mask` by optimisation. `docs/heatmaps.md` is the introduction.
"""

from __future__ import annotations

from detector.heatmaps.cam import cam
from detector.heatmaps.channel_mask import ChannelMask, channel_mask
from detector.heatmaps.channels import (
    ChannelAttribution,
    ClassAttribution,
    LayerAttribution,
    LayerAttributionMap,
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
from detector.heatmaps.mask_rows import MaskHeatmap
from detector.heatmaps.occlusion import occlusion
from detector.heatmaps.perturbation import extremal, meaningful
from detector.heatmaps.rise import rise

__all__ = [
    "METHODS",
    "ChannelAttribution",
    "ChannelMask",
    "ClassAttribution",
    "Heatmap",
    "LayerAttribution",
    "LayerAttributionMap",
    "MaskHeatmap",
    "Method",
    "attribute_classes",
    "attribute_margin",
    "cam",
    "channel_attribution",
    "channel_mask",
    "class_activation_gradients",
    "extremal",
    "gradient",
    "gradient_times_input",
    "input_gradients",
    "integrated_gradients",
    "meaningful",
    "occlusion",
    "rise",
    "smoothgrad",
]

METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient_times_input": gradient_times_input,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
    "cam": cam,
    "occlusion": occlusion,
    "rise": rise,
    "meaningful": meaningful,
    "extremal": extremal,
}
