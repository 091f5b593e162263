"""Jobs that come to their time limit: a worker leaves before it by itself; a trial that does not let go is cut off and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster, until
from stage import Stage

from ablate.trial import Cause

pytestmark = pytest.mark.slurm


def test_workers_leave_before_their_time_limit_and_one_that_hangs_is_cut_off_there(stage: Stage, cluster: Cluster, tmp_path: Path) -> None:
    """One job of a minute each, both at the same time: Slurm tells a job's end at most a minute too early, so a minute it is."""
    stage.more = {"slurm": {"time_min": 1}}
    listens = stage.spec(0, steps=65, step_s=1.0, checkpoint_every=5)
    hangs = stage.spec(1, steps=20, step_s=0.1, checkpoint_every=2, fault={"kind": "hang", "step": 7, "once": str(tmp_path / "once")})
    with stage.queue() as queue:
        queue.complete([listens, hangs])
    stage.check_done([listens, hangs])
    workers = {event.signature: event.worker for event in stage.events if event.kind == "started" and event.attempt == 1}
    assert stage.causes(hangs)[0] is Cause.LOST
    assert stage.starts(1)[:2] == [0, 6], "from its last checkpoint"
    assert set(stage.causes(listens)[:-1]) == {Cause.STOPPED}
    stage.check_nothing_done_again(listens)
    states = {f"ablate-toy-{workers[listens.signature]}|COMPLETED", f"ablate-toy-{workers[hangs.signature]}|TIMEOUT"}
    until(lambda: states <= set(cluster.run("sacct", "-X", "-n", "-P", "-o", "jobname%80,state").split()), 20)
