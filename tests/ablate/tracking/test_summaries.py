from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.tracking.base import DataSet, Points
from ablate.tracking.summaries import curves_of, data_sets, mean_curves, whole_data_set
from ablate.trial import TrialResult

streams = st.lists(
    st.dictionaries(st.integers(0, 5), st.dictionaries(st.sampled_from(["a", "b"]), st.floats(-9, 9), max_size=2), max_size=5).map(
        lambda found: sorted(found.items())
    ),
    max_size=4,
)


@given(streams)
@settings(max_examples=80)
def test_a_mean_curve_is_the_mean_at_each_step_that_all_who_have_the_metric_reported(found: list[Points]) -> None:
    means = dict(mean_curves(found))
    for name in ("a", "b"):
        having = [dict(stream) for stream in found if any(name in metrics for _, metrics in stream)]
        for step in range(6):
            values = [stream[step][name] for stream in having if name in stream.get(step, {})]
            if values and len(values) == len(having):
                assert means[step][name] == pytest.approx(sum(values) / len(values))
            else:
                assert name not in means.get(step, {})


def test_a_replicate_that_was_stopped_early_ends_the_curve_and_does_not_bend_it() -> None:
    healthy: Points = [(0, {"a": 1.0}), (5, {"a": 2.0}), (10, {"a": 3.0})]
    stopped: Points = [(0, {"a": 3.0}), (5, {"a": 4.0})]
    assert mean_curves([healthy, stopped]) == [(0, {"a": 2.0}), (5, {"a": 3.0})]


def test_an_arms_points_end_with_its_final_means_and_keep_what_has_no_curve_at_step_0() -> None:
    stream: Points = [(0, {"a": 1.0}), (5, {"a": 2.0})]
    assert curves_of([stream], {"a": 2.5, "b": 9.0}, {"effect/mean": 0.1}) == [
        (0, {"a": 1.0, "effect/mean": 0.1}),
        (5, {"a": 2.5, "b": 9.0}),
    ]
    assert curves_of([], {"b": 9.0}, {"effect/mean": 0.1}) == [(0, {"b": 9.0, "effect/mean": 0.1})]


def result(summary: dict[str, Any]) -> TrialResult:
    return TrialResult("s", 1, {}, (), summary, 1.0, {})


def test_the_splits_that_a_trainer_lists_are_data_sets_of_their_own() -> None:
    summary = {"data": "/scans/lung", "scans": {"test": ["c"], "train": ["a", "b"], "select": []}}
    found = data_sets("hash", result(summary))
    assert [(one.name, one.source, one.context, one.items) for one in found] == [
        ("lung", "/scans/lung", "train", 2),
        ("lung", "/scans/lung", "test", 1),
    ]
    assert len({one.digest for one in found}) == 2
    assert all(len(one.digest) <= 36 for one in found)
    assert whole_data_set(found, "hash") == [DataSet("lung", "hash", "/scans/lung", "all", 3)]


def test_other_scans_or_other_data_are_another_digest() -> None:
    digests = {
        data_sets(data_hash, result({"scans": {"train": names}}))[0].digest for data_hash in ("one", "two") for names in (["a"], ["b"])
    }
    assert len(digests) == 4


def test_a_trainer_that_lists_nothing_has_one_data_set_by_its_hash_and_without_a_hash_none() -> None:
    assert data_sets("hash", result({})) == [DataSet("data", "hash", "", "all")]
    assert data_sets("hash", result({"scans": "many"})) == [DataSet("data", "hash", "", "all")]
    assert data_sets("", None) == []
