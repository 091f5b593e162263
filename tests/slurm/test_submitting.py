"""Killed between asking for a job and noting it: the next run finds the job by its name, and asks for no other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cluster import Cluster, until
from stage import Stage

pytestmark = pytest.mark.slurm

SBATCH = """#!/bin/sh
# The real sbatch, before and after which the test decides what happens.
case "$*" in *--test-only*) exec {sbatch} "$@";; esac
echo $$ >> {at}/called
{before}
{sbatch} "$@"; code=$?
{after}
exit $code
"""


class Switch:
    """Stands before `sbatch` in the search path: notes each submission, and can hold or break it."""

    def __init__(self, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = at
        at.mkdir()
        self._real = shutil.which("sbatch")
        monkeypatch.setenv("PATH", f"{at}{os.pathsep}{os.environ['PATH']}")
        self.set()

    def set(self, before: str = "", after: str = "") -> None:
        text = SBATCH.format(sbatch=self._real, at=self.at, before=before, after=after)
        beside = self.at / ".sbatch"
        beside.write_text(text)
        beside.chmod(0o755)
        os.replace(beside, self.at / "sbatch")

    @property
    def calls(self) -> int:
        called = self.at / "called"
        return len(called.read_text().split()) if called.exists() else 0


@pytest.fixture
def switch(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Switch:
    return Switch(tmp_path / "switch", monkeypatch)


def check(stage: Stage, switch: Switch, submitted: int) -> None:
    """Each trial once, and not one job more."""
    specs = [stage.spec(seed, steps=10, step_s=0.02) for seed in range(3)]
    switch.set()
    stage.complete(specs)
    stage.check_done(specs)
    assert switch.calls == submitted
    for spec in specs:
        assert len(stage.starts(spec.replicate)) == 1, "none ran twice"


@pytest.mark.parametrize("where", ["before submit job 1", "after submit job 1", "before claim 1", "after give 1"])
def test_a_controller_that_is_killed_around_its_submission_leaves_no_second_job(stage: Stage, switch: Switch, where: str) -> None:
    specs = [stage.spec(seed, steps=10, step_s=0.02) for seed in range(3)]
    controller = stage.start_controller(specs, plant=where)
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == -9, output
    check(stage, switch, submitted=2)


def test_a_launcher_that_is_still_submitting_is_waited_for(stage: Stage, switch: Switch) -> None:
    switch.set(before=f"while [ ! -e {switch.at}/go ]; do sleep 0.05; done")
    specs = [stage.spec(seed, steps=10, step_s=0.02) for seed in range(3)]
    controller = stage.start_controller(specs)
    until(lambda: switch.calls == 1, 60)
    controller.kill()
    controller.communicate()

    def release(_: object) -> None:
        if any("it is being submitted" in event.text or "on its way" in event.text for event in stage.events):
            (switch.at / "go").touch()

    with stage.queue(release) as queue:
        queue.complete(specs)
    stage.check_done(specs)
    assert switch.calls == 2
    assert (switch.at / "go").exists()


def test_both_killed_after_slurm_took_the_job_and_before_anybody_noted_it(stage: Stage, switch: Switch, cluster: Cluster) -> None:
    """The script's parent is the launcher; the controller is told by its file."""
    stage.workers = 1
    switch.set(after=f"kill -9 $(cat {switch.at}/controller) $PPID")
    specs = [stage.spec(seed, steps=10, step_s=0.02) for seed in range(3)]
    for node in ("n1", "n2"):
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")  # the job must not begin before we look
    controller = stage.start_controller(specs)
    (switch.at / "controller").write_text(str(controller.pid))
    controller.communicate(timeout=60)
    assert controller.returncode == -9
    assert not list(stage.root.glob("toy/workers/*/job.json")), "nobody noted its number"
    assert len(cluster.jobs()) == 1
    for node in ("n1", "n2"):
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    check(stage, switch, submitted=1)
