"""A study in the background, and those who look on."""

from __future__ import annotations

import json
import signal

import pytest
from stage import until
from toyplace import Toyplace

from ablate.execution.base import Identity
from ablate.execution.lock import holder
from ablate.trial import TrialState


def test_a_study_in_the_background_is_watched_from_another_shell_to_its_end(place: Toyplace) -> None:
    place.write(step_s=0.1)
    said = place.ablate("run", "toy.yaml", "--no-mlflow", "--detach")
    assert "To look on: ablate watch toy" in said
    assert "one is starting" in (busy := place.ablate("run", "toy.yaml", "--detach", code=2)) or "runs it since" in busy
    looking = place.start("watch", "toy", "--json")
    leaving = place.start("watch")
    assert leaving.stdout is not None
    assert "phase more" in leaving.stdout.readline()
    leaving.send_signal(signal.SIGINT)
    output, _ = leaving.communicate(timeout=20)
    assert leaving.returncode == 0, output
    assert "toy goes on" in output
    assert holder(place.runs, "toy") is not None, "who looks on and leaves does not end it"
    output, _ = looking.communicate(timeout=60)
    assert looking.returncode == 0, output
    lines = [json.loads(line) for line in output.splitlines()]
    kinds = [line["event"] for line in lines]
    assert [line["phase"] for line in lines if line["event"] == "concluded"] == ["more", "most", "confirmation"]
    assert [line["phase"] for line in lines if line["event"] == "phase"] == ["more", "most", "confirmation"]
    assert kinds[-1] == "end"
    assert lines[-1]["state"] == "done"
    assert kinds.count("done") >= 1, "how many there were before the first look is a matter of luck"
    assert {line["arm"] for line in lines if line["event"] == "done"} >= {"winner r2002"}, "the last ones, of the confirmation"
    assert {record.state for record in place.records()} == {TrialState.DONE}
    assert "toy: done" in place.ablate("watch")
    until(lambda: "winner of most" in (place.runs / "toy/controller.log").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_errors_of_the_study_come_at_once_and_later_ones_stand_in_the_log(place: Toyplace) -> None:
    place.write(more="replicate: 3")
    assert "Did you mean replicates?" in place.ablate("run", "toy.yaml", "--detach", code=2)
    assert not place.runs.exists()
    place.write(more="executor: inline")
    place.ablate("run", "toy.yaml", "--no-mlflow")
    place.write(more="executor: inline\nalpha: 0.01")
    place.ablate("run", "toy.yaml", "--no-mlflow", "--detach")
    identity = Identity.read(place.runs / "toy/controller.json")
    assert identity is not None
    until(lambda: identity.process() is None)
    assert "alpha: 0.05 -> 0.01" in (place.runs / "toy/controller.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_background_study_that_is_stopped_tells_its_watcher(place: Toyplace) -> None:
    place.write(step_s=0.3)
    place.ablate("run", "toy.yaml", "--no-mlflow", "--detach")
    place.wait_for_attempts(1)
    looking = place.start("watch", "toy")
    place.ablate("stop", "--now")
    output, _ = looking.communicate(timeout=30)
    assert looking.returncode == 3, output
    assert "toy: stopped, resumable" in output
    assert "To go on: ablate run toy.yaml" in output
