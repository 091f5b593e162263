"""What a controller's job can be known by without a cluster; tests/slurm submits real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ablate.execution.base import Identity
from ablate.execution.controller_job import outside, within
from ablate.execution.detached import Detached
from ablate.execution.lock import ControllerLock


def test_jobs_submitted_from_within_a_job_do_not_inherit_what_it_was_given() -> None:
    given = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "100", "SLURM_CONF": "/c", "SLURM_CLUSTERS": "a", "PATH": "/bin", "SBATCH_QOS": "q"}
    assert outside(given) == {"SLURM_CONF": "/c", "SLURM_CLUSTERS": "a", "PATH": "/bin", "SBATCH_QOS": "q"}


def test_the_process_of_another_job_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    own = Identity.own()
    (tmp_path / "controller.within.json").write_text(json.dumps({"job": "7", "pid": own.pid, "started": own.started, "host": own.host}))
    assert within(tmp_path, "7") == own
    assert within(tmp_path, "8") is None
    (tmp_path / "controller.within.json").write_text("{")
    assert within(tmp_path, "7") is None


def test_where_slurm_cannot_be_asked_a_job_may_be_starting_until_it_has_held_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    background, own = Detached(tmp_path / "toy"), Identity.own()
    background.directory.mkdir()
    background.identity.write_text(json.dumps({"job": "7"}))
    assert background.starting() == "job 7 was submitted; Slurm does not answer"
    lock = ControllerLock(background.directory)
    lock.acquire()
    assert background.starting() is None, "it runs"
    lock.release()
    (background.directory / "controller.within.json").write_text(
        json.dumps({"job": "7", "pid": os.getpid(), "started": own.started, "host": own.host})
    )
    assert background.starting() is None, "it ran"
