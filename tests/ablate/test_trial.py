"""Signatures, merging, metric streams and results, as properties."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.trial import (
    AttemptFiles,
    Cause,
    Outcome,
    TrialFiles,
    TrialSpec,
    accept,
    flatten,
    merge,
    metric_line,
    read_metrics,
    read_outcome,
    read_stream,
    result_of,
    signature_of,
    write_atomic,
)

NAMES = st.text("abcxyz_", min_size=1, max_size=4)
NUMBERS = st.one_of(st.booleans(), st.integers(-99, 99), st.floats(-1e6, 1e6))
LEAVES = st.one_of(NUMBERS, st.text(max_size=4), st.none(), st.lists(st.integers(), max_size=2))
CONFIGS = st.recursive(
    st.dictionaries(NAMES, LEAVES, min_size=1, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(LEAVES, inner), min_size=1),
    max_leaves=8,
)


def shuffled(config: dict[str, Any]) -> dict[str, Any]:
    return {key: shuffled(value) if isinstance(value, dict) else value for key, value in reversed(list(config.items()))}


@given(CONFIGS)
def test_a_signature_knows_content_not_order(config: dict[str, Any]) -> None:
    assert signature_of(config, {}, "code", "data") == signature_of(shuffled(config), {}, "code", "data")
    assert signature_of(config, {}, "code", "data") != signature_of(config, {}, "other", "data")
    assert signature_of(config, {}, "code", "data") != signature_of(config, {}, "code", "other")


@given(CONFIGS, st.data())
def test_one_changed_leaf_changes_the_signature_unless_it_is_inert(config: dict[str, Any], data: st.DataObject) -> None:
    path, old = data.draw(st.sampled_from(sorted(dict(flatten(config)).items(), key=lambda item: item[0])))
    changed = merge(config, {path: f"not {old!r}"})
    assert signature_of(config, {}, "c", "d") != signature_of(changed, {}, "c", "d")
    assert signature_of(config, {path: 0}, "c", "d") == signature_of(changed, {path: 0}, "c", "d")


def test_true_and_one_are_different_levels() -> None:
    assert signature_of({"a": True}, {}, "", "") != signature_of({"a": 1}, {}, "", "")


@given(CONFIGS)
def test_a_flat_config_merges_back_to_itself(config: dict[str, Any]) -> None:
    assert merge({}, dict(flatten(config))) == config


@given(CONFIGS, st.dictionaries(st.lists(NAMES, min_size=1, max_size=2).map(".".join), LEAVES, max_size=3))
def test_merging_puts_each_level_at_its_path_and_leaves_the_input_alone(config: dict[str, Any], levels: dict[str, Any]) -> None:
    paths = {*levels, *dict(flatten(config))}
    if any(a != b and b.startswith(f"{a}.") for a in paths for b in paths):
        return  # a setting cannot be a section at once
    before = json.dumps(config)
    merged = dict(flatten(merge(config, levels)))
    assert json.dumps(config) == before
    assert merged == {**dict(flatten(config)), **levels}


def stream_of(tmp_path: Path, content: bytes) -> AttemptFiles:
    files = AttemptFiles(tmp_path)
    files.metrics.write_bytes(content)
    return files


ROWS = st.lists(st.tuples(st.integers(0, 6), st.dictionaries(NAMES, st.floats(), min_size=1, max_size=3)), max_size=8)


def naive_read(rows: list[tuple[int, dict[str, float]]]) -> tuple[list[tuple[int, dict[str, float]]], int]:
    """Step by step and name by name, the last finite value; beyond 1e100 none is."""
    read, nonfinite = [], 0
    for step in range(7):
        lines = [metrics for s, metrics in rows if s == step]
        found: dict[str, float] = {}
        for metrics in lines:
            for name, value in metrics.items():
                if -1e100 <= value <= 1e100:
                    found[name] = value
                else:
                    nonfinite += 1
        if lines:
            read.append((step, found))
    return read, nonfinite


@given(ROWS, st.data())
@settings(max_examples=60)
def test_a_stream_cut_anywhere_gives_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, dict[str, float]]], data: st.DataObject
) -> None:
    lines = [metric_line(step, metrics).encode() for step, metrics in rows]
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    files = stream_of(tmp_path_factory.mktemp("stream"), content[:cut])
    whole = sum(len(b"".join(lines[: n + 1])) - 1 <= cut for n in range(len(lines)))  # the line feed itself carries nothing
    stream = read_stream(files)
    assert (stream.rows, stream.nonfinite) == naive_read(rows[:whole])
    assert stream.unreadable <= 1
    assert read_metrics(files) == stream.rows


def test_garbage_in_a_stream_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    content = b'{"step": 1, "metrics": {"a": 1}}\n\xff\xfe\n[]\n{"step": 2}\n{"step": 3, "metrics": {"a": NaN, "b": "x"}}\n'
    stream = read_stream(stream_of(tmp_path, content + b'{"step": 4, "metrics": {"a": NaN, "b": 2}}\n'))
    assert stream.rows == [(1, {"a": 1.0}), (4, {"b": 2.0})]
    assert (stream.nonfinite, stream.unreadable) == (1, 4)


def test_no_stream_is_an_empty_stream(tmp_path: Path) -> None:
    assert read_metrics(AttemptFiles(tmp_path)) == []


def test_a_spec_and_an_outcome_survive_their_files() -> None:
    spec = TrialSpec("s", 1, {"a": {"b": [1, None]}}, "m:f", "code", "data")
    assert TrialSpec.from_json(spec.to_json()) == spec
    outcome = Outcome("s", 2, Cause.NAN, "why", 1.5, {"a": 1.0}, ("b",), {"cpu": "x"}, 1)
    assert Outcome.from_json(outcome.to_json()) == outcome


def outcome(attempt: int, cause: Cause | None = None) -> Outcome:
    return Outcome("s", attempt, cause, "", 1.0, {"a": float(attempt)}, (), {}, None)


def written(root: Path, *outcomes: Outcome) -> TrialFiles:
    trial = TrialFiles(root, "s")
    for one in outcomes:
        files = trial.attempt(one.attempt)
        files.directory.mkdir(parents=True)
        write_atomic(files.outcome, one.to_json())
    return trial


def test_the_accepted_attempt_is_the_result_for_good(tmp_path: Path) -> None:
    trial = written(tmp_path, outcome(1), outcome(2))
    assert result_of(tmp_path, "s") is None
    trial.attempt(1).summary.write_text('{"collapse": "uniform"}')
    accept(tmp_path, {"s": 1})
    accept(tmp_path, {"s": 2})
    result = result_of(tmp_path, "s")
    assert result is not None
    assert (result.attempt, result.metrics, result.summary) == (1, {"a": 1.0}, {"collapse": "uniform"})
    assert [entry.name for entry in trial.directory.iterdir() if entry.name.startswith(".")] == []


def test_an_acceptance_without_a_result_is_replaced(tmp_path: Path) -> None:
    written(tmp_path, outcome(1, Cause.CRASH), outcome(2))
    accept(tmp_path, {"s": 1})
    assert result_of(tmp_path, "s") is None
    accept(tmp_path, {"s": 2})
    result = result_of(tmp_path, "s")
    assert result is not None
    assert result.attempt == 2


def test_an_attempt_without_outcome_has_not_ended(tmp_path: Path) -> None:
    assert read_outcome(AttemptFiles(tmp_path)) is None


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "new")
    assert path.read_text() == "old"
