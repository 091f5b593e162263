"""Stopping and retrying from another shell: real commands on a real study."""

from __future__ import annotations

import time

import pytest
from toyplace import Toyplace

from ablate.trial import TrialState


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
    place.write(step_s=0.15, fault={"kind": "crash", "step": 1, "seed": 1})
    place.broken.touch()
    run = place.start("run", "toy.yaml", "--no-mlflow")
    until_concluded(place, "more")
    place.broken.unlink()
    asked = place.json("retry", "--failed", "toy", "--reopen")
    assert asked["running"] is True
    assert asked["reopened"] == ["more"]
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0, output
    assert output.count("phase more decided") == 2
    assert all(arm["replicates"] == 3 for phase in place.json("report", "toy")["phases"] for arm in phase["arms"])


def until_concluded(place: Toyplace, phase: str) -> None:
    end = time.monotonic() + 40
    while not (place.runs / "toy/ledger.db").exists() or phase not in place.ledger().conclusions():
        assert time.monotonic() < end
        time.sleep(0.02)
