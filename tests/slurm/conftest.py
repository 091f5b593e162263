"""One cluster for all tests of this folder; studies of the toy trainer on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / folder) for folder in ("contracts", "ablate/cli"))]

from cluster import Cluster, missing  # noqa: E402
from stage import TIMING, Stage  # noqa: E402


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = missing()
    if reason and os.environ.get("ABLATE_NEEDS_SLURM"):
        pytest.fail(f"{reason}. ABLATE_NEEDS_SLURM says that these tests must run here.")
    if reason:
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm")) as up, pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, up.environment[name])
        # What jobs import: they start where their worker's folder is.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1] / "contracts"), str(Path(__file__).parents[2])]))
        yield up


@pytest.fixture
def stage(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("ablate.execution.slurm.ASK_S", 0.5)
    yield Stage(tmp_path / "runs", executor="slurm", timing=replace(TIMING, lease_s=10.0, stop_s=20.0))
    cluster.quiet()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The one test that waits a minute and a half goes first, so that nobody waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_time_limit.py")
