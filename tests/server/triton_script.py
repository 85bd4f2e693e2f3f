"""Runs where `tritonclient[grpc]` is installed: asks a server through it and through heatward, prints both answers.

Arguments: the server's address, an .npy file of (N, H, W, 3) uint8.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import heatward
import heatward.inference.grpc_service_pb2
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, file = sys.argv[1:]
images = np.load(file)
COLUMNS = ("attacked", "p_value", "attack_score", "label", "label_name", "recovered_label", "recovered_name")


def rows(result: triton.InferResult) -> list[list[Any]]:
    columns = [result.as_numpy(name).tolist() for name in COLUMNS]
    return [
        [value.decode() if isinstance(value, bytes) else value for value in row] for row in zip(*columns, strict=True)
    ]


def row(verdict: heatward.Verdict | heatward.Failure) -> list[Any]:
    if isinstance(verdict, heatward.Failure):
        raise SystemExit(f"not judged: {verdict}")
    label, recovered = verdict.predicted, verdict.recovered[0]
    known = (verdict.attacked, verdict.p_value, verdict.attack_score)
    return [*known, label.index, label.name, recovered.index, recovered.name]


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


with heatward.Client(address) as client, triton.InferenceServerClient(address) as server:
    said: dict[str, Any] = {"live": server.is_server_live(), "ready": server.is_server_ready()}
    said["model_ready"] = server.is_model_ready("heatward")
    metadata = server.get_model_metadata("heatward")
    config = server.get_model_config("cifar10").config
    said["config"] = [config.name, config.max_batch_size, [one.name for one in config.input]]

    pixels = triton.InferInput("image", images.shape, "UINT8")
    pixels.set_data_from_numpy(images)
    files = np.array([png(image) for image in images], dtype=np.object_)
    encoded = triton.InferInput("image_bytes", files.shape, "BYTES")
    encoded.set_data_from_numpy(files)
    parameters = {"false_positive_rate": 0.05}
    said["pixels"] = rows(server.infer("heatward", [pixels], request_id="one", priority=1, parameters=parameters))
    said["files"] = rows(server.infer("heatward", [encoded], metadata.versions[0], parameters=parameters))
    said["ours"] = [row(verdict) for verdict in client.detect_batch(list(images), false_positive_rate=0.05)]

    asked = [triton.InferRequestedOutput(output.name) for output in metadata.outputs]
    everything = server.infer("heatward", [pixels], outputs=asked)
    said["shapes"] = {output.name: list(everything.as_numpy(output.name).shape) for output in metadata.outputs}
    try:
        server.infer("resnet", [pixels])
    except InferenceServerException as error:
        said["unknown"] = [error.status(), error.message()]
    statistics = server.get_inference_statistics("heatward").model_stats[0]
    said["statistics"] = [statistics.inference_stats.success.count, statistics.inference_count]

print(json.dumps(said))
