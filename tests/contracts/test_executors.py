"""What every executor must do; real processes, a trainer without torch."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Stage, until

from ablate.errors import Interrupted, StudyBusy
from ablate.execution import pool
from ablate.execution.base import QueueEvent
from ablate.execution.lock import ControllerLock
from ablate.execution.pool import holder, request
from ablate.execution.worker import claim, under_way
from ablate.ledger import Ledger
from ablate.trial import Cause, TrialFiles, TrialState, read_outcome, result_of


@pytest.fixture(params=["inline", "local"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "runs", executor=request.param)
    yield stage
    stage.end_workers()


def test_every_trial_ends_once_whatever_goes_wrong_with_some(stage: Stage, tmp_path: Path) -> None:
    good = [stage.spec(seed) for seed in range(3)]
    crashes_once = stage.spec(10, fault={"kind": "crash", "step": 3, "once": str(tmp_path / "once")})
    crashes = stage.spec(11, fault={"kind": "crash", "step": 2})
    diverges = stage.spec(12, fault={"kind": "nan", "step": 2})
    invalid = stage.spec(13, fault={"kind": "invalid", "step": 0})
    greedy = stage.spec(14, fault={"kind": "memory", "step": 1})
    partly_nan = stage.spec(15, extra={"probe/odd": "nan", "probe/far": "inf"})
    with stage.queue() as queue:
        queue.ledger.add_trials("flags", "crashing arm", [crashes])
        queue.complete([*good, good[0], crashes_once, crashes, diverges, invalid, greedy, partly_nan])
        queue.complete(good)

    stage.check_done([*good, crashes_once])
    assert [stage.starts(seed) for seed in range(3)] == [[0], [0], [0]]
    assert stage.kinds(good[0]) == ["done", "reused"]
    assert stage.kinds(crashes_once) == ["retry", "done"]
    assert stage.starts(10) == [0, 3]
    assert stage.starts(11) == [0, 2, 0], "the last try does without the checkpoint on which the second crashed"
    for spec, cause, tries in [
        (crashes, Cause.CRASH, 3),
        (diverges, Cause.NAN, 1),
        (invalid, Cause.INVALID, 1),
        (greedy, Cause.OUT_OF_MEMORY, 3),
    ]:
        record = stage.record(spec)
        assert (record.state, record.cause, record.attempts) == (TrialState.FAILED, cause, tries)
        assert result_of(stage.root, spec.signature) is None
        claims = [TrialFiles(stage.root, spec.signature).attempt(number).claimed for number in range(1, tries + 1)]
        assert not any(path.exists() for path in claims), "no other study awaits a result"
    message = stage.record(crashes).message
    trial = TrialFiles(stage.root, crashes.signature)
    assert message.startswith("flags/crashing arm r11, attempt 3: crash: RuntimeError: planted crash. Log: ")
    assert "planted crash" in trial.attempt(3).log.read_text()
    assert message.endswith(f" -m ablate.execution.worker {trial.directory}")
    result = result_of(stage.root, partly_nan.signature)
    assert result is not None
    assert result.dropped == ("probe/far", "probe/odd")
    assert set(result.metrics) == {"probe/total"}
    assert {"cpu", "python", "platform", "threads"} <= result.environment.keys()


def test_a_stop_request_keeps_checkpoints_and_the_same_call_goes_on(stage: Stage) -> None:
    specs = [stage.spec(seed, steps=40, step_s=0.02, checkpoint_every=1000) for seed in range(3)]

    def stop_at_first_progress(_: object) -> None:
        if not asked.is_set() and any(e.kind in ("progress", "started") for e in stage.events):
            asked.set()
            timer.start()

    asked = threading.Event()
    timer = threading.Timer(0.2, request, (stage.root, stage.name, "stop"))
    with pytest.raises(Interrupted, match="Nothing is lost"), stage.queue(stop_at_first_progress) as queue:
        queue.complete(specs)
    assert holder(stage.root, stage.name) is None
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    assert {record.state for record in ledger.trials()} == {TrialState.QUEUED}
    stage.complete(specs)
    stage.check_done(specs)
    starts = [stage.starts(seed) for seed in range(3)]
    assert all(found[0] == 0 and all(step > 0 for step in found[1:]) for found in starts)
    assert any(len(found) == 2 for found in starts)


def test_a_trial_over_its_time_is_stopped_and_goes_on_in_the_next_attempt(stage: Stage) -> None:
    stage.timeout_min = 0.4 / 60
    spec = stage.spec(0, steps=30, step_s=0.02, checkpoint_every=1000)
    stage.attempts = 5
    stage.complete([spec])
    stage.check_done([spec])
    outcomes = [read_outcome(TrialFiles(stage.root, spec.signature).attempt(n)) for n in range(1, stage.record(spec).attempts + 1)]
    causes = [outcome.cause for outcome in outcomes if outcome is not None]
    assert set(causes[:-1]) == {Cause.TIMEOUT}
    assert causes[-1] is None


def test_another_study_under_the_same_runs_uses_the_result(stage: Stage) -> None:
    spec = stage.spec(0)
    stage.complete([spec])
    other = Stage(stage.root, executor=stage.executor, name="other")
    other.complete([spec])
    assert other.kinds(spec) == ["reused"]
    assert (other.record(spec).state, other.record(spec).attempts) == (TrialState.DONE, 0)
    assert stage.starts(0) == [0]


def test_a_trial_that_another_study_trains_just_now_is_awaited_as_long_as_that_study_lives(stage: Stage) -> None:
    awaited, dropped, ours = (stage.spec(seed) for seed in range(3))
    Stage(stage.root, executor="inline", name="other").complete([awaited])
    files = TrialFiles(stage.root, awaited.signature)
    files.accepted.rename(files.accepted.with_name(".later"))  # trained, and its study has not looked yet
    for name in ("other", "ended"):
        claim(TrialFiles(stage.root, dropped.signature), study=name)
    lock = ControllerLock(stage.root / "other")
    lock.acquire()

    def accept(event: QueueEvent) -> None:
        if "waits for trials that the study other runs just now" in event.text:
            files.accepted.with_name(".later").rename(files.accepted)

    try:
        with stage.queue(accept) as queue:
            queue.complete([awaited, dropped, ours])
    finally:
        lock.release()
    assert stage.kinds(awaited) == ["reused"]
    assert stage.record(awaited).attempts == 0
    stage.check_done([awaited, dropped, ours])


def test_of_two_studies_that_claim_a_trial_at_once_the_first_one_trains_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one claims between our look and our claim: our first look sees nothing yet."""
    spec = stage.spec(0)
    Stage(stage.root, executor="inline", name="other").complete([spec])
    files = TrialFiles(stage.root, spec.signature)
    files.accepted.rename(files.accepted.with_name(".later"))
    lock = ControllerLock(stage.root / "other")
    lock.acquire()
    looked: list[float] = []

    def look(trial: TrialFiles, above: int, below: float = math.inf) -> str | None:
        looked.append(below)
        return None if len(looked) == 1 else under_way(trial, above, below)

    def accept(event: QueueEvent) -> None:
        if "waits for trials that the study other runs just now" in event.text:
            files.accepted.with_name(".later").rename(files.accepted)

    monkeypatch.setattr(pool, "under_way", look)
    try:
        with stage.queue(accept) as queue:
            queue.complete([spec])
    finally:
        lock.release()
    assert looked[:2] == [math.inf, 2], "looked again below the number that was claimed"
    assert stage.kinds(spec) == ["reused"]
    assert stage.record(spec).attempts == 0
    assert not files.attempt(2).claimed.exists()


