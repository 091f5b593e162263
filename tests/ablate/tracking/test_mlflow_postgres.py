"""Against a real MLflow server with a PostgreSQL store and users of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .postgres import ANN, MlflowServer, mlflow_on_postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CURES: dict[str, list[Any]] = {"crops.localcrops_subset_of_globalcrops": [False, True], "crops.min_global_overlap": [0.0, 0.3]}
CURED = {"phases": [{"name": "flags", "design": "factorial", "factors": CURES}], "replicates": {"start": 3, "at_most": 3}}
EXPORT = """
from pathlib import Path

def written(request):
    Path(request["folder"], "model.bin").write_text(Path(request["run"]).name)
    return "model.bin"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    with mlflow_on_postgres(tmp_path) as running:
        yield running


def test_a_study_is_told_once_by_a_user_whose_password_is_never_written(
    server: MlflowServer, planted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user, password = ANN
    study = planted(changes=CURED | {"trainer": {"callable": "trainer.train:train", "export": "exports_here:written"}})
    study.run()
    (study.root / "planted" / "report.html").write_text("<p>the answer</p>")
    (tmp_path / "exports_here.py").write_text(EXPORT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)

    def ablate(*words: str) -> str:
        command = [sys.executable, "-m", "ablate", *words, "--runs", str(study.root)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=240, check=False)
        said = done.stdout + done.stderr
        assert password not in said
        return said

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-" + password)
    refused = ablate("sync", "planted")
    assert "not up to date" in refused
    assert "wrong" not in refused
    assert not server.postgres.rows("SELECT 1 FROM runs")

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    assert f"{server.address}/#/experiments/" in ablate("sync", "planted")
    kinds = dict(server.postgres.rows("SELECT value, count(*) FROM tags WHERE key = 'kind' GROUP BY value"))
    assert kinds == {"trial": len(list((study.root / "trials").iterdir())), "arm": 4, "study": 1}
    assert "nothing new" in ablate("sync", "planted")
    doubles = "SELECT run_uuid, key, step FROM metrics GROUP BY 1, 2, 3 HAVING count(*) > 1"
    assert not server.postgres.rows(doubles)
    assert len(server.postgres.rows("SELECT * FROM experiment_tags WHERE key LIKE 'mlflow.sharedViewState.%'")) == 4
    assert server.postgres.rows("SELECT count(*) FROM inputs")[0][0] == sum(kinds.values())
    assert {path.name for path in (tmp_path / "artifacts").rglob("*.html")} == {"report.html"}

    assert "version 1" in ablate("sync", "planted", "--register", "backbone")
    assert server.postgres.rows("SELECT name, version FROM model_versions") == [("backbone", 1)]
    assert "already" in ablate("sync", "planted", "--register", "backbone")
    assert server.address in ablate("ui")
    assert "answers 200" in ablate("doctor")
    written = [path for path in study.root.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    assert not written
