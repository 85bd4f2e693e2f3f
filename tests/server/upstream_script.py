"""Runs where `tritonclient[grpc]` is installed: sends images to a guarded model, prints what it hears.

Arguments: the guard's address, an .npy file of (N, H, W, 3) uint8, names of the inputs to send.
"""

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, file, *inputs = sys.argv[1:]
images = np.load(file)

with triton.InferenceServerClient(address) as server:
    said = {"ready": server.is_server_ready(), "models": [server.is_model_ready(name) for name in ("cats", "heatward")]}
    said["server"] = server.get_server_metadata().name
    known = {
        "pixels": ("UINT8", images),
        "floats": ("FP32", (images / 255).astype(np.float32)),
        "numbers": ("INT32", np.zeros((1, 4), np.int32)),
    }
    for name in inputs:
        kind, sent = known[name]
        tensor = triton.InferInput("image", sent.shape, kind)
        tensor.set_data_from_numpy(sent)
        try:
            result = server.infer("cats", [tensor], request_id=name)
        except InferenceServerException as error:
            said[name] = error.status()
            continue
        response = result.get_response()
        said[name] = {
            key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in response.parameters.items()
        }
        said[name] |= {"id": response.id, "labels": result.as_numpy("labels").ravel().tolist()}
    try:
        server.infer("dogs", [tensor])
    except InferenceServerException as error:
        said["unknown"] = error.status()
    try:
        said["statistics"] = server.get_inference_statistics("cats").model_stats[0].inference_stats.success.count
    except InferenceServerException as error:
        said["statistics"] = error.status()
    answers: queue.Queue[Any] = queue.Queue()
    server.start_stream(lambda result, error: answers.put(error))
    said["stream"] = answers.get(timeout=20).status()

print(json.dumps(said))
