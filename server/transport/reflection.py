"""gRPC server reflection for contracts whose descriptors lie in different pools.

`heatward.inference` has a pool of its own (see proto/generate.py), protobuf's default pool holds the others; what is
reflected is copied into one.
"""

from __future__ import annotations

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

__all__ = ["reflect"]


def reflect(server: grpc.aio.Server, *contracts: FileDescriptor) -> None:
    """Adds the reflection service, which tells of every service of these contracts and of itself."""
    pool = DescriptorPool()
    names = []
    for contract in (*contracts, reflection_pb2.DESCRIPTOR):
        _copy(contract, pool)
        names += [service.full_name for service in contract.services_by_name.values()]
    reflection.enable_server_reflection(names, server, pool)


def _copy(file: FileDescriptor, pool: DescriptorPool) -> None:
    for needed in file.dependencies:
        _copy(needed, pool)
    pool.AddSerializedFile(file.serialized_pb)
