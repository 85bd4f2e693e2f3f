"""Copied by a test to where Triton finds it: a model that labels an image by its mean brightness."""

import numpy as np
import triton_python_backend_utils as triton

CLASSES = 10


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(triton.get_input_tensor_by_name(each, "image").as_numpy()) for each in requests]

    def _answer(self, images):
        labels = images.reshape(len(images), -1).mean(1).astype(np.int64)[:, None] % CLASSES
        return triton.InferenceResponse([triton.Tensor("labels", labels)])
