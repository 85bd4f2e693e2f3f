"""One image on its way: it is finished once, and whoever looks on is told."""

from __future__ import annotations

from typing import Any

import numpy as np
from served_models import IMAGE, inference_request, inference_result

from detector.images import ImageLimits
from server.config import ServerConfig
from server.errors import ExpiredError, NotReadyError, RequestError, code_of
from server.inference.batcher import Batcher
from server.inference.context import RequestContext
from server.inference.image import encoded
from server.inference.observer import Observer, Observers
from server.inference.pipeline import Pipeline
from server.inference.request import InferenceRequest, InferenceResult, State


class Told(Observer):
    def __init__(self) -> None:
        self.told: list[object] = []

    def finished(self, request: InferenceRequest, result: InferenceResult) -> None:
        self.told.append(result)

    def failed(self, context: RequestContext, error: BaseException, seconds: float) -> None:
        self.told.append(code_of(error))

    def dropped(self, reason: str) -> None:
        self.told.append(reason)

    def computed(self, seconds: float, images: int) -> None:
        self.told.append(images)


def pipeline(observer: Observer, capacity: int = 9) -> tuple[Pipeline, Batcher]:
    batcher = Batcher(capacity=capacity, on_drop=observer.dropped)
    return Pipeline(ServerConfig(decode_workers=1), batcher, observer), batcher


def test_the_first_outcome_counts():
    told: list[object] = []
    request, result = inference_request(on_finish=lambda request: told.append(request.outcome)), inference_result()
    assert request.state is State.ARRIVED
    request.finish(result)
    request.finish(ExpiredError("too late"))
    assert told == [result] and request.outcome is result
    assert request.state is State.FINISHED


def test_all_observers_are_told_everything():
    one, other = Told(), Told()
    observers = Observers(one)
    observers.add(other)
    result = inference_result()
    observers.finished(inference_request(), result)
    observers.failed(RequestContext("id", None, 1.0), NotReadyError("starting"), 0.1)
    observers.dropped("late")
    observers.computed(0.1, 7)
    assert one.told == other.told == [result, "UNAVAILABLE", "late", 7]


async def test_a_request_walks_from_state_to_state_and_its_observer_is_told_once():
    watching = Told()
    road, batcher = pipeline(watching)
    told: list[Any] = []
    request = inference_request(priority=2)
    request.source.raw_size = request.model.input_size  # decoded at once, without a thread
    request.model.detector.classifier.fit = lambda pixels: pixels  # type: ignore[method-assign]
    context = RequestContext("call", None, 60.0, client="me")
    assert road.start([5], lambda _: request, context, lambda *each: told.append(each)) == [request]
    assert (request.state, request.client, request.request_id) == (State.QUEUED, "me", "call")
    assert np.array_equal(request.image, IMAGE)
    assert batcher.take() == [request]
    assert request.state is State.TAKEN
    result = inference_result()
    road.deliver([request], [result])
    road.cancel([request])
    assert told == [(5, result)] and watching.told == [result]
    assert result.total_s > 0
    road.close()


async def test_a_defect_where_one_is_told_harms_no_neighbour(caplog):
    road, _ = pipeline(Told())
    bad, good = inference_request(on_finish=lambda _: 1 / 0), inference_request()
    results = [inference_result(), inference_result()]
    road.deliver([bad, good], results)
    assert good.outcome is results[1]
    assert "a defect in the server" in caplog.text
    road.close()


async def test_a_cancelled_request_gives_its_place_back_and_only_observers_are_told():
    watching = Told()
    road, batcher = pipeline(watching)
    told: list[object] = []
    requests = road.start(
        range(2), lambda _: inference_request(), RequestContext("call", None, 60.0), lambda *each: told.append(each)
    )
    road.cancel(requests)
    assert batcher.pending == 0
    assert told == []
    assert watching.told.count("CANCELLED") == 2
    road.close()


async def test_who_is_not_observed_is_told_and_not_counted():
    watching = Told()
    road, batcher = pipeline(watching)
    batcher.close()
    told: list[Any] = []
    context = RequestContext("call", None, 60.0)
    assert (
        road.start([0], lambda _: inference_request(), context, lambda *each: told.append(each), observed=False) == []
    )
    assert [code_of(error) for _, error in told] == ["UNAVAILABLE"]
    assert watching.told == []
    road.close()


def test_an_image_that_cannot_be_read_is_the_callers_fault_and_named():
    try:
        encoded(b"no image", "requests[3].image.encoded").decode(ImageLimits())
    except RequestError as error:
        assert error.field == "requests[3].image.encoded"
    else:
        raise AssertionError("it was read")
