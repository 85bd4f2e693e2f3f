"""Whose turn it is, for any mix of clients, priorities and deadlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.inference.fair_queue import FairQueue
from server.inference.request import HIGH, LOW, NORMAL


@dataclass(frozen=True)
class Waits:
    client: str
    priority: int
    expires_s: float
    number: int

    @property
    def turn(self) -> tuple[float, int]:
        return self.expires_s, self.number


clients, priorities = st.sampled_from("abc"), st.sampled_from([LOW, NORMAL, HIGH])
kinds = st.tuples(clients, priorities, st.integers(0, 5))
crowds = st.lists(kinds, max_size=20).map(lambda crowd: [Waits(*kind, n) for n, kind in enumerate(crowd)])


def reserved(works: list[Waits]) -> Any:  # a FairQueue, which reads of its works no more than these have
    turns: Any = FairQueue()
    for work in works:
        turns.reserve(work)
    return turns


def serve(turns: Any) -> Waits:
    work: Waits = next(iter(turns))
    turns.remove(work, served=True)
    turns.release(work)
    return work


@given(crowds, crowds, kinds, st.integers(0, 10))
def test_no_work_waits_for_more_than_it_was_told(
    queued: list[Waits], decoding: list[Waits], kind: tuple[str, int, int], served: int
):
    """Those that are still decoded may come in before it: they count."""
    decoding = [Waits(work.client, work.priority, work.expires_s, 100 + work.number) for work in decoding]
    turns = reserved(queued + decoding)
    for work in queued:
        turns.add(work)
    for _ in range(min(served, len(queued))):  # so that the turns stand anywhere
        serve(turns)
    newcomer = Waits(*kind, 1000)
    told = turns.ahead(newcomer)
    turns.reserve(newcomer)
    for work in [*decoding, newcomer]:
        turns.add(work)
    before = 0
    while serve(turns) is not newcomer:
        before += 1
    assert before <= told


@given(crowds, kinds)
def test_alone_or_with_its_own_kind_it_is_told_exactly(queued: list[Waits], kind: tuple[str, int, int]):
    newcomer = Waits(*kind, 1000)
    queued = [Waits(newcomer.client, work.priority, work.expires_s, work.number) for work in queued]
    turns = reserved(queued)
    for work in queued:
        turns.add(work)
    goes_before = [w for w in queued if (-w.priority, w.turn) < (-newcomer.priority, newcomer.turn)]
    assert turns.ahead(newcomer) == len(goes_before)


@given(crowds, st.randoms(use_true_random=False), st.lists(st.booleans(), min_size=20, max_size=20))
def test_removal_in_any_order_leaves_the_rest_and_its_counts(works: list[Waits], random, served: list[bool]):
    turns = reserved(works)
    for work in works:
        turns.add(work)
    order = random.sample(works, len(works))
    for count, work in enumerate(order):
        assert len(turns) == len(works) - count
        assert sorted(turns, key=lambda w: w.number) == sorted(order[count:], key=lambda w: w.number)
        assert [w.priority for w in turns] == sorted((w.priority for w in turns), reverse=True)
        assert turns.remove(work, served=served[count])
        assert not turns.remove(work)
        turns.release(work)
    anyone = Waits("d", LOW, 0, 1000)
    assert (len(turns), list(turns)) == (0, [])
    assert turns.ahead(anyone) == 0
    assert turns.displaced_by(anyone) is None


@given(crowds, kinds)
def test_only_who_holds_more_or_is_less_urgent_gives_up_a_place(queued: list[Waits], kind: tuple[str, int, int]):
    newcomer = Waits(*kind, 1000)
    turns = reserved(queued)
    for work in queued:
        turns.add(work)

    def held(of: Waits) -> int:
        return sum((w.client, w.priority) == (of.client, of.priority) for w in queued)

    victim = turns.displaced_by(newcomer)
    if victim is not None:
        assert victim.priority <= newcomer.priority
        assert victim.priority < newcomer.priority or held(victim) > held(newcomer) + 1
    elif queued:  # no work is less urgent, and nobody's line is longer by more than the newcomer
        assert min(w.priority for w in queued) >= newcomer.priority
