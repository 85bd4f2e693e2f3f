"""Writes the small ONNX files of the tests; needs onnx and onnxscript, the tests do not.

PYTHONPATH=tests/support:. python tests/support/onnx/export.py

tiny.onnx     the tiny classifier: NCHW, any batch, logits
tiny-4.onnx   the same net: NHWC, batches of four, probabilities
"""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent


class Otherwise(nn.Module):
    """Colours last, probabilities."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.permute(0, 3, 1, 2)).softmax(1)


def main() -> None:
    net = tiny.net()
    net.load_state_dict(tiny.trained_weights())
    net.eval()
    side = tiny.SIDE
    for module, shape, batch, name, output in (
        (net, (2, 3, side, side), {0: torch.export.Dim("batch")}, "tiny.onnx", "logits"),
        (Otherwise(net).eval(), (4, side, side, 3), None, "tiny-4.onnx", "probabilities"),
    ):
        program = torch.onnx.export(
            module,
            (torch.rand(shape),),
            dynamo=True,
            input_names=["images"],
            output_names=[output],
            dynamic_shapes=(batch,) if batch else None,
            external_data=False,
            verbose=False,
        )
        if program is None:
            raise SystemExit(f"torch exported no program for {name}")
        for node in program.model.graph:  # where it was traced is nobody's business
            node.metadata_props.clear()
            node.doc_string = None
        program.save(HERE / name, include_initializers=True)


if __name__ == "__main__":
    main()
