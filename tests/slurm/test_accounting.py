"""A study needs nothing of Slurm's accounting: it begins, goes on and ends while that is gone or hangs."""

from __future__ import annotations

import os
import signal

import pytest
from cluster import Cluster, until
from stage import Stage

from ablate.execution.base import QueueEvent
from ablate.trial import Cause

pytestmark = pytest.mark.slurm


def test_accounting_knows_the_jobs_of_a_study(stage: Stage, cluster: Cluster) -> None:
    stage.complete([stage.spec(0)])
    until(lambda: "COMPLETED" in states(cluster, f"ablate-{stage.name}-"), 20)


def states(cluster: Cluster, prefix: str) -> str:
    """States of this session's jobs of such a name."""
    lines = cluster.run("sacct", "-X", "-n", "-P", "-S", "now-1hour", "-o", "jobname%80,state").splitlines()
    return " ".join(line.partition("|")[2] for line in lines if line.startswith(prefix))


@pytest.mark.parametrize("how", ["gone from the start", "hanging from the middle on"])
def test_a_study_goes_on_and_ends_while_accounting_does_not_answer(stage: Stage, cluster: Cluster, how: str) -> None:
    accounting, struck = cluster.daemons["slurmdbd"], list[int]()
    spec = stage.spec(0, steps=60, step_s=0.05, checkpoint_every=5)

    def strike(event: QueueEvent) -> None:
        """A worker dies too, so that another job is submitted without accounting."""
        if event.kind != "progress" or (event.step or 0) < 3 or struck:
            return
        if how == "hanging from the middle on":
            accounting.send_signal(signal.SIGSTOP)
        (identity,) = stage.worker_identities()
        struck.append(identity.pid)
        os.kill(identity.pid, signal.SIGKILL)

    try:
        if how == "gone from the start":
            accounting.kill()
            accounting.wait()
        with stage.queue(strike) as queue:
            queue.complete([spec])
        assert struck
        assert not cluster.answers("sacct", "-n", within_s=2), "it did not answer all the time"
    finally:
        accounting.send_signal(signal.SIGCONT)
        if accounting.poll() is not None:
            cluster.account()
    stage.check_done([spec])
    stage.check_nothing_done_again(spec)
    assert stage.causes(spec) == [Cause.LOST, None]
    until(lambda: cluster.answers("sacct", "-n", within_s=5), 20)
