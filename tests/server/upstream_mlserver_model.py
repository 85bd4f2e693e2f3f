"""Copied by a test to where MLServer finds it: a model that labels an image by its mean brightness."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

CLASSES = 10


class Brightness(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        labels = images.reshape(len(images), -1).mean(1).astype(np.int64) % CLASSES
        scores = np.eye(CLASSES, dtype=np.float32)[labels]
        outputs = [NumpyCodec.encode_output("labels", labels), NumpyCodec.encode_output("scores", scores)]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
