"""One attempt: what the trainer gets, what is copied, how its end is named."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ablate.execution.attempt import carry_over, classify, run_attempt
from ablate.execution.base import Order, WorkerFiles, WorkerSettings
from ablate.execution.evidence import checkpoint, latest_metrics
from ablate.execution.lease import Sign
from ablate.execution.worker import Worker
from ablate.ledger import AttemptRecord
from ablate.trial import AttemptFiles, Cause, Outcome, TrialFiles, TrialSpec, metric_line, read_metrics, read_outcome


def attempt_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., Any], **order: Any) -> tuple[Outcome, AttemptFiles]:
    module = types.ModuleType("made_up_trainer")
    module.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_trainer", module)
    trial = TrialFiles(tmp_path, "s")
    trial.directory.mkdir(parents=True, exist_ok=True)
    trial.spec.write_text(TrialSpec("s", 0, {"a": {"b": 1}}, "made_up_trainer:train", "", "").to_json())
    outcome = run_attempt(Order(**{"root": str(tmp_path), "signature": "s", "attempt": 1, "resume_from": None, "timeout_s": None, **order}))
    return outcome, trial.attempt(1)


def test_the_trainer_gets_its_config_and_its_reports_reach_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: Mapping[str, Any], run: Any) -> dict[str, float]:
        assert config == {"a": {"b": 1}}
        assert run.directory.is_dir()
        assert run.report(0, {"x": 1}) is True
        assert run.report(1, {"x": float("nan"), "y": True}) is True
        return {"z": 2}

    outcome, files = attempt_of(tmp_path, monkeypatch, train)
    assert (outcome.cause, outcome.metrics) == (None, {"z": 2.0})
    assert read_metrics(files) == [(0, {"x": 1.0}), (1, {"y": 1.0})]
    assert json.loads(files.began.read_text())["resumed_from"] is None


@pytest.mark.parametrize("returned", [None, 3.0, {"a": "text"}, {"a": None}])
def test_a_trainer_that_returns_no_numbers_is_told_what_to_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returned: object
) -> None:
    outcome, _ = attempt_of(tmp_path, monkeypatch, lambda config, run: returned)
    assert outcome.cause is Cause.INVALID
    assert "made_up_trainer:train: expected final metrics as a mapping of names to numbers" in outcome.message


def test_a_stop_file_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: Mapping[str, Any], run: Any) -> dict[str, float]:
        (run.directory / "stop").write_text("stopped")
        assert run.report(0, {}) is False
        return {"partial": 1.0}

    outcome, _ = attempt_of(tmp_path, monkeypatch, train)
    assert (outcome.cause, outcome.metrics) == (Cause.STOPPED, {})


def test_an_attempt_over_its_time_is_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _ = attempt_of(tmp_path, monkeypatch, lambda config, run: {"stopped": float(not run.report(0, {}))}, timeout_s=0.0)
    assert outcome.cause is Cause.TIMEOUT


class ConfigError(ValueError):
    pass


class DataError(RuntimeError):
    pass


class NonFiniteLoss(RuntimeError):
    pass


class OutOfMemoryError(RuntimeError):
    pass


class Worse(NonFiniteLoss):
    pass


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("x"), Cause.CRASH),
        (OSError("x"), Cause.CRASH),
        (MemoryError(), Cause.OUT_OF_MEMORY),
        (OutOfMemoryError("cuda"), Cause.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: not enough memory: out of memory"), Cause.OUT_OF_MEMORY),
        (FloatingPointError(), Cause.NAN),
        (ZeroDivisionError(), Cause.NAN),
        (Worse(), Cause.NAN),
        (ConfigError(), Cause.INVALID),
        (DataError(), Cause.INVALID),
        (ModuleNotFoundError(), Cause.INVALID),
    ],
)
def test_errors_are_told_apart_by_what_a_second_try_would_do(error: Exception, cause: Cause) -> None:
    assert classify(error) is cause


def test_a_later_attempt_gets_the_earlier_one_s_files_but_for_the_platform_s_own(tmp_path: Path) -> None:
    earlier, later = AttemptFiles(tmp_path / "1"), AttemptFiles(tmp_path / "2")
    (earlier.directory / "deep").mkdir(parents=True)
    later.directory.mkdir()
    (earlier.directory / "deep" / "weights").write_text("w")
    (earlier.directory / "checkpoint").write_text("c")
    for path in (earlier.outcome, earlier.began, earlier.stop, earlier.log, earlier.directory / ".half-written"):
        path.write_text("own")
    earlier.metrics.write_text(metric_line(0, {"x": 1.0}) + '{"step": 1, "met')
    carry_over(earlier, later)
    found = sorted(str(path.relative_to(later.directory)) for path in later.directory.rglob("*") if path.is_file())
    assert found == ["checkpoint", "deep/weights", "metrics.jsonl"]
    with later.metrics.open("a") as stream:
        stream.write(metric_line(1, {"x": 2.0}))
    assert read_metrics(later) == [(0, {"x": 1.0}), (1, {"x": 2.0})]
    (earlier.directory / "checkpoint").write_text("a writer that wakes up")
    assert (later.directory / "checkpoint").read_text() == "c", "copied, not linked"


def record(number: int, cause: Cause) -> AttemptRecord:
    return AttemptRecord("s", number, "w", 0.0, 1.0, cause, "", 1.0)


def test_an_attempt_goes_on_from_the_latest_that_began(tmp_path: Path) -> None:
    trial = TrialFiles(tmp_path, "s")
    for number, resumed_from in [(1, None), (2, 1)]:
        trial.attempt(number).directory.mkdir(parents=True)
        trial.attempt(number).began.write_text(json.dumps({"resumed_from": resumed_from}))
    trial.attempt(3).directory.mkdir()
    assert checkpoint(trial, []) is None
    assert checkpoint(trial, [record(1, Cause.CRASH)]) == 1
    assert checkpoint(trial, [record(1, Cause.CRASH), record(2, Cause.LOST), record(3, Cause.STOPPED)]) == 2
    assert checkpoint(trial, [record(1, Cause.CRASH), record(2, Cause.CRASH)]) is None


def test_progress_is_the_last_whole_line_and_only_news(tmp_path: Path) -> None:
    files = AttemptFiles(tmp_path)
    assert latest_metrics(files, 0) is None
    files.metrics.write_text(metric_line(3, {"x": 1.0, "y": float("inf")}) + '{"step": 4')
    latest = latest_metrics(files, 0)
    assert latest is not None
    length, step, metrics = latest
    assert (step, metrics) == (3, {"x": 1.0})
    assert latest_metrics(files, length) is None


def test_a_sign_is_read_by_the_readers_clock_whatever_the_writers_says(tmp_path: Path) -> None:
    class Still:
        now = 0.0

        def now_s(self) -> float:
            return self.now

        def wait(self, seconds: float) -> None:
            self.now += seconds

    clock, file = Still(), tmp_path / "heartbeat"
    file.touch()
    sign = Sign(file, clock)
    for jump in (0, 10**6, -(10**6)):
        clock.wait(5)
        os.utime(file, (1.7e9 + jump, 1.7e9 + jump))
        sign.look()
        assert sign.silence_s == 0
    clock.wait(20)
    sign.look()
    assert sign.silence_s == 20, "it was touched no more, however young its time"


@pytest.mark.parametrize(("trainer", "cause"), [("toy_trainer:train", Cause.STOPPED), ("toy_trainer:forget", Cause.TIMEOUT)])
def test_a_worker_leaves_before_its_time_is_up_and_its_trial_saves_a_checkpoint(tmp_path: Path, trainer: str, cause: Cause) -> None:
    """One that can save none would be stopped so for ever: that counts as a timeout."""
    trial = TrialFiles(tmp_path, "s")
    trial.directory.mkdir(parents=True)
    config = {"steps": 10_000, "seed": 0, "step_s": 0.01, "checkpoint_every": 100_000}
    trial.spec.write_text(TrialSpec("s", 0, config, trainer, "", "").to_json())
    files = WorkerFiles(tmp_path / "workers" / "w1")
    files.create(WorkerSettings(str(tmp_path / "lease"), 60.0, 0.005, [], {}, stay_s=0.5))
    for number in (1, 2):
        order = Order(str(tmp_path), "s", number, None, None)
        (files.inbox / order.file_name).write_text(order.to_json())
    Worker(files, WorkerSettings.read(files)).work()
    outcome = read_outcome(trial.attempt(1))
    assert outcome is not None
    assert outcome.cause is cause
    assert (cause is Cause.TIMEOUT) == ("left no checkpoint" in outcome.message)
    assert cause is Cause.TIMEOUT or json.loads((trial.attempt(1).directory / "checkpoint.json").read_text())[0] > 0
    assert files.leave.exists(), "the controller looks for another worker"
    assert len(files.orders()) == 1, "it took nothing more"
