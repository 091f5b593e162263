"""Requests: understood, taken up once, on record, whatever somebody puts into the folder."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import Stage, until

from ablate.errors import Interrupted
from ablate.execution import requests
from ablate.execution.requests import What, request, waiting
from ablate.ledger import Ledger
from ablate.trial import Cause, TrialFiles, TrialState


@pytest.fixture(params=["inline", "local"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "runs", executor=request.param)
    yield stage
    stage.end_workers()


def said(stage: Stage) -> list[str]:
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    return [event.text.partition(": ")[2] for event in ledger.events() if event.kind == "request"]


def test_a_request_is_written_whole_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert waiting(tmp_path, "s") == []
    path = request(tmp_path, "s", What.RETRY, trials=("a", "b"), reopen=True)
    assert json.loads(path.read_text()) == {"what": "retry", "trials": ["a", "b"], "reopen": True}
    request(tmp_path, "s", "stop")
    assert [(asked.what, asked.trials, asked.reopen) for asked in waiting(tmp_path, "s")] == [
        (What.RETRY, ("a", "b"), True),
        (What.STOP, (), False),
    ]
    assert requests.stop_wanted(tmp_path, "s")
    with pytest.raises(ValueError, match="dance"):
        request(tmp_path, "s", "dance")


GARBAGE = ["", "{", "[]", "null", '{"what": "dance"}', '{"what": ["stop"]}', '{"what": "retry", "trials": 7}', "\x00\xff"]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_named_and_put_away_and_harms_nothing(tmp_path: Path, text: str) -> None:
    stage = Stage(tmp_path / "runs", executor="inline")
    folder = stage.root / stage.name / "requests"
    folder.mkdir(parents=True)
    file = folder / "garbage.json"
    file.write_text(text)
    os.utime(file, (time.time() - 60, time.time() - 60))
    spec = stage.spec(0)
    stage.complete([spec])
    stage.check_done([spec])
    assert len(said(stage)) == 1
    assert said(stage)[0].startswith("not understood: ")
    assert list(folder.iterdir()) == []


def test_a_file_that_is_still_being_written_is_left_alone_for_a_moment(tmp_path: Path) -> None:
    (tmp_path / "s" / "requests").mkdir(parents=True)
    file = tmp_path / "s" / "requests" / "1.json"
    file.write_text('{"wh')
    assert waiting(tmp_path, "s") == []
    os.utime(file, (time.time() - 2, time.time() - 2))
    assert [asked.what for asked in waiting(tmp_path, "s")] == [None]


def test_a_stop_from_before_the_run_is_void(stage: Stage) -> None:
    (stage.root / stage.name).mkdir(parents=True)
    request(stage.root, stage.name, "stop")
    spec = stage.spec(0)
    stage.complete([spec])
    stage.check_done([spec])
    assert said(stage) == ["stop: it came while nothing ran, and is void"]


@pytest.mark.slow
def test_stop_now_does_not_wait_for_a_checkpoint(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "runs")
    specs = [
        stage.spec(seed, steps=3, checkpoint_every=1, fault={"kind": "hang", "step": 2, "once": str(tmp_path / f"{seed}")})
        for seed in (0, 1)
    ]
    hanging = [tmp_path / "0", tmp_path / "1"]
    asker = threading.Thread(target=lambda: (until(lambda: all(p.exists() for p in hanging)), request(stage.root, stage.name, "stop_now")))
    asker.start()
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted, match="Nothing is lost"):
            stage.complete(specs)
        took = time.monotonic() - began
    finally:
        asker.join()
        workers = stage.worker_identities()
        stage_ended = not any(identity.process() for identity in workers)
    assert took < stage.timing.stop_s, "a trial that hangs would have been waited for"
    assert stage_ended
    stage.complete(specs)
    stage.check_done(specs)
    assert [stage.starts(seed) for seed in (0, 1)] == [[0, 2], [0, 2]]


def test_a_failed_trial_gets_a_fresh_row_of_attempts_at_the_next_run(stage: Stage, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    mended = stage.spec(0, fault={"kind": "crash", "step": 1, "while": str(broken)})
    hopeless = stage.spec(1, fault={"kind": "crash", "step": 1})
    stage.complete([mended, hopeless])
    assert {stage.record(spec).state for spec in (mended, hopeless)} == {TrialState.FAILED}
    broken.unlink()
    for _ in range(2):
        request(stage.root, stage.name, "retry", trials=(mended.signature, hopeless.signature, "unknown"))
    stage.complete([mended, hopeless])
    stage.check_done([mended])
    record = stage.record(hopeless)
    assert (record.state, record.cause, record.attempts) == (TrialState.FAILED, Cause.CRASH, 6)
    assert said(stage) == [
        "retry: 2 failed trials queued again; no failed trial of this study: unknown",
        f"retry: 0 failed trials queued again; no failed trial of this study: {mended.signature}, {hopeless.signature}, unknown",
    ]


def test_a_failed_trial_runs_again_while_the_controller_runs(stage: Stage, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    fails = stage.spec(0, fault={"kind": "nan", "step": 1, "while": str(broken)})
    slow = stage.spec(1, steps=60, step_s=0.02)

    def mend(event: Any) -> None:
        if event.kind == "failed":
            broken.unlink()
            request(stage.root, stage.name, "retry", trials=(fails.signature,))

    with stage.queue(mend) as queue:
        queue.complete([fails, slow])
    stage.check_done([fails, slow])
    assert stage.kinds(fails) == ["failed", "done"]
    assert stage.starts(0) == [0, 0], "numbers that went wrong are no place to go on from"


def test_a_request_that_an_earlier_controller_put_on_record_is_not_taken_up_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "runs", executor="inline")
    spec = stage.spec(0, fault={"kind": "nan", "step": 1})
    stage.complete([spec])
    path = request(stage.root, stage.name, "retry", trials=(spec.signature,))
    text = path.read_text()
    stage.complete([spec])
    assert not path.exists()
    path.write_text(text)
    stage.complete([spec])
    assert not path.exists()
    assert stage.record(spec).attempts == 2
    assert TrialFiles(stage.root, spec.signature).attempt(2).directory.exists()
