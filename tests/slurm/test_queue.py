"""Arrays of workers, jobs that wait too long, and many jobs ended at once."""

from __future__ import annotations

import time

import pytest
from cluster import Cluster, until
from stage import Stage

from ablate.errors import AblateError
from ablate.execution import scheduler
from ablate.execution.base import QueueEvent, WorkerFiles, WorkerSettings
from ablate.execution.slurm import Slurm
from ablate.trial import Cause

pytestmark = pytest.mark.slurm


def test_workers_that_are_needed_together_are_one_array(stage: Stage, cluster: Cluster) -> None:
    stage.more = {"slurm": {"array": True, "time_min": 5}}
    stage.workers = 3
    specs = [stage.spec(seed, steps=20, step_s=0.05) for seed in range(6)]
    seen: set[str] = set()

    def look(event: QueueEvent) -> None:
        if event.kind == "done":
            seen.update(cluster.run("squeue", "-h", "-r", "-o", "%i").split())

    with stage.queue(look) as queue:
        queue.complete(specs)
    stage.check_done(specs)
    assert seen
    (number,) = {job.partition("_")[0] for job in seen}
    assert seen <= {f"{number}_{index}" for index in range(3)}


def test_an_array_is_adopted_and_one_of_its_jobs_may_be_lost(stage: Stage, cluster: Cluster) -> None:
    """The controller is killed, one element cancelled; the rest is found again by its name and place."""
    stage.more = {"slurm": {"array": True}}
    specs = [stage.spec(seed, steps=40, step_s=0.05, checkpoint_every=5) for seed in range(2)]
    controller = stage.start_controller(specs)
    until(lambda: len(list(stage.counts.iterdir())) >= 2, 60)
    controller.kill()
    controller.communicate()
    first, _ = sorted(cluster.run("squeue", "-h", "-r", "-o", "%i").split())
    assert first.endswith("_0")
    cluster.run("scancel", first)
    stage.complete(specs)
    stage.check_done(specs)
    assert sorted(len(stage.starts(seed)) for seed in range(2)) == [1, 2]
    assert {cause for spec in specs for cause in stage.causes(spec)} == {None, Cause.STOPPED}


def blocked(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")


def test_a_job_that_waits_too_long_is_said_and_goes_on_waiting(stage: Stage, cluster: Cluster) -> None:
    blocked(cluster)
    stage.more = {"slurm": {"pending_min": 2 / 60}}
    stage.workers = 1
    said: list[str] = []

    def look(event: QueueEvent) -> None:
        if "pending_min" in event.text:
            said.append(event.text)
            for node in ("n1", "n2"):
                cluster.run("scontrol", "update", f"nodename={node}", "state=resume")

    with stage.queue(look) as queue:
        queue.complete([stage.spec(0)])
    stage.check_done([stage.spec(0)])
    assert len(said) == 1, "once a job"
    assert said[0].startswith("has waited longer than slurm.pending_min (0.0333 min): ")


def test_a_job_that_waits_too_long_is_taken_back_where_that_is_asked(stage: Stage, cluster: Cluster) -> None:
    blocked(cluster)
    stage.more = {"slurm": {"pending_min": 2 / 60, "pending_then": "take_back"}}
    with pytest.raises(AblateError, match=r"no job of Slurm began within slurm\.pending_min"):
        stage.complete([stage.spec(0), stage.spec(1)])
    until(lambda: not cluster.jobs(), 20)
    cluster.quiet()
    stage.complete([stage.spec(0), stage.spec(1)])
    stage.check_done([stage.spec(0), stage.spec(1)])


def test_with_too_few_places_the_study_goes_on_with_the_jobs_that_run(stage: Stage, cluster: Cluster) -> None:
    cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    stage.more = {"slurm": {"pending_min": 3 / 60, "pending_then": "take_back"}, "threads_per_worker": 2}
    specs = [stage.spec(seed, steps=80, step_s=0.05) for seed in range(3)]
    stage.complete(specs)
    stage.check_done(specs)
    taken = [event for event in stage.events if "taken back" in event.text]
    assert len(taken) == 1, "and not asked for again"


def test_many_jobs_are_ended_in_one_call_and_no_call_keeps_the_controller_waiting(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    real = scheduler.answered

    def slow(command: list[str], patience_s: float | None = None) -> str | None:
        if command[0] == "scancel":
            calls.append(command)
        time.sleep(0.7)  # a Slurm that takes its time
        return real(command, patience_s)

    blocked(cluster)
    study = stage.study()
    fleet = [WorkerFiles(stage.root / "toy" / "workers" / f"w{index}") for index in range(5)]
    settings = settings_of(stage)
    for files in fleet:
        files.create(settings)
    executor = Slurm(study, 10.0)
    executor.submit(fleet)
    until(lambda: len(cluster.jobs()) == 5, 60)
    executor.poll()
    monkeypatch.setattr(scheduler, "answered", slow)
    longest = 0.0
    for files in fleet[:4]:
        executor.cancel(files)
    end = time.monotonic() + 30
    while len(cluster.jobs()) > 1 and time.monotonic() < end:
        began = time.perf_counter()
        executor.poll()
        longest = max(longest, time.perf_counter() - began)
    executor.close()
    assert not cluster.jobs(), "what still waited was taken back"
    assert [len(call) - 1 for call in calls] == [4, 1]
    assert longest < 0.7, "a turn never waits for an answer"


def settings_of(stage: Stage) -> WorkerSettings:
    """As the study's own workers get them."""
    with stage.queue() as queue:
        return queue._fleet.settings
