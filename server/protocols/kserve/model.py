"""The detector as the KServe v2 protocol describes a model: **`ModelMetadata`** and Triton's **`ModelConfig`**."""

from __future__ import annotations

from collections.abc import Sequence

from heatward.inference import grpc_service_pb2 as pb

from server.config import ServerConfig
from server.protocols.kserve.inputs import PRIORITIES
from server.protocols.kserve.outputs import OUTPUTS

__all__ = ["EXTENSIONS", "NAME", "configuration", "metadata"]

NAME = "heatward"
"""Of the model, whatever its bundle is called; also of the server and of the platform."""
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "schedule_policy", "statistics")

_Tensor = pb.ModelMetadataResponse.TensorMetadata
INPUTS = {"image": ("UINT8", (-1, -1, 3)), "image_bytes": ("BYTES", ())}
"""Datatype, and shape of one image. A request has one of them."""


def metadata(name: str, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    """Inputs and outputs, each with the batch dimension."""
    return pb.ModelMetadataResponse(
        name=name,
        versions=versions,
        platform=NAME,
        inputs=[_Tensor(name=key, datatype=kind, shape=(-1, *shape)) for key, (kind, shape) in INPUTS.items()],
        outputs=[_Tensor(name=key, datatype=out.datatype, shape=(-1, *out.shape)) for key, out in OUTPUTS.items()],
    )


def configuration(name: str, config: ServerConfig) -> pb.ModelConfig:
    """How the model is batched, and its tensors without the batch dimension."""
    return pb.ModelConfig(
        name=name,
        platform=NAME,
        backend=NAME,
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        max_batch_size=config.images_per_call,
        input=[
            pb.ModelInput(
                name=key,
                data_type=_data_type(kind),
                format=pb.ModelInput.FORMAT_NHWC if shape else pb.ModelInput.FORMAT_NONE,
                dims=shape,
                optional=True,
            )
            for key, (kind, shape) in INPUTS.items()
        ],
        output=[
            pb.ModelOutput(name=key, data_type=_data_type(out.datatype), dims=out.shape) for key, out in OUTPUTS.items()
        ],
        dynamic_batching=pb.ModelDynamicBatching(
            preferred_batch_size=[config.max_batch],
            max_queue_delay_microseconds=round(config.linger_ms * 1e3),
            priority_levels=len(PRIORITIES) - 1,
            default_priority_level=2,
        ),
    )


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
