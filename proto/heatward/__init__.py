"""heatward's contract and thin client: an image goes in, a verdict comes out.

    import heatward

    with heatward.Client("127.0.0.1:50051") as client:
        verdict = client.detect("cat.jpg")
        print(verdict.attacked, verdict.p_value, verdict.recovered[0].name)

Needs grpcio and protobuf only; numpy and Pillow are used where the caller passes their objects.
"""

# isort: off
from heatward import forks as forks  # before anything that loads grpc

# isort: on
from heatward.async_client import AsyncClient
from heatward.breaker import Breaker
from heatward.client import Client
from heatward.errors import DetectionError, Violation
from heatward.images import ImageInput
from heatward.values import (
    ClassifierInfo,
    DetectorInfo,
    Effort,
    Failure,
    Heatmap,
    Label,
    Limits,
    MeasuredRates,
    OperatingPoint,
    Timings,
    Verdict,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Breaker",
    "ClassifierInfo",
    "Client",
    "DetectionError",
    "DetectorInfo",
    "Effort",
    "Failure",
    "Heatmap",
    "ImageInput",
    "Label",
    "Limits",
    "MeasuredRates",
    "OperatingPoint",
    "Timings",
    "Verdict",
    "Violation",
    "__version__",
]
