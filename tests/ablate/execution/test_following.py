"""Metrics of a program that knows nothing of us."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.execution.following import LONGEST_LINE, JsonLines, Printed, Row, Seen, Tail, final_metrics, last_lines, numbers_of
from ablate.trial import metric_line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\r\n")), max_size=20), st.lists(st.integers(0, 60), max_size=20))
def test_lines_are_the_same_however_they_are_written(tmp_path: Path, lines: list[str], cuts: list[int]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    path = tmp_path / "file"
    path.write_bytes(b"")
    tail, found, start = Tail(path), [], 0
    for cut in [*sorted(cuts), len(content)]:
        with path.open("ab") as file:
            file.write(content[start : max(cut, start)])
        start = max(cut, start)
        found += list(tail.lines(at_most=7))
    while rest := list(tail.lines(at_most=7)) or tail.position < len(content):
        found += rest if isinstance(rest, list) else []
    assert found == [line.encode() for line in lines]


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert list(Tail(tmp_path / "none").lines()) == []


@pytest.mark.parametrize("again", ["short\n", "another line that is longer than what was read before\n"])
def test_a_file_that_begins_anew_is_read_from_its_start(tmp_path: Path, again: str) -> None:
    path = tmp_path / "file"
    path.write_text("first line\nsecond\n")
    tail = Tail(path)
    assert len(list(tail.lines())) == 2
    path.write_text(again)  # in place
    assert list(tail.lines()) == [again.strip().encode()]
    (tmp_path / "beside").write_text("by rename\n" * 9)
    (tmp_path / "beside").replace(path)
    assert len(list(tail.lines())) == 9


def test_a_line_without_end_is_counted_and_what_follows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    tail = Tail(path)
    found = []
    with path.open("ab", buffering=0) as file:
        for _ in range(3):
            file.write(b"x" * LONGEST_LINE)
            found += list(tail.lines(at_most=LONGEST_LINE))
        file.write(b"\ngood\n")
        found += list(tail.lines())
    assert found == [b"good"]
    assert tail.too_long == 1


def test_progress_bars_end_their_lines_with_a_return(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\r10%\r100%\nstep 1\r\n")
    assert [line for line in Tail(path).lines() if line] == [b"10%", b"100%", b"step 1"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"step": 3, "loss": 0.5}', {"loss": 0.5}),
        ('{"step": 3.0, "train": {"loss": 0.5, "deep": {"x": 1}}, "name": "run"}', {"train/loss": 0.5, "train/deep/x": 1.0}),
        ('{"step": 3, "metrics": {"loss": 0.5}}', {"loss": 0.5}),
        ('{"step": 3, "ok": true, "none": null, "many": [1, 2], "metrics": 2}', {"ok": 1.0, "metrics": 2.0}),
        ('{"step": 3, "a.b": 1}', {"a.b": 1.0}),
    ],
)
def test_json_lines_may_be_flat_or_nested(line: str, expected: dict[str, float]) -> None:
    reader = JsonLines("step", {})
    assert reader.row(line.encode()) == Row(3, expected)
    assert reader.garbage == 0


def test_names_are_renamed_and_the_step_may_be_inside() -> None:
    reader = JsonLines("trainer/global_step", {"val/acc": "accuracy"})
    assert reader.row(b'{"trainer": {"global_step": 7}, "val": {"acc": 0.5}, "x": 1}') == Row(7, {"accuracy": 0.5, "x": 1.0})


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b'{"step": 3, "lo',
        b"[1, 2]",
        b"3",
        b'{"loss": 1}',
        b'{"step": "x", "loss": 1}',
        b'{"step": NaN}',
        b"\xff\xfe",
        b"[" * 9999,
        f'{{"step": 1, "loss": {10**400}}}'.encode(),
    ],
)
def test_garbage_is_counted_and_never_fatal(line: bytes) -> None:
    reader = JsonLines("step", {})
    assert reader.row(line) is None
    assert reader.garbage == 1


def test_nan_in_a_line_is_a_value() -> None:
    row = JsonLines("step", {}).row(b'{"step": 1, "loss": NaN}')
    assert row is not None
    assert math.isnan(row.metrics["loss"])


def test_lines_of_output_match_patterns() -> None:
    reader = Printed([r"step (?P<step>\d+) loss (?P<loss>\S+)", r"accuracy (?P<acc>\S+)"], {"acc": "test/accuracy"})
    assert reader.row(b"accuracy 0.1") == Row(0, {"test/accuracy": 0.1})
    assert reader.row(b"[x][INFO] - step 12 loss 1.5e-3 (fast)") == Row(12, {"loss": 0.0015})
    assert reader.row(b"nothing here") is None
    assert reader.row(b"accuracy 0.9") == Row(12, {"test/accuracy": 0.9})
    assert reader.garbage == 0
    assert reader.row(b"step 13 loss tensor(3.)") is None
    assert reader.garbage == 1


def test_seen_rows_are_known_again(tmp_path: Path) -> None:
    stream = tmp_path / "metrics.jsonl"
    stream.write_text(metric_line(1, {"a": 0.1, "b": math.nan}) + "garbage\n")
    seen = Seen(stream)
    assert Row(1, {"b": math.inf, "a": 0.1}) in seen
    assert Row(1, {"a": 0.2, "b": math.nan}) not in seen
    assert Row(2, {"a": 0.1, "b": math.nan}) not in seen


def test_final_metrics_are_means_over_the_last_steps(tmp_path: Path) -> None:
    stream = tmp_path / "metrics.jsonl"
    rows = [metric_line(step, {"a": float(step)}) for step in range(100)]
    stream.write_text("".join([*rows, metric_line(98, {"a": 1000.0}), metric_line(50, {"b": 2.0})]))
    assert final_metrics(stream, 1) == {"a": 99.0, "b": 2.0}
    assert final_metrics(stream, 3) == {"a": (97 + 1000 + 99) / 3, "b": 2.0}


def test_a_metric_that_ended_as_nan_is_not_its_last_good_value(tmp_path: Path) -> None:
    stream = tmp_path / "metrics.jsonl"
    stream.write_text(metric_line(1, {"a": 1.0}) + metric_line(2, {"a": math.nan}))
    assert math.isnan(final_metrics(stream, 1)["a"])
    assert math.isnan(final_metrics(stream, 2)["a"])


def test_a_result_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(TypeError):
        numbers_of(json.loads("[1]"))


def test_the_last_lines_are_those_that_say_something(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n" + "a\n\n  b  \nc\n")
    assert last_lines(path, 7, 2) == ["b", "c"]
    assert last_lines(path, 7, 9) == ["a", "b", "c"]
