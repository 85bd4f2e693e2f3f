"""The KServe v2 protocol beside ours: what goes in as tensors comes out as tensors, and errors say which."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_detector import FakeDetector
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from heatward.inference import grpc_service_pb2 as pb
from heatward.inference import grpc_service_pb2_grpc
from heatward.v1 import detection_pb2
from hypothesis import given
from hypothesis import strategies as st
from sample_requests import fields_at_fault, picture, png, raw, status_of
from test_service import settle

from detector.images import ImageLimits
from server.app import App
from server.config import ServerConfig
from server.protocols.kserve.inputs import images as images_of
from server.protocols.kserve.tensors import pack, unpack

SERVICE = "inference.GRPCInferenceService"
USUAL = [
    "attacked",
    "p_value",
    "attack_score",
    "label",
    "probability",
    "label_name",
    "recovered_label",
    "recovered_probability",
    "recovered_name",
    "corrected_label",
    "corrected_probability",
    "corrected_name",
]
DTYPES = {"BOOL": "?", "INT32": "<i4", "FP32": "<f4", "FP64": "<f8"}


def stub_of(served: Any) -> grpc_service_pb2_grpc.GRPCInferenceServiceStub:
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(served.channel)


def tensor(name: str, datatype: str, shape: Any, **fields: Any) -> pb.ModelInferRequest.InferInputTensor:
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, **fields)


def pixels(*labels: int, **fields: Any) -> pb.ModelInferRequest:
    """Raw pixels, an image a label."""
    data = np.stack([picture(label) for label in labels])
    image = tensor("image", "UINT8", data.shape)
    return pb.ModelInferRequest(model_name="heatward", inputs=[image], raw_input_contents=[data.tobytes()], **fields)


def files(*data: bytes, **fields: Any) -> pb.ModelInferRequest:
    image = tensor("image_bytes", "BYTES", [len(data)])
    return pb.ModelInferRequest(model_name="heatward", inputs=[image], raw_input_contents=[pack(data)], **fields)


def asking(*names: str) -> list[pb.ModelInferRequest.InferRequestedOutputTensor]:
    return [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names]


def values(response: pb.ModelInferResponse, name: str) -> list[Any]:
    """The elements of an output, whichever form it came in."""
    place = [output.name for output in response.outputs].index(name)
    output = response.outputs[place]
    if response.raw_output_contents:
        data = response.raw_output_contents[place]
        if output.datatype == "BYTES":
            return unpack(data)
        return list(np.frombuffer(data, DTYPES[output.datatype]).reshape(output.shape).tolist())
    (_, found), *more = output.contents.ListFields()
    assert not more
    return list(found)


async def refused(call: Any, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    return caught.value


# ---- what comes out -------------------------------------------------------------------------------------------------


async def test_the_same_verdict_as_over_our_own_protocol(serving):
    async with serving() as served:
        ours = await served.stub.Detect(raw(picture(199)))
        theirs = await stub_of(served).ModelInfer(pixels(199, id="seven"))
    assert [output.name for output in theirs.outputs] == USUAL
    assert all(list(output.shape) == [1] for output in theirs.outputs)
    assert values(theirs, "attacked") == [ours.attacked] == [True]
    assert values(theirs, "p_value") == [ours.p_value]
    assert values(theirs, "attack_score") == [ours.attack_score]
    assert values(theirs, "label") == [ours.predicted.index] == [199]
    assert values(theirs, "probability") == [ours.predicted.probability]
    assert values(theirs, "label_name") == [b"class-199"]
    assert values(theirs, "recovered_label") == [ours.recovered[0].index] == [1]
    assert values(theirs, "recovered_probability") == [ours.recovered[0].probability]
    assert values(theirs, "recovered_name") == [b"class-1"]
    assert values(theirs, "corrected_label") == [ours.corrected.index] == [1]
    assert values(theirs, "corrected_probability") == [ours.corrected.probability] == [0.8]
    assert values(theirs, "corrected_name") == [b"class-1"]
    assert (theirs.model_name, theirs.model_version, theirs.id) == ("heatward", ours.detector_version, "seven")
    assert theirs.parameters["detector_version"].string_param == ours.detector_version


async def test_typed_contents_are_answered_with_typed_contents(serving):
    images = np.stack([picture(3), picture(250)])
    contents = pb.InferTensorContents(uint_contents=images.ravel().tolist())
    typed = pb.ModelInferRequest(
        model_name="heatward", inputs=[tensor("image", "UINT8", images.shape, contents=contents)]
    )
    async with serving() as served:
        one, other = await asyncio.gather(*map(stub_of(served).ModelInfer, (typed, pixels(3, 250))))
    assert not one.raw_output_contents
    assert all(not output.HasField("contents") for output in other.outputs)
    assert values(one, "label") == [3, 250]
    for name in USUAL:
        assert values(one, name) == values(other, name)


def test_typed_pixels_are_read_in_pieces_and_belong_to_their_images():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 200, 201, 3), np.uint8)  # larger than a piece
    contents = pb.InferTensorContents(uint_contents=pictures.ravel().tolist())
    found = images_of(pb.ModelInferRequest(inputs=[tensor("image", "UINT8", pictures.shape, contents=contents)]), 9)
    read = [found.at(index).decode(ImageLimits()) for index in range(3)]
    assert np.array_equal(read, pictures)
    assert all(found.at(index).raw_size is None for index in range(3))  # never read on the event loop


async def test_files_raw_and_typed_also_with_a_dimension_of_one(serving):
    data = [png(picture(label, 9, 5)) for label in (4, 5, 6)]
    contents = pb.InferTensorContents(bytes_contents=data)
    typed = [tensor("image_bytes", "BYTES", shape, contents=contents) for shape in ([3], [3, 1])]
    requests = [files(*data), *(pb.ModelInferRequest(model_name="heatward", inputs=[one]) for one in typed)]
    async with serving() as served:
        responses = [await stub_of(served).ModelInfer(request) for request in requests]
    assert [values(response, "label") for response in responses] == [[4, 5, 6]] * 3
    assert values(responses[1], "label_name") == [b"class-4", b"class-5", b"class-6"]


@pytest.mark.parametrize("shape", [[8, 8, 3], [1, 8, 8, 3], [8, 8, 1], [1, 8, 8, 1]])
async def test_an_image_without_a_batch_dimension_and_a_grey_one(serving, shape):
    data = np.full(shape, 77, np.uint8).tobytes()
    request = pb.ModelInferRequest(
        model_name="heatward", inputs=[tensor("image", "UINT8", shape)], raw_input_contents=[data]
    )
    async with serving() as served:
        response = await stub_of(served).ModelInfer(request)
    assert values(response, "label") == [77]


async def test_many_images_keep_their_order_and_ride_in_common_batches(serving):
    labels = list(range(100, 140))
    async with serving(max_batch=8) as served:
        response = await stub_of(served).ModelInfer(pixels(*labels))
        assert max(map(len, served.detector.batches)) > 1
    assert values(response, "label") == labels


async def test_only_the_outputs_asked_for_in_their_order(serving):
    request = pixels(1, 2, outputs=asking("heatmap", "top_probability", "top_label", "label"))
    request.parameters["top_k"].int64_param = 2
    async with serving() as served:
        response = await stub_of(served).ModelInfer(request)
    assert [(output.name, output.datatype, list(output.shape)) for output in response.outputs] == [
        ("heatmap", "FP32", [2, 4, 4]),
        ("top_probability", "FP64", [2, 2]),
        ("top_label", "INT32", [2, 2]),
        ("label", "INT32", [2]),
    ]
    np.testing.assert_array_equal(np.ravel(values(response, "heatmap")[1]), np.linspace(-1, 1, 16, dtype=np.float32))
    assert values(response, "top_label") == [[1, 1], [2, 2]]


# ---- what a request may say -----------------------------------------------------------------------------------------


async def test_the_rate_is_the_requests(serving):
    request = pixels(190)
    async with serving() as served:
        usual = await stub_of(served).ModelInfer(request)
        request.parameters["false_positive_rate"].double_param = 0.05
        lax = await stub_of(served).ModelInfer(request)
    assert (values(usual, "attacked"), values(lax, "attacked")) == ([False], [True])


async def test_timeout_in_microseconds_covers_all_images(serving):
    fake = FakeDetector()
    request = pixels(1, 2, 3)
    request.parameters["timeout"].int64_param = 50_000
    async with serving(fake, in_flight_per_call=1) as served:
        fake.gate.clear()
        await refused(stub_of(served).ModelInfer(request, timeout=30), grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("in_flight", [64, 2])
async def test_the_first_image_that_fails_ends_the_others_at_once(serving, in_flight: int):
    fake = FakeDetector()
    async with serving(fake, in_flight_per_call=in_flight) as served:
        fake.gate.clear()
        stub = stub_of(served)
        holding = asyncio.ensure_future(stub.ModelInfer(pixels(9)))
        await asyncio.to_thread(fake.entered.wait)
        error = await refused(stub.ModelInfer(files(png(picture(1)), b"no image", png(picture(2)))))
        assert fields_at_fault(status_of(error)) == ["inputs[0] image 1"]
        await settle(lambda: not served.app.batcher.pending)
        fake.gate.set()
        await holding
    assert fake.batches == [[9]]


async def test_priority_one_goes_before_three(serving):
    fake = FakeDetector()
    last, first = pixels(3), pixels(1)
    last.parameters["priority"].uint64_param = 3
    first.parameters["priority"].uint64_param = 1
    async with serving(fake, max_batch=1) as served:
        fake.gate.clear()
        stub = stub_of(served)
        holding = asyncio.ensure_future(stub.ModelInfer(pixels(9)))
        await asyncio.to_thread(fake.entered.wait)
        waiting = []
        for request in (last, first):
            waiting.append(asyncio.ensure_future(stub.ModelInfer(request)))
            while served.app.batcher.queued < len(waiting):
                await asyncio.sleep(0.001)
        fake.gate.set()
        await asyncio.gather(holding, *waiting)
    assert fake.batches == [[9], [1], [3]]


@pytest.mark.parametrize(
    ("name", "kind", "value", "said"),
    [
        ("false_positive_rte", "double_param", 0.01, "did you mean 'false_positive_rate'"),
        ("false_positive_rate", "string_param", "0.01", "double_param, but came string_param"),
        ("false_positive_rate", "double_param", 1e-9, "calibration can promise"),
        ("top_k", "int64_param", -1, "0 or more"),
        ("priority", "uint64_param", 4, "from 1 (first) to 3 (last)"),
    ],
)
async def test_a_wrong_parameter_is_named(serving, name, kind, value, said):
    request = pixels(1)
    setattr(request.parameters[name], kind, value)
    async with serving() as served:
        error = await refused(stub_of(served).ModelInfer(request))
    assert fields_at_fault(status_of(error)) == [f"parameters[{name}]"]
    assert said in error.details()


# ---- what is wrong with a request -----------------------------------------------------------------------------------


def broken(**changes: Any) -> pb.ModelInferRequest:
    """A good request of one raw image with some of its fields replaced."""
    request = pixels(1)
    for name, value in changes.items():
        target: Any = request if name in ("inputs", "raw_input_contents") else request.inputs[0]
        target.ClearField(name)
        target.MergeFrom(type(target)(**{name: value}))
    return request


SMALL = picture(1).tobytes()
WRONG = {
    "no input": (broken(inputs=[]), "inputs", "came 0"),
    "two inputs": (broken(inputs=[tensor("image", "UINT8", [1])] * 2), "inputs", "came 2"),
    "name": (broken(name="imege"), "inputs[0].name", "did you mean 'image'"),
    "datatype": (broken(datatype="FP32"), "inputs[0].datatype", "UINT8, but came 'FP32'"),
    "channels first": (broken(shape=[1, 3, 8, 8]), "inputs[0].shape", "[N, H, W, 3]"),
    "negative": (broken(shape=[-1, 8, 8, 3]), "inputs[0].shape", "came [-1, 8, 8, 3]"),
    "too wide": (broken(shape=[1, 1, 2**33, 3]), "inputs[0].shape", "width"),
    "too short": (broken(raw_input_contents=[b"abc"]), "raw_input_contents[0]", "takes 192 bytes, but came 3"),
    "one too many": (broken(raw_input_contents=[SMALL, SMALL]), "raw_input_contents", "one for each of 1"),
    "neither form": (broken(raw_input_contents=[]), "inputs[0].contents.uint_contents", "came 0"),
    "both forms": (
        broken(contents=pb.InferTensorContents(uint_contents=[1])),
        "raw_input_contents",
        "without contents",
    ),
    "not a byte": (
        broken(raw_input_contents=[], contents=pb.InferTensorContents(uint_contents=[256] * 192)),
        "inputs[0] image 0",
        "more than 255",
    ),
    "shared memory": (
        broken(parameters={"shared_memory_region": pb.InferParameter(string_param="a")}),
        "inputs[0].parameters[shared_memory_region]",
        "not supported",
    ),
    "no files": (files(), "inputs[0].shape", "came 0"),
    "length prefix": (
        pb.ModelInferRequest(
            model_name="heatward", inputs=[tensor("image_bytes", "BYTES", [1])], raw_input_contents=[b"\xff\0\0\0a"]
        ),
        "raw_input_contents[0]",
        "past the end",
    ),
    "too many": (pixels(1, 2, 3, 4, 5), "inputs[0].shape", "between 1 and 4"),
    "output": (pixels(1, outputs=asking("atacked")), "outputs[0].name", "did you mean 'attacked'"),
    "long id": (pixels(1, id="x" * 129), "id", "at most 128"),
    "third image": (
        files(png(picture(1)), png(picture(2)), b"no image", png(picture(3))),
        "inputs[0] image 2",
        "",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_request_is_told_which_field(serving, case):
    request, field, said = WRONG[case]
    async with serving(images_per_call=4) as served:
        error = await refused(stub_of(served).ModelInfer(request))
        assert served.app.batcher.pending == 0  # nor does a neighbour stay in the queue
    assert fields_at_fault(status_of(error)) == [field]
    assert said in error.details()
    assert error.details().startswith(f"{field}: ")


async def test_another_form_of_an_output_is_refused(serving):
    request = pixels(1, outputs=asking("label"))
    request.outputs[0].parameters["classification"].int64_param = 3
    async with serving() as served:
        error = await refused(stub_of(served).ModelInfer(request))
    assert fields_at_fault(status_of(error)) == ["outputs[0].parameters[classification]"]


async def test_an_unknown_model_is_told_which_there_are(serving):
    async with serving() as served:
        stub = stub_of(served)
        version = (await stub.ModelMetadata(pb.ModelMetadataRequest(name="heatward"))).versions[0]
        for name, asked in (("heatward", ""), ("heatward", version), ("cifar10", version)):
            assert (await stub.ModelReady(pb.ModelReadyRequest(name=name, version=asked))).ready
        wrong = [
            await refused(call, grpc.StatusCode.NOT_FOUND)
            for call in (
                stub.ModelInfer(pb.ModelInferRequest(model_name="resnet")),
                stub.ModelReady(pb.ModelReadyRequest(name="resnet")),
                stub.ModelMetadata(pb.ModelMetadataRequest(name="resnet")),
                stub.ModelConfig(pb.ModelConfigRequest(name="resnet")),
                stub.ModelStatistics(pb.ModelStatisticsRequest(name="resnet")),
            )
        ]
        old = await refused(
            stub.ModelReady(pb.ModelReadyRequest(name="heatward", version="2")), grpc.StatusCode.NOT_FOUND
        )
    assert all("'resnet'" in error.details() and "heatward or cifar10" in error.details() for error in wrong)
    assert version in old.details()


async def test_one_detector_answers_all_images_of_a_call_also_beside_a_canary():
    config = ServerConfig(
        port=0,
        metrics_port=None,
        threads=1,
        bundle=Path("a"),
        canary=Path("b"),
        canary_weight=0.5,
        max_batch=8,
        allow_other_classifier=True,
    )
    app = App(config, lambda path, device: FakeDetector(name=path.name))
    try:
        await app.listen()
        await app.begin()
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            versions = (await stub.ModelMetadata(pb.ModelMetadataRequest(name="heatward"))).versions
            named = [await stub.ModelInfer(pixels(1, model_version=version)) for version in versions]
            shared = [await stub.ModelInfer(pixels(*range(9))) for _ in range(20)]
            counts = app.metrics.registry
            judged = [
                sum(
                    counts.get_sample_value("heatward_version_images_total", {"version": version, "verdict": verdict})
                    or 0
                    for verdict in ("clean", "attacked")
                )
                for version in versions
            ]
    finally:
        await app.close()
    assert list(versions) == ["a" * 16, "b" * 16]
    assert [response.model_version for response in named] == list(versions)
    assert {response.model_version for response in shared} <= set(versions)
    assert sum(judged) == 182 and all(count % 9 == 1 for count in judged)


# ---- what the server says of itself ---------------------------------------------------------------------------------


async def test_ready_follows_health():
    app = App(ServerConfig(port=0, metrics_port=None, threads=1), lambda path, device: FakeDetector())
    try:
        await app.listen()
        async with grpc.aio.insecure_channel(app.address) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            health = health_pb2_grpc.HealthStub(channel)

            async def said() -> tuple[bool, bool, bool, bool]:
                check = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
                return (
                    (await stub.ServerLive(pb.ServerLiveRequest())).live,
                    (await stub.ServerReady(pb.ServerReadyRequest())).ready,
                    (await stub.ModelReady(pb.ModelReadyRequest(name="heatward"))).ready,
                    check.status == health_pb2.HealthCheckResponse.SERVING,
                )

            assert await said() == (True, False, False, False)
            await refused(stub.ModelInfer(pixels(1)), grpc.StatusCode.UNAVAILABLE)
            await app.begin()
            assert await said() == (True, True, True, True)
    finally:
        await app.close()


async def test_metadata_and_configuration_agree_with_what_comes_out(serving):
    async with serving(max_batch=8, images_per_call=16) as served:
        stub = stub_of(served)
        server = await stub.ServerMetadata(pb.ServerMetadataRequest())
        model = await stub.ModelMetadata(pb.ModelMetadataRequest(name="heatward"))
        config = (await stub.ModelConfig(pb.ModelConfigRequest(name="heatward"))).config
        everything = await stub.ModelInfer(pixels(1, outputs=asking(*(output.name for output in model.outputs))))
    assert server.name == "heatward"
    assert {"statistics", "model_configuration"} <= set(server.extensions)
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        ("image", "UINT8", [-1, -1, -1, 3]),
        ("image_bytes", "BYTES", [-1]),
    ]
    for said, came, configured in zip(model.outputs, everything.outputs, config.output, strict=True):
        assert (said.name, said.datatype) == (came.name, came.datatype)
        assert len(said.shape) == len(came.shape)
        assert list(configured.dims) == list(said.shape)[1:]
    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (16, [8])


async def test_statistics_count_requests_images_and_batches(serving):
    async with serving(max_batch=1) as served:
        stub = stub_of(served)
        await stub.ModelInfer(pixels(1, 2, 3))
        await stub.ModelInfer(pixels(4))
        await served.stub.Detect(raw(picture(5)))
        await refused(stub.ModelInfer(files(b"no image")))
        (found,) = (await stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    assert (found.name, found.inference_count, found.execution_count) == ("heatward", 5, 5)
    assert found.last_inference > 0
    stats = found.inference_stats
    counts = [getattr(stats, name).count for name in ("success", "queue", "compute_input", "compute_infer", "fail")]
    assert counts == [2, 2, 2, 2, 1]
    assert stats.success.ns >= stats.compute_infer.ns > 0
    assert [(size.batch_size, size.compute_infer.count) for size in found.batch_stats] == [(1, 5)]


async def test_reflection_describes_the_private_contract_too(serving):
    async with serving() as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="heatward.v1.DetectionService"),
        ]
        listed, *described = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert SERVICE in {service.name for service in listed.list_services_response.service}
    names = [
        {FileDescriptorProto.FromString(data).name for data in answer.file_descriptor_response.file_descriptor_proto}
        for answer in described
    ]
    assert names[0] == {pb.DESCRIPTOR.name}
    assert {detection_pb2.DESCRIPTOR.name, "google/rpc/status.proto"} <= names[1]


async def test_every_call_is_counted(serving):
    async with serving() as served:
        await stub_of(served).ModelInfer(pixels(1))
        found = served.app.metrics.registry.get_sample_value(
            "heatward_requests_total", {"method": "ModelInfer", "code": "OK"}
        )
    assert found == 1


# ---- the tensors and the stubs --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300)))
def test_bytes_tensors_come_back_as_they_went(items):
    assert unpack(pack(items)) == items


@given(st.lists(st.binary(max_size=20), min_size=1), st.data())
def test_a_truncated_bytes_tensor_is_never_read_as_a_whole_one(items, data):
    whole = pack(items)
    cut = data.draw(st.integers(1, len(whole) - 1))
    try:
        found = unpack(whole[:cut])
    except ValueError:
        return
    assert found == items[: len(found)] != items


FOREIGN = """
import sys
from google.protobuf import descriptor_pb2, descriptor_pool

def foreign():  # what tritonclient's stubs do: the same symbols, in the default pool
    file = descriptor_pb2.FileDescriptorProto(name="grpc_service.proto", package="inference", syntax="proto3")
    file.message_type.add(name="ModelInferRequest")
    file.service.add(name="GRPCInferenceService")
    descriptor_pool.Default().Add(file)
    descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")

def ours():
    from heatward.inference import grpc_service_pb2, grpc_service_pb2_grpc
    assert grpc_service_pb2.ModelInferRequest(id="a").SerializeToString() == b"\\x1a\\x01a"

for step in sys.argv[1:]:
    {"foreign": foreign, "ours": ours}[step]()
"""


@pytest.mark.parametrize("order", [("ours", "foreign"), ("foreign", "ours")])
def test_our_stubs_live_beside_others_of_the_same_package(order):
    subprocess.run([sys.executable, "-c", FOREIGN, *order], check=True, env={"PYTHONPATH": ":".join(sys.path)})
