"""The KServe v2 contract (Open Inference Protocol): `grpc_service.proto` and the code generated from it.

Its descriptors live in a pool of their own (see `proto/generate.py`), so that other stubs of package `inference`, such
as tritonclient's, can be imported into the same process.
"""
