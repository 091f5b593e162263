"""What happens to jobs on a real Slurm: killed, preempted, cancelled, out of time, requeued, a node gone, a queue that does not move."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, until
from stage import Stage

from ablate.errors import Interrupted, StudyError
from ablate.execution.base import QueueEvent
from ablate.execution.requests import request
from ablate.execution.sbatch import check
from ablate.execution.scheduler import jobs_of, minutes_of
from ablate.study import Slurm
from ablate.trial import Cause, TrialSpec

pytestmark = pytest.mark.slurm


def during(stage: Stage, specs: list[TrialSpec], strike: Callable[[], None]) -> None:
    """Complete the trials; the fault strikes when the first is well on its way."""
    struck = threading.Event()

    def look(_: object) -> None:
        if not struck.is_set() and any(event.kind == "progress" and (event.step or 0) >= 3 for event in stage.events):
            struck.set()
            strike()

    with stage.queue(look) as queue:
        queue.complete(specs)
    assert struck.is_set()


def long(stage: Stage, seed: int = 0) -> TrialSpec:
    return stage.spec(seed, steps=60, step_s=0.05, checkpoint_every=5)


def test_a_controller_that_is_killed_finds_its_workers_and_jobs_again(stage: Stage, cluster: Cluster) -> None:
    specs = [long(stage, seed) for seed in range(3)]
    controller = stage.start_controller(specs)
    until(lambda: len(list(stage.counts.iterdir())) >= 2, 60)
    controller.kill()
    controller.communicate()
    before = set(cluster.jobs())
    stage.complete(specs)
    stage.check_done(specs)
    assert [event.kind for event in stage.events].count("adopted") >= 2
    assert len(before) == 2
    assert not any("submitted" in event.text for event in stage.events), "no job beside them"
    for spec in specs:
        assert len(stage.starts(spec.replicate)) == 1, "none ran twice"


def test_a_worker_that_is_killed_is_replaced_and_the_trial_goes_on(stage: Stage) -> None:
    spec = long(stage)

    def strike() -> None:
        (identity,) = stage.worker_identities()
        os.kill(identity.pid, signal.SIGKILL)

    during(stage, [spec], strike)
    stage.check_done([spec])
    assert stage.causes(spec) == [Cause.LOST, None]
    stage.check_nothing_done_again(spec)


@pytest.mark.parametrize("how", ["preempted", "cancelled", "requeued", "node down"])
def test_a_job_that_is_taken_away_costs_its_trial_nothing(stage: Stage, cluster: Cluster, how: str) -> None:
    spec, high = long(stage), stage.root.parent / "high.sh"
    high.write_text("#!/bin/sh\nsleep 2\n")

    def strike() -> None:
        (number,) = cluster.jobs()
        node = cluster.run("squeue", "-h", "-j", number, "-o", "%N").strip()
        match how:
            case "preempted":
                cluster.run("sbatch", "-p", "high", "--exclusive", f"--nodelist={node}", "-o", "/dev/null", str(high))
            case "cancelled":
                cluster.run("scancel", number)
            case "requeued":
                cluster.run("scontrol", "update", f"jobid={number}", "requeue=1")
                cluster.run("scontrol", "requeue", number)
            case "node down":
                cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    during(stage, [spec], strike)
    stage.check_done([spec])
    found = stage.causes(spec)
    assert found[-1] is None
    told = how in ("preempted", "cancelled", "requeued")  # Slurm signals these jobs, and the trial saves a checkpoint
    assert set(found[:-1]) <= ({Cause.STOPPED} if told else {Cause.STOPPED, Cause.LOST})
    assert 2 <= len(found) <= 3, "its next worker may be struck before it begins"
    stage.check_nothing_done_again(spec)


def test_a_job_that_is_told_to_end_gets_its_time_to_save(stage: Stage, cluster: Cluster) -> None:
    """Slurm is asked twice and more while the checkpoint is written, and says that the job completes."""
    spec = stage.spec(0, steps=60, step_s=0.05, checkpoint_every=1000, save_s=1.5)
    during(stage, [spec], lambda: cluster.run("scancel", *cluster.jobs()))
    stage.check_done([spec])
    assert stage.causes(spec) == [Cause.STOPPED, None]
    assert stage.starts(0)[1] > 0


def test_a_queue_that_does_not_move_is_said_and_a_stop_takes_the_jobs_back(stage: Stage, cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    stage.timing = stage.timing.__class__(**{**vars(stage.timing), "birth_s": 2.0})
    said: list[str] = []

    def look(_: object) -> None:
        said.extend(event.text for event in stage.events if event.text.startswith("pending ("))
        if any("submitted" not in text for text in said):
            request(stage.root, stage.name, "stop")

    with pytest.raises(Interrupted), stage.queue(look) as queue:
        queue.complete([stage.spec(0)])
    until(lambda: not cluster.jobs(), 20)
    cluster.quiet()
    stage.complete([stage.spec(0)])
    stage.check_done([stage.spec(0)])


def test_a_job_that_waits_while_slurm_does_not_answer_is_nobodys_failure(
    stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in ("n1", "n2"):
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    monkeypatch.setattr("ablate.execution.scheduler.PATIENCE_S", 0.5)
    stage.timing = stage.timing.__class__(**{**vars(stage.timing), "birth_s": 2.0})
    stopped, resumed = threading.Event(), threading.Event()

    def resume() -> None:
        cluster.daemons["slurmctld"].send_signal(signal.SIGCONT)
        for node in ("n1", "n2"):
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")

    timer = threading.Timer(4.0, resume)  # longer than a worker may take to report

    def look(event: QueueEvent) -> None:
        if event.text.startswith("pending (") and "submitted" not in event.text and not stopped.is_set():
            stopped.set()
            cluster.daemons["slurmctld"].send_signal(signal.SIGSTOP)
        if "does not answer" in event.text and not resumed.is_set():
            resumed.set()
            timer.start()

    with stage.queue(look) as queue:
        queue.complete([stage.spec(0)])
    timer.join()
    assert resumed.is_set()
    stage.check_done([stage.spec(0)])


def test_trials_go_on_while_slurm_does_not_answer(stage: Stage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = stage.spec(0, steps=40, step_s=0.05)
    monkeypatch.setattr("ablate.execution.scheduler.PATIENCE_S", 0.5)
    during(stage, [spec], lambda: cluster.daemons["slurmctld"].send_signal(signal.SIGSTOP))
    cluster.daemons["slurmctld"].send_signal(signal.SIGCONT)
    stage.check_done([spec])
    assert stage.causes(spec) == [None]


def test_settings_that_the_cluster_does_not_take_are_refused_before_anything_is_submitted(stage: Stage, cluster: Cluster) -> None:
    study = stage.study()
    for settings, said in (
        (Slurm(partition="mian"), "expected one of high, main but got mian. Did you mean main?"),
        (Slurm(time_min=301), "slurm.time_min: expected at most 300 (the limit of main) but got 301. Lower it."),
        (Slurm(additional={"nodes": 99}), "sbatch says"),
        (Slurm(additional={"no_such_option": True}), "sbatch says"),
    ):
        with pytest.raises(StudyError) as found:
            check(study.model_copy(update={"slurm": settings}))
        assert said in str(found.value)
    assert jobs_of() == {}


@pytest.mark.parametrize(
    ("limit", "minutes"), [("infinite", None), ("1:00:00", 60), ("30:00", 30), ("2-00:00:00", 2880), ("1-12:30:00", 2190), ("n/a", None)]
)
def test_slurms_times_are_read(limit: str, minutes: float | None) -> None:
    assert minutes_of(limit) == minutes


def test_without_slurms_commands_it_is_said_where_to_run(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StudyError, match="Run it where jobs are submitted from, or set executor=local"):
        check(stage.study())
