"""Trials that several tasks train together on this machine: real processes, real sockets between them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError
from stage import Stage, until

from ablate.command import Command
from ablate.errors import StudyError
from ablate.execution.base import Identity, Order, QueueEvent
from ablate.execution.slots import Slots
from ablate.execution.watch import Limits, Running, exceeded
from ablate.study import Study
from ablate.trial import AttemptFiles, Cause, TrialFiles, TrialSpec, TrialState, result_of


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "runs", workers=1)
    stage.more = {"tasks_per_trial": 2}
    yield stage
    stage.end_workers()
    until(lambda: not followers(stage), 20)


def followers(stage: Stage) -> list[psutil.Process]:
    """The tasks beside the first that still run."""
    found = [Identity.read(path) for path in stage.root.glob("*/workers/*/tasks/[0-9].json")]
    return [process for identity in found if identity is not None and (process := identity.process()) is not None]


def together(stage: Stage, seed: int, steps: int = 5, **config: Any) -> TrialSpec:
    spec = stage.spec(seed, steps, together=True, **config)
    return replace(spec, trainer="toy_trainer:train_together")


def attempt(stage: Stage, spec: TrialSpec, number: int = 1) -> AttemptFiles:
    return TrialFiles(stage.root, spec.signature).attempt(number)


def test_two_tasks_train_one_trial_after_the_other_and_the_first_alone_reports(stage: Stage) -> None:
    specs = [together(stage, seed) for seed in range(3)]
    stage.complete(specs)
    stage.check_done(specs)
    assert [stage.starts(seed) for seed in range(3)] == [[0], [0], [0]]
    assert "rank 0 of 2" in attempt(stage, specs[2]).log.read_text()
    assert "rank 1 of 2" in attempt(stage, specs[2]).log_of(1).read_text()
    result = result_of(stage.root, specs[0].signature)
    assert result is not None
    assert result.environment["tasks"] == "2"
    until(lambda: not followers(stage))


@pytest.mark.parametrize(("kind", "cause", "tries"), [("memory", Cause.OUT_OF_MEMORY, 2), ("invalid", Cause.INVALID, 1)])
def test_what_strikes_another_task_is_the_trials_own_cause(stage: Stage, kind: str, cause: Cause, tries: int) -> None:
    stage.attempts = 2
    struck, well = together(stage, 0, rank_fault={"kind": kind, "step": 2}), together(stage, 1)
    stage.complete([struck, well])
    record = stage.record(struck)
    assert (record.state, record.cause, record.attempts) == (TrialState.FAILED, cause, tries)
    assert "Task 1: " in record.message
    assert "planted" in record.message
    stage.check_done([well])
    assert "planted" in attempt(stage, struck).log_of(1).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_is_killed_costs_its_trial_nothing(stage: Stage, rank: int) -> None:
    spec, struck = together(stage, 0, steps=40, step_s=0.05), list[int]()

    def strike(event: QueueEvent) -> None:
        if event.kind == "progress" and not struck:
            pids = [identity.pid for identity in stage.worker_identities()] if rank == 0 else [process.pid for process in followers(stage)]
            struck.extend(pids)
            os.kill(pids[0], signal.SIGKILL)

    with stage.queue(strike) as queue:
        queue.complete([spec])
    stage.check_done([spec])
    assert stage.causes(spec) == [Cause.LOST, None]
    stage.check_nothing_done_again(spec)


@pytest.mark.slow
def test_a_trial_over_its_time_is_stopped_by_its_first_task_and_goes_on(stage: Stage) -> None:
    stage.timeout_min, stage.attempts = 0.6 / 60, 9
    spec = together(stage, 0, steps=30, step_s=0.04, checkpoint_every=1000)
    stage.complete([spec])
    stage.check_done([spec])
    assert set(stage.causes(spec)[:-1]) == {Cause.TIMEOUT}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"executor": "inline"}, "tasks_per_trial: expected 1 with executor=inline"),
        ({"trials_per_gpu": 2}, "trials_per_gpu: expected 1 with tasks_per_trial=4"),
        ({"executor": "slurm", "slurm": {"nodes_per_worker": 3}}, "expected a multiple of slurm.nodes_per_worker=3 but got 4"),
        ({"executor": "slurm", "slurm": {"nodes_per_worker": 2, "gpus_per_worker": 3}}, "slurm.gpus_per_worker: expected a multiple"),
    ],
)
def test_what_cannot_be_is_refused_in_words(changes: dict[str, Any], said: str) -> None:
    document = Stage(Path(".")).study().model_dump(by_alias=True, exclude_unset=True)
    with pytest.raises(ValidationError, match=said):
        Study.model_validate(document | {"tasks_per_trial": 4} | changes)


def test_each_task_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Stage(Path("."), more={"tasks_per_trial": 2}).study()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6,7")
    slots = Slots.of(study)
    assert (slots.devices, slots.gpus_each) == (("3,4", "5,6"), 2.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(StudyError, match=r"tasks_per_trial: expected at most a task for each GPU \(1\) but got 2"):
        Slots.of(study)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Slots.of(study).devices == ()


COMMAND = """
import json, os, socket, sys, time
out, rank, place = sys.argv[1], int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(place) as server, server.accept()[0].makefile("r") as other:
        value = float(other.readline())
    with open(out + "/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 1, "probe/total": value}) + "\\n")
else:
    for _ in range(500):
        try:
            with socket.create_connection(place) as one:
                one.sendall(b"42\\n")
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    print("sent", flush=True)
"""


@pytest.mark.slow
def test_a_command_runs_on_every_task(stage: Stage, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(COMMAND)
    command = Command(command=[sys.executable, str(script), "{directory}"], config="json", metrics={"file": "metrics.jsonl"})  # type: ignore[arg-type]
    spec = replace(stage.spec(0), trainer="script", command=command.model_dump(mode="json"))
    stage.complete([spec])
    result = result_of(stage.root, spec.signature)
    assert result is not None, stage.record(spec)
    assert result.metrics == {"probe/total": 42.0}
    assert "sent" in attempt(stage, spec).log_of(1).read_text()


def test_a_flood_of_another_tasks_output_is_seen(tmp_path: Path) -> None:
    running = Running(Order(str(tmp_path), "s", 1, None, None), AttemptFiles(tmp_path), began=0.0)
    limits = Limits.of(Stage(tmp_path, more={"tasks_per_trial": 3}).study(), 0.0)
    running.files.log_of(2).write_bytes(b"x" * 2000)
    assert exceeded(running, replace(limits, most_bytes=3000), 1.0) is None
    found = exceeded(running, replace(limits, most_bytes=1000), 1.0)
    assert found is not None
    assert found[0] is Cause.FLOOD
