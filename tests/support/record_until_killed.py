"""Records images without end, in a process of its own: `python record_until_killed.py FOLDER`.

Prints a line with the number of records that are on the disk after each shard.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from served_models import inference_request, inference_result

from server.config import ServerConfig
from server.inference.context import RequestContext
from server.inference.image import ImageSource
from server.inference.request import InferenceRequest
from server.observers import recorder


@dataclass
class Printed:
    """How many were written."""

    total: int = field(default=0)

    def add(self, images: int) -> None:
        self.total += images
        print(self.total, flush=True)


def a_request(number: int) -> InferenceRequest:
    pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
    source = ImageSource("image", pixels.size, lambda limits: pixels)
    request = inference_request(
        request_id=f"q{number}", context=RequestContext("call", None, 1.0), decoded_size=(64, 64), client="me"
    )
    request.source = source
    return request


def main() -> None:
    recorder.EVERY_S = 0.01
    config = ServerConfig(record_folder=Path(sys.argv[1]), record_images=True)
    recording = recorder.Recorder(config, Printed().add, lambda reason, images: sys.exit(reason))
    for number in itertools.count():
        if number % 20 == 0:
            recording.flush()
        recording.finished(a_request(number), inference_result())


if __name__ == "__main__":
    main()
