from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.tracking import batches as room
from ablate.tracking.base import Points
from ablate.tracking.batches import key_of, portions, unsaid

streams = st.lists(st.dictionaries(st.sampled_from(["loss", "entropy", "ratio"]), st.floats(-9, 9), max_size=3), max_size=12).map(
    lambda rows: [(5 * index, row) for index, row in enumerate(rows)]
)

Portions = Callable[[Points], Iterator[tuple[list[tuple[int, str, float]], int | None]]]


def check(portioned: Portions, points: Points, size: int) -> None:
    """A telling that stops after any batch goes on from the noted step and leaves nothing out; no batch is too large."""
    everything = {(step, name, value) for step, metrics in points for name, value in metrics.items()}
    for stop in range(len(everything) + 2):
        sent, noted = set(), None
        for batch, upto in list(portioned(points))[:stop]:
            assert len(batch) <= size
            sent |= set(batch)
            noted = upto if upto is not None else noted
        rest = [(step, metrics) for step, metrics in points if noted is None or step > noted]
        sent |= {(step, name, value) for step, metrics in rest for name, value in metrics.items()}
        assert sent == everything


@given(streams, st.integers(1, 7))
@settings(max_examples=60)
def test_a_telling_that_stops_after_any_batch_can_go_on(points: Points, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "POINTS_A_PORTION", size)
        check(portions, points, size)


def test_noting_a_step_that_the_batch_only_begins_is_caught() -> None:
    points: Points = [(0, {"a": 1.0, "b": 2.0}), (5, {"a": 3.0, "b": 4.0})]

    def careless(points: Points) -> Iterator[tuple[list[tuple[int, str, float]], int | None]]:
        values = [(step, name, value) for step, metrics in points for name, value in metrics.items()]
        for start in range(0, len(values), 3):
            yield values[start : start + 3], values[start : start + 3][-1][0]

    with pytest.raises(AssertionError):
        check(careless, points, 3)


def test_the_last_step_of_a_growing_stream_waits_and_that_of_a_whole_one_does_not() -> None:
    points: Points = [(0, {"a": 1.0}), (5, {"a": 2.0}), (10, {"a": 3.0})]
    assert [step for step, _ in unsaid(points, None, whole=False)] == [0, 5]
    assert [step for step, _ in unsaid(points, "5", whole=False)] == []
    assert [step for step, _ in unsaid(points, "5", whole=True)] == [10]
    assert [step for step, _ in unsaid(points, "10", whole=True)] == [10], "what the trainer returned may have come to it since"


@given(st.text(max_size=300))
@settings()
def test_any_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(key_of(name))


@pytest.mark.parametrize("name", ["probe/local_to_global_mrr", "crops.foreground_threshold", "phase.flags"])
def test_a_good_name_stays(name: str) -> None:
    assert key_of(name) == name


def test_two_names_never_meet() -> None:
    names: list[Any] = ["a[0]", "a(0)", "a_0_", "../a", "..a", "./a", ""]
    assert len({key_of(name) for name in names}) == len(names)
