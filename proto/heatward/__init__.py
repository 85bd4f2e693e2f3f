"""heatward's contract and thin client: an image goes in, a verdict comes out.

    import heatward

    with heatward.Client("127.0.0.1:50051") as client:
        verdict = client.detect("cat.jpg")
        print(verdict.attacked, verdict.p_value, verdict.recovered[0].name)

Needs grpcio and protobuf only; numpy and Pillow are used where the caller passes their objects. gRPC is imported when
the first of the names below is used, so that the command line answers a mistake without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from heatward.client import forks as forks  # before anything that loads grpc

if TYPE_CHECKING:
    from heatward.client.aio import AsyncClient
    from heatward.client.breaker import Breaker
    from heatward.client.discoveries import discoveries
    from heatward.client.sync import Client
    from heatward.client.values import (
        CalibrationGroup,
        CascadeInfo,
        ClassifierInfo,
        DetectorInfo,
        Failure,
        Heatmap,
        Label,
        Limits,
        MeasuredRates,
        OperatingPoint,
        PatchInfo,
        TailEstimate,
        Timings,
        Verdict,
    )
    from heatward.errors import DetectionError, Violation
    from heatward.images import ImageInput

__version__ = "0.7.0"

__all__ = [
    "AsyncClient",
    "Breaker",
    "CalibrationGroup",
    "CascadeInfo",
    "ClassifierInfo",
    "Client",
    "DetectionError",
    "DetectorInfo",
    "Failure",
    "Heatmap",
    "ImageInput",
    "Label",
    "Limits",
    "MeasuredRates",
    "OperatingPoint",
    "PatchInfo",
    "TailEstimate",
    "Timings",
    "Verdict",
    "Violation",
    "__version__",
    "discoveries",
]

_HOMES = ("client.aio", "client.breaker", "client.discoveries", "client.sync", "client.values", "errors", "images")

if not TYPE_CHECKING:  # a type checker would take every misspelled name for one that exists

    def __getattr__(name: str) -> object:
        if name in __all__ or name in _HOMES:
            homes = [import_module(f"heatward.{home}") for home in _HOMES]
            globals().update({each: getattr(home, each) for home in homes for each in __all__ if hasattr(home, each)})
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module 'heatward' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