def test_a_trial_of_a_study_that_ended_is_trained_here(stage: Stage) -> None:
    spec = stage.spec(0)
    claim(TrialFiles(stage.root, spec.signature), study="ended")
    stage.complete([spec])
    stage.check_done([spec])
    assert stage.record(spec).attempt == 2


def test_a_second_controller_is_refused_and_told_who_holds_the_study(stage: Stage) -> None:
    with stage.queue():
        found = holder(stage.root, stage.name)
        assert found is not None
        assert found["pid"] == os.getpid()
        with pytest.raises(StudyBusy, match=rf"process {os.getpid()} .* runs it since .*ablate stop toy"), stage.queue():
            pass
    assert holder(stage.root, stage.name) is None


def test_a_result_that_was_deleted_is_made_again(stage: Stage) -> None:
    spec = stage.spec(0)
    stage.complete([spec])
    TrialFiles(stage.root, spec.signature).accepted.unlink()
    stage.complete([spec])
    stage.check_done([spec])
    assert stage.record(spec).attempt == 2


def test_a_trainer_that_cannot_be_imported_fails_without_a_second_try(stage: Stage) -> None:
    from dataclasses import replace

    missing = replace(stage.spec(0), trainer="toy_trainer:trian", signature="a" * 20)
    stage.complete([missing])
    record = stage.record(missing)
    assert (record.cause, record.attempts) == (Cause.INVALID, 1)
    assert "toy_trainer has no 'trian'" in record.message


def test_the_orders_and_signs_left_behind_are_none(stage: Stage) -> None:
    stage.complete([stage.spec(0)])
    until(lambda: not any(i.pid != os.getpid() and i.process() for i in stage.worker_identities()))
    assert not list((stage.root / stage.name / "workers").glob("*/inbox/*"))
    assert not list((stage.root / stage.name / "workers").glob("*/current.json"))
    assert json.loads(next(stage.root.glob("trials/*/accepted.json")).read_text()) == {"attempt": 1}
