"""Trials and their logs, from any shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stage import Stage, until
from toyplace import Toyplace

from ablate.cli.finding import the_trial
from ablate.cli.trials import follow, log_of, log_text, trials_of, why
from ablate.errors import StudyError
from ablate.execution.attempt import run_attempt
from ablate.execution.base import Order
from ablate.execution.lock import ControllerLock
from ablate.study import Arm
from ablate.trial import TrialFiles


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Two arms of two replicates; one of them crashes always."""
    stage = Stage(tmp_path / "runs", executor="inline")
    specs = {
        "baseline": [stage.spec(0), stage.spec(1)],
        "a=1, b=[2, 3]": [stage.spec(2), stage.spec(3, fault={"kind": "crash", "step": 2})],
    }
    with stage.queue() as queue:
        for name, found in specs.items():
            queue.ledger.add_arms("p", [Arm(name=name, levels={})])
            queue.ledger.add_trials("p", name, found)
        queue.complete([spec for found in specs.values() for spec in found])
    return stage


def test_every_trial_has_its_place_state_and_cause_in_a_line(stage: Stage) -> None:
    rows = trials_of(stage.root, "toy")["trials"]
    assert [row["state"] for row in rows] == ["done", "done", "done", "failed"]
    (failed,) = trials_of(stage.root, "toy", state="failed")["trials"]
    assert failed["places"] == ["p/a=1, b=[2, 3]/r3"]
    assert (failed["cause"], failed["why"], failed["attempts"]) == ("crash", "crash: RuntimeError: planted crash", 3)
    assert len(trials_of(stage.root, "toy", arm="baseline", phase="p")["trials"]) == 2


def test_unknown_filters_are_named_all_at_once_with_the_nearest(stage: Stage) -> None:
    with pytest.raises(StudyError) as caught:
        trials_of(stage.root, "toy", state="fialed", phase="q", arm="basline")
    assert "Did you mean failed?" in str(caught.value)
    assert "--phase q: there is none. Known: p." in str(caught.value)
    assert "Did you mean baseline?" in str(caught.value)


def test_a_trial_is_found_by_its_place_and_by_any_unique_beginning(stage: Stage) -> None:
    signature = trials_of(stage.root, "toy", state="failed")["trials"][0]["signature"]
    for text in ("p/a=1, b=[2, 3]/r3", "p/a=1, b=[2, 3] r3", signature, signature[:6]):
        assert the_trial(stage.root, text, None) == ("toy", signature)
        assert the_trial(stage.root, text, "toy") == ("toy", signature)
    for text, said in [("p/basline/r0", "Did you mean p/baseline/r0?"), ("zzz", "no such trial"), ("", "no such trial")]:
        with pytest.raises(StudyError) as caught:
            the_trial(stage.root, text, "toy")
        assert said in str(caught.value)
        assert "`ablate trials` lists all" in str(caught.value)
    with pytest.raises(StudyError, match=r"no such study has run here\. Did you mean toy"):
        the_trial(stage.root, "p/baseline/r0", "tyo")


def test_a_beginning_that_several_share_is_told_apart(stage: Stage) -> None:
    signatures = [row["signature"] for row in trials_of(stage.root, "toy")["trials"]]
    other = Stage(stage.root, executor="inline", name="other")
    spec = other.spec(0)
    other.complete([spec])
    assert the_trial(stage.root, spec.signature, None)[1] == spec.signature, "one trial of two studies is one trial"
    twins = [s for s in signatures if sum(o[0] == s[0] for o in signatures) > 1]
    for twin in twins:
        with pytest.raises(StudyError, match="expected one trial but"):
            the_trial(stage.root, twin[0], "toy")


def test_messages_are_cut_to_their_cause() -> None:
    assert why("flags/a r1, attempt 3: nan: FloatingPointError: it is: bad. Log: /x/log.txt. To run it alone: y") == (
        "nan: FloatingPointError: it is: bad"
    )
    assert why("") == ""
    assert why("Its process was killed.\nmore") == "Its process was killed."


def test_logs_of_the_latest_attempt_an_earlier_one_and_their_tails(stage: Stage) -> None:
    document, files = log_of(stage.root, "p/a=1, b=[2, 3]/r3", None, None)
    assert (document["attempt"], document["state"]) == (3, "failed")
    assert "RuntimeError: planted crash" in log_text(files, None)
    assert log_text(files, 1) == "RuntimeError: planted crash\n"
    assert log_text(files, 0) == ""
    assert log_of(stage.root, "p/a=1, b=[2, 3]/r3", None, 1)[1].directory.name == "0001"
    with pytest.raises(StudyError, match="--attempt 9: expected one of 1, 2, 3"):
        log_of(stage.root, "p/a=1, b=[2, 3]/r3", None, 9)


def test_a_log_is_followed_to_the_end_of_its_attempt(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "runs")
    spec = stage.spec(0, steps=8, step_s=0.02)
    trial = TrialFiles(stage.root, spec.signature)
    files = trial.attempt(1)
    files.directory.mkdir(parents=True)
    trial.spec.write_text(spec.to_json())
    files.log.write_text("before\n")
    heard: list[str] = []

    def hear(text: str) -> None:
        if not heard:
            with files.log.open("a", encoding="utf-8") as log:
                log.write("größer\n")
            run_attempt(Order(str(stage.root), spec.signature, 1, None, None))
        heard.append(text)

    lock = ControllerLock(stage.root / "toy")
    lock.acquire()
    try:
        follow(stage.root, "toy", files, 1, hear)
    finally:
        lock.release()
    assert "".join(heard) == "before\ngrößer\n"


@pytest.mark.slow
def test_the_commands_print_and_speak_json(place: Toyplace) -> None:
    place.write(step_s=0.15, fault={"kind": "nan", "step": 1, "seed": 1})
    place.broken.touch()
    run = place.start("run", "toy.yaml", "--no-mlflow")
    place.wait_for_attempts(1)
    followed = place.ablate("logs", "more/baseline/r0", "--follow")
    assert "training from 0" in followed
    until(lambda: any(record.state == "failed" for record in place.records()))
    assert {row["cause"] for row in place.json("trials", "--state", "failed")["trials"]} == {"nan"}
    assert "nan: FloatingPointError: planted nan" in place.ablate("trials", "toy", "--state", "failed")
    logged = json.loads(place.ablate("logs", "more/baseline/r1", "toy", "--tail", "1", "--json"))
    assert logged["text"] == "FloatingPointError: planted nan\n"
    assert "Did you mean more/baseline/r1?" in place.ablate("logs", "more/baselin/r1", code=2)
    place.ablate("stop", "--now")
    run.communicate(timeout=20)
