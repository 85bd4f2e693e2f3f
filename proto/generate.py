"""The .proto files → **the Python code beside them**: `python proto/generate.py [FOLDER]`, by `make protos`.

What protoc writes for package `inference` is changed in one word. Its descriptors go into a pool of their own: in
protobuf's default pool they would clash with those of every other stub of the same public protocol (tritonclient).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import google.rpc

PROTO = Path(__file__).parent
GOOGLEAPIS = Path(next(iter(google.rpc.__path__))).parents[1]
SOURCES = sorted(PROTO.glob("heatward/**/*.proto"))
PRIVATE = "heatward/inference/grpc_service_pb2.py"


def generate(folder: Path = PROTO) -> None:
    """Writes the code of every contract below `folder`."""
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{GOOGLEAPIS}", *outputs]
    subprocess.run([*command, *map(str, SOURCES)], check=True)
    module = folder / PRIVATE
    module.write_text(module.read_text().replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()"))


if __name__ == "__main__":
    generate(*map(Path, sys.argv[1:]))
