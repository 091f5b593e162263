"""`ablate run --detach` with the controller as a job of a real Slurm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, until
from toyplace import Toyplace

from ablate.execution.lock import holder
from ablate.trial import TrialState

pytestmark = pytest.mark.slurm

SLURM = "confirm: false\nexecutor: slurm\nslurm: {time_min: 5, controller: {time_min: 5, mem_gib: 1.5MORE}}"


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Toyplace]:
    place = Toyplace(tmp_path)
    yield place
    cluster.quiet()
    place.end_all()


def job_of(place: Toyplace) -> str:
    return str(json.loads((place.runs / "toy/controller.json").read_text())["job"])


def log_of(place: Toyplace) -> str:
    return (place.runs / "toy/controller.log").read_text(encoding="utf-8")


def check_done(place: Toyplace) -> None:
    """Every trial once, and its result the same as without any of this."""
    records = place.records()
    assert {record.state for record in records} == {TrialState.DONE}
    assert len(records) == 9
    report = place.json("report", "toy")
    assert [phase["winner"] for phase in place.json("status", "toy")["phases"] if phase["name"] == "most"] == ["steps=8"]
    assert report["failed_trials"] == []


def test_a_controller_in_the_queue_is_waited_for_and_watched_to_its_end(place: Toyplace, cluster: Cluster) -> None:
    place.write(more=SLURM.replace("MORE", ", additional: {hold: true}"))
    said = place.ablate("run", "toy.yaml", "--no-mlflow", "--detach")
    job = job_of(place)
    assert f"toy: job {job} of Slurm runs it in the background" in said
    found = place.json("status")
    assert (found["state"], found["controller"]) == ("starting", None)
    assert found["said"] == f"job {job} waits in Slurm's queue (JobHeldUser)"
    assert f"one is starting (job {job} waits" in place.ablate("run", "toy.yaml", "--detach", code=2)
    looking = place.start("watch", "toy")
    assert looking.stdout is not None
    assert looking.stdout.readline().strip() == found_said(found)
    cluster.run("scontrol", "release", job)
    output, _ = looking.communicate(timeout=120)
    assert looking.returncode == 0, output + log_of(place)
    assert "toy: done" in output
    check_done(place)
    until(lambda: job not in cluster.jobs(), 60)
    assert "winner of most" in log_of(place)


def found_said(found: dict[str, str]) -> str:
    return f"{found['study']}: {found['said']}"


@pytest.mark.parametrize("how", ["near its time limit", "preempted"])
def test_a_controller_that_must_leave_stands_in_the_queue_again_and_loses_nothing(place: Toyplace, cluster: Cluster, how: str) -> None:
    place.write(step_s=0.5, more=SLURM.replace("MORE", ""))
    place.ablate("run", "toy.yaml", "--no-mlflow", "--detach")
    job = job_of(place)
    looking = place.start("watch", "toy", "--json")
    until(lambda: len(list(place.runs.glob("trials/*/attempts/*/checkpoint.json"))) >= 2, 90)
    first = holder(place.runs, "toy")
    if how == "preempted":
        high = place.directory / "high.sh"
        high.write_text("#!/bin/sh\nsleep 2\n")
        cluster.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", f"--output={place.directory}/high.log", str(high))
    else:
        cluster.run("scancel", "--batch", "--signal=USR1", job)  # what Slurm itself sends
    until(lambda: (now := holder(place.runs, "toy")) is not None and first is not None and now["pid"] != first["pid"], 90)
    assert cluster.jobs().count(job) == 1, "the same job again"
    output, _ = looking.communicate(timeout=180)
    assert looking.returncode == 0, output + log_of(place)
    assert json.loads(output.splitlines()[-1])["state"] == "done", "who looked on waited for it"
    check_done(place)
    assert "DUE TO" in log_of(place), "Slurm ended the first one"
    from_steps = [int(path.name.split("-")[2]) for path in (place.directory / "counts").iterdir()]
    assert from_steps.count(0) == 9, "none began twice"
    assert max(from_steps) > 0, "what ran went on from its checkpoint"


def test_a_stop_ends_the_controllers_job_for_good(place: Toyplace, cluster: Cluster) -> None:
    place.write(step_s=0.5, more=SLURM.replace("MORE", ", additional: {hold: true}"))
    place.ablate("run", "toy.yaml", "--no-mlflow", "--detach")
    waiting = job_of(place)
    assert f"job {waiting} waits" in place.ablate("stop", "toy")
    assert waiting not in cluster.jobs()
    place.ablate("run", "toy.yaml", "--no-mlflow", "--detach", "slurm.controller.additional={}")
    job = job_of(place)
    until(lambda: len(list(place.runs.glob("trials/*/attempts/*/began.json"))) >= 1, 90)
    assert "It ended" in place.ablate("stop", "toy", timeout=90)
    assert place.json("status")["state"] == "stopped"
    until(lambda: not cluster.jobs(), 60)
    assert "stands in the queue again" not in log_of(place)
    assert job != waiting


def test_what_the_cluster_would_not_take_is_said_at_once(place: Toyplace, cluster: Cluster) -> None:
    place.write(more=SLURM.replace("MORE", ", partition: mian"))
    assert "slurm.controller.partition: expected one of high, main but got mian. Did you mean main?" in place.ablate(
        "run", "toy.yaml", "--detach", code=2
    )
    place.write(more=SLURM.replace("time_min: 5, mem", "time_min: 500, mem").replace("MORE", ""))
    assert "slurm.controller.time_min: expected at most 300" in place.ablate("run", "toy.yaml", "--detach", code=2)
    assert not cluster.jobs()
