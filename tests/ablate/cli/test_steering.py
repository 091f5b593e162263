"""Stopping and retrying from another shell: real commands on a real study."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from stage import Stage
from toyplace import Toyplace

from ablate.cli.finding import SHOWN_NAMES
from ablate.cli.steering import retry
from ablate.cli.trials import log_of
from ablate.errors import StudyError
from ablate.execution.requests import retry as queue_again
from ablate.execution.requests import waiting
from ablate.ledger import Ledger
from ablate.study import Arm
from ablate.trial import Cause, TrialState


def test_stop_waits_for_the_end_and_the_same_command_goes_on(place: Toyplace) -> None:
    place.write(step_s=0.1)
    run = place.start("run", "toy.yaml", "--no-mlflow")
    place.wait_for_attempts(1)
    said = place.json("stop")
    output, _ = run.communicate(timeout=30)
    assert run.returncode == 3, output
    assert said["stopped"] is True
    assert "running trials save a checkpoint first" in said["said"]
    assert "`ablate run` goes on" in said["said"]
    assert place.json("stop", "toy")["said"] == "toy is not running. Nothing to stop."
    place.ablate("run", "toy.yaml", "--no-mlflow")
    assert {record.state for record in place.records()} == {TrialState.DONE}


@pytest.mark.slow
def test_a_retry_between_runs_keeps_the_decision_unless_asked_to_reopen(place: Toyplace) -> None:
    place.write(fault={"kind": "crash", "step": 1, "seed": 1}, more="executor: inline")
    place.broken.touch()
    place.ablate("run", "toy.yaml", "--no-mlflow", code=1)
    before = place.json("report", "toy")
    assert len(before["failed_trials"]) == 3, "replicate 1 of the baseline, and of 6 and of 8 steps"
    place.broken.unlink()

    missing = place.ablate("retry", "more/steps=7/r1", code=2)
    assert "no such trial. Did you mean more/" in missing
    done = next(record.signature for record in place.records() if record.state is TrialState.DONE)
    assert "expected a trial that failed for good but it is done" in place.ablate("retry", done, code=2)

    asked = place.json("retry", "--failed")
    assert asked["kept"] == ["more", "most"]
    assert "With --reopen they are decided anew" in asked["said"]
    assert place.json("status", "toy")["requests"] == 1
    place.ablate("run", "toy.yaml", "--no-mlflow")
    after = place.json("report", "toy")
    assert after["failed_trials"] == []
    assert [arm["replicates"] for arm in after["phases"][0]["arms"]] == [2, 2]
    assert "concluded and kept as decided: more, most" in " ".join(event.text for event in place.ledger().events())


@pytest.mark.slow
def test_a_retry_with_reopen_takes_the_decisions_anew(place: Toyplace) -> None:
    place.write(fault={"kind": "crash", "step": 1, "seed": 1}, more="executor: inline")
    place.broken.touch()
    place.ablate("run", "toy.yaml", "--no-mlflow", code=1)
    place.broken.unlink()
    assert place.json("retry", "--failed", "toy", "--reopen")["reopened"] == ["more", "most"]
    place.ablate("run", "toy.yaml", "--no-mlflow")
    document = place.json("report", "toy")
    assert all(arm["replicates"] == 3 for phase in document["phases"] for arm in phase["arms"])
    assert document["failed_trials"] == []


@pytest.mark.slow
def test_a_retry_with_reopen_while_it_runs_begins_at_the_reopened_phase(place: Toyplace) -> None:
    place.write(step_s=0.4, fault={"kind": "crash", "step": 1, "seed": 1})
    place.broken.touch()
    run = place.start("run", "toy.yaml", "--no-mlflow")
    until_concluded(place, "more")
    place.broken.unlink()
    asked = place.json("retry", "--failed", "toy", "--reopen")
    assert asked["running"] is True
    assert asked["reopened"] == ["more"]
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert output.count("phase more decided") == 2
    assert all(arm["replicates"] == 3 for phase in place.json("report", "toy")["phases"] for arm in phase["arms"])


def until_concluded(place: Toyplace, phase: str) -> None:
    end = time.monotonic() + 40
    while not (place.runs / "toy/ledger.db").exists() or phase not in place.ledger().conclusions():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_retry_of_many_names_some_and_counts_the_rest(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "runs")
    specs = [stage.spec(seed) for seed in range(SHOWN_NAMES + 3)]
    ledger = Ledger(stage.root / "toy" / "ledger.db")
    ledger.add_arms("p", [Arm(name="baseline", levels={})])
    ledger.add_trials("p", "baseline", specs)
    for spec in specs:
        ledger.finish_attempt(spec.signature, ledger.start_attempt(spec.signature, "w"), cause=Cause.NAN, message="", seconds=1.0)
    found = retry(stage.root, None, "toy", failed=True, reopen=False)
    assert len(found["trials"]) == len(specs)
    assert "p/baseline/r0, p/baseline/r1, " in found["said"]
    assert f"p/baseline/r{SHOWN_NAMES - 1} and 3 more; " in found["said"]
    (asked,) = waiting(stage.root, "toy")
    done = queue_again(ledger, stage.study(), asked)
    ledger.close()
    assert set(done.signatures) == {spec.signature for spec in specs}
    assert done.said == f"{len(specs)} failed trials queued again"


def test_logs_of_a_trial_whose_files_are_gone_say_that(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "runs", executor="inline")
    spec = stage.spec(0)
    with stage.queue() as queue:
        queue.ledger.add_trials("p", "baseline", [spec])
        with pytest.raises(StudyError, match=r"no attempt was started \(it is queued\)"):
            log_of(stage.root, "p/baseline/r0", "toy", None)
        queue.complete([spec])
    shutil.rmtree(stage.root / "trials")
    with pytest.raises(StudyError, match=r"its files are no longer under .* \(it is done\)"):
        log_of(stage.root, "p/baseline/r0", "toy", None)
