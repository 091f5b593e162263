"""A trial that two tasks on two nodes train together, with the real trainer over gloo: the same as in one process."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cluster import Cluster
from stage import Stage, expected_total

from ablate.command import Command
from ablate.errors import StudyError
from ablate.execution.base import Identity, QueueEvent
from ablate.execution.sbatch import check
from ablate.trial import Cause, TrialFiles, TrialSpec, read_metrics, result_of, signature_of
from trainer import checkpoint
from trainer.config import from_mapping
from trainer.train import train

pytestmark = pytest.mark.slurm

TINY: dict[str, object] = {
    "data.phantom.size_voxels": 32,
    "data.phantom.scans": 6,
    "data.rotate_split_below": 0,
    "crops.global_size_voxels": 12,
    "crops.local_size_voxels": 6,
    "crops.local_crops": 2,
    "model.patch_size_voxels": 3,
    "model.dim": 12,
    "model.depth": 1,
    "model.heads": 2,
    "model.head_hidden": 16,
    "model.bottleneck": 8,
    "model.prototypes": 8,
    "loop.steps": 6,
    "loop.warmup_steps": 2,
    "loop.batch_size": 4,
    "measure.every_steps": 1,
    "measure.crops_per_scan": 4,
    "measure.background_crops_per_scan": 2,
    "seed": 3,
}


class Alone:
    """One process, without the platform."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines: list[tuple[int, dict[str, float]]] = []
        directory.mkdir()

    def report(self, step: int, metrics: dict[str, float]) -> bool:
        self.lines.append((step, dict(metrics)))
        return True


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    run = Alone(tmp_path_factory.mktemp("alone") / "run")
    train(TINY, run)
    return run


def weights(directory: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(directory, from_mapping(TINY), torch.device("cpu"))
    assert state is not None
    return {f"{net}.{name}": value for net in ("student", "teacher") for name, value in state["learner"][net].items()}


def spec_of(command: Command | None) -> TrialSpec:
    said = None if command is None else command.model_dump(mode="json")
    return TrialSpec(signature_of({**TINY, "as": said is None}, {}, "code", ""), 0, TINY, "trainer.train:train", "code", "", said)


@pytest.mark.parametrize("how", ["callable", "command"])
def test_two_tasks_on_two_nodes_train_what_one_process_trains(stage: Stage, cluster: Cluster, alone: Alone, how: str) -> None:
    stage.more = {"tasks_per_trial": 2, "slurm": {"nodes_per_worker": 2, "time_min": 5}}
    stage.workers = 1
    printed = r"step (?P<step>\d+)/.* loss_total (?P<loss>\S+)"
    command = Command(  # type: ignore[call-arg]
        command=[sys.executable, "-m", "trainer", "{config}", "out={directory}"], config="hydra", metrics={"pattern": printed}
    )
    spec = spec_of(command if how == "command" else None)
    nodes: set[str] = set()

    def look(_: object) -> None:
        nodes.update(cluster.run("squeue", "-h", "-o", "%D|%C|%t").split())

    with stage.queue(look) as queue:
        queue.complete([spec])
    result = result_of(stage.root, spec.signature)
    assert result is not None, stage.record(spec)
    assert "2|2|R" in nodes, "two nodes, a CPU of each"
    files = TrialFiles(stage.root, spec.signature).attempt(result.attempt)
    directory = files.directory / "command" if how == "command" else files.directory
    torch.testing.assert_close(weights(directory), weights(alone.directory), atol=1e-5, rtol=1e-5)
    assert result.environment["tasks"] == "2"
    if how == "callable":
        for (step, found), (same, expected) in zip(read_metrics(files), alone.lines, strict=True):
            assert step == same
            losses = {name: value for name, value in expected.items() if name.startswith("train/loss_")}
            assert "train/loss_total" in losses
            assert {name: found[name] for name in losses} == pytest.approx(losses, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("how", ["a task is killed", "the job is cancelled", "its time is nearly up"])
def test_whatever_ends_a_job_of_several_tasks_its_trial_goes_on(stage: Stage, cluster: Cluster, how: str) -> None:
    stage.more = {"tasks_per_trial": 2, "slurm": {"nodes_per_worker": 2, "time_min": 5}}
    stage.workers = 1
    every = 5 if how == "a task is killed" else 1000  # told in time, it saves one by itself
    spec = replace(stage.spec(0, steps=60, step_s=0.05, checkpoint_every=every, together=True), trainer="toy_trainer:train_together")
    struck: list[str] = []

    def strike(event: QueueEvent) -> None:
        if event.kind != "progress" or (event.step or 0) < 6 or struck:
            return
        struck.extend(cluster.jobs())
        if how == "a task is killed":
            (follower,) = (Identity.read(path) for path in stage.root.glob("toy/workers/*/tasks/1.json"))
            assert follower is not None
            os.kill(follower.pid, signal.SIGKILL)
        elif how == "the job is cancelled":
            cluster.run("scancel", *struck)
        else:
            cluster.run("scancel", "--signal=USR2", *struck)  # what Slurm itself sends

    with stage.queue(strike) as queue:
        queue.complete([spec])
    assert struck
    assert stage.causes(spec) == [Cause.LOST if how == "a task is killed" else Cause.STOPPED, None]
    result = result_of(stage.root, spec.signature)
    assert result is not None
    first = stage.starts(0)
    assert first[0] == 0
    assert first[1] > 0, "from a checkpoint"
    assert result.metrics["probe/total"] == pytest.approx(expected_total(60, 0))


def test_more_tasks_than_the_cluster_has_places_for_are_refused(stage: Stage, cluster: Cluster) -> None:
    study = stage.study().model_copy(update={"tasks_per_trial": 64})
    with pytest.raises(StudyError, match="sbatch says"):
        check(study)
