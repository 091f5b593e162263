"""Against a real MLflow store."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ablate.errors import LedgerError
from ablate.study import Arm
from ablate.tracking import mlflow as room
from ablate.tracking import ui
from ablate.tracking.entries import StudyEntries
from ablate.tracking.mlflow import MlflowTracker, sync

# MLflow itself still uses what SQLAlchemy and others deprecate.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

PHASE = {"name": "flags", "design": "one_at_a_time", "factors": {"crops.min_global_overlap": [0.0, 0.3]}}
SMALL = {"phases": [PHASE], "replicates": {"start": 3, "at_most": 3}}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make a store: once."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        room.connected(root)
    assert [path.name for path in root.glob("*.db")] == ["mlflow.db"], "made beside, then renamed"
    return root / "mlflow.db"


@pytest.fixture
def study(planted: Callable[..., Any], empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = planted(changes=SMALL)
    shutil.copy(empty_store, made.root / "mlflow.db")
    return made


def rows(root: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "mlflow.db")) as store:
        return store.execute(query).fetchall()


def everything(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What the store says of each run, by its key; ids and times of this machine apart."""
    of_run = "JOIN tags AS k ON k.run_uuid = t.run_uuid AND k.key = 'ablate.key' ORDER BY 1, 2, 3, 4"
    return {
        "metrics": rows(root, f"SELECT k.value, t.key, t.step, t.value FROM metrics AS t {of_run}"),
        "params": rows(root, f"SELECT k.value, t.key, t.value, '' FROM params AS t {of_run}"),
        "tags": [
            row for row in rows(root, f"SELECT k.value, t.key, t.value, '' FROM tags AS t {of_run}") if row[1] != "mlflow.log-model.history"
        ],
        "runs": rows(root, f"SELECT k.value, t.name, t.status, t.lifecycle_stage FROM runs AS t {of_run}"),
    }


def test_a_study_becomes_one_run_a_signature_one_an_arm_and_one_of_its_own(study: Any) -> None:
    study.run()
    report = study.root / "planted" / "report.html"
    report.write_text("<p>the answer</p>")
    said = sync(study.root, "planted")
    assert "\n" not in said
    kinds = dict(rows(study.root, "SELECT value, count(*) FROM tags WHERE key = 'kind' GROUP BY value"))
    signatures = [row[0] for row in rows(study.root, "SELECT value FROM tags WHERE key = 'signature'")]
    assert sorted(signatures) == sorted(path.name for path in (study.root / "trials").iterdir())
    assert kinds == {"trial": len(signatures), "arm": 2, "study": 1}
    assert {row[0] for row in rows(study.root, "SELECT value FROM tags WHERE key = 'phase.flags'")} == {
        "baseline",
        "min_global_overlap=0.3",
    }
    assert {row[0] for row in rows(study.root, "SELECT DISTINCT value FROM tags WHERE key = 'verdict'")} <= {
        "adopt",
        "reject",
        "undecided",
        "baseline",
        "reference",
    }
    effects = rows(study.root, "SELECT value FROM latest_metrics WHERE key = 'effect/mean'")
    assert len(effects) == 2
    assert {path.name for path in (study.root / "mlflow-artifacts").rglob("*.html")} == {"report.html"}
    assert {row[0] for row in rows(study.root, "SELECT status FROM runs")} == {"FINISHED"}


def test_every_point_of_every_stream_and_every_final_metric_arrives(study: Any) -> None:
    study.run()
    sync(study.root, "planted")
    for use in study.ledger.uses():
        found = rows(
            study.root,
            "SELECT m.key, m.step, m.value FROM metrics AS m JOIN tags AS t ON t.run_uuid = m.run_uuid "
            f"AND t.key = 'signature' AND t.value = '{use.signature}'",
        )
        spec = study.spec(next(a.levels for a in study.ledger.arms(use.phase) if a.name == use.arm), use.replicate)
        steps = spec.config["loop"]["steps"]
        wanted = {(k, s, v) for s in range(0, steps + 1, 5) for k, v in study.curve(spec.config, s, use.replicate).items()}
        assert sorted(found) == sorted(wanted | {("probe/knn_accuracy", steps, 0.5)})


def test_a_second_sync_adds_nothing(study: Any) -> None:
    study.run()
    sync(study.root, "planted")
    before = everything(study.root)
    assert "nothing new" in sync(study.root, "planted")
    assert everything(study.root) == before


def test_a_sync_killed_anywhere_is_completed_without_doubles(study: Any, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    study.run()
    sync(study.root, "planted")
    undisturbed = everything(study.root)
    shutil.copy(empty_store, study.root / "mlflow.db")

    class Killed(BaseException):
        """Nothing may catch it."""

    for method, kill_at in (
        ("log_batch", 3),
        ("create_run", 2),
        ("log_batch", 6),
        ("log_artifact", 5),
        ("set_terminated", 2),
        ("set_tag", 4),
    ):
        calls, real = [0], getattr(MlflowClient, method)

        def dying(*given: Any, _real: Any = real, _calls: list[int] = calls, _at: int = kill_at, **named: Any) -> Any:
            done = _real(*given, **named)
            _calls[0] += 1
            if _calls[0] == _at:
                raise Killed
            return done

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, method, dying)
            with pytest.raises(Killed):
                MlflowTracker(study.root, "planted").tell(StudyEntries(study.root, "planted").all())
    sync(study.root, "planted")
    assert everything(study.root) == undisturbed


def test_a_growing_stream_is_told_step_by_step(study: Any) -> None:
    arm = Arm(name="baseline", levels=dict(study.study.baseline))
    (spec,) = study.use("flags", arm, [0])
    attempt = study.begin(spec, upto=20)
    tracker = MlflowTracker(study.root, "planted")
    steps = "SELECT DISTINCT step FROM metrics ORDER BY step"
    tracker.tell(StudyEntries(study.root, "planted").all())
    assert [row[0] for row in rows(study.root, steps)] == [0, 5, 10, 15], "the newest step may still gain metrics"
    study.report(spec, attempt, 40)
    study.finish(spec, attempt)
    tracker.tell(StudyEntries(study.root, "planted").all())
    assert [row[0] for row in rows(study.root, steps)] == list(range(0, 41, 5))
    assert rows(study.root, "SELECT key, step FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1") == []


def test_a_trial_that_failed_for_good_is_told_with_its_cause(study: Any) -> None:
    arm = Arm(name="baseline", levels=dict(study.study.baseline))
    (spec,) = study.use("flags", arm, [0])
    study.fail(spec)
    sync(study.root, "planted")
    assert rows(study.root, "SELECT value FROM tags WHERE key = 'cause'") == [("nan",)]
    assert ("FAILED",) in rows(study.root, "SELECT status FROM runs")


def test_names_that_mlflow_would_refuse_arrive_nevertheless(study: Any) -> None:
    nasty = "loss[<b>0</b>]/../x"
    study.curve = lambda config, step, replicate: {nasty: float(step), "fine": 1.0}
    arm = Arm(name="<script>alert(1)</script>", levels=dict(study.study.baseline))
    (spec,) = study.use("flags", arm, [0])
    study.complete(spec)
    assert "not up to date" not in sync(study.root, "planted")
    assert rows(study.root, "SELECT value FROM tags WHERE key = 'arm'") == [("<script>alert(1)</script>",)]
    assert len(rows(study.root, "SELECT DISTINCT key FROM metrics WHERE key LIKE 'loss%'")) == 1


def test_mlflow_being_down_is_one_line_without_secrets_and_no_exception(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study.use("flags", Arm(name="baseline", levels={}), [0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = sync(study.root, "planted")
    assert "not up to date" in said
    assert "ablate sync planted" in said
    assert "hunter2" not in said
    assert "\n" not in said


def test_a_damaged_store_is_one_line_and_no_exception(study: Any) -> None:
    (study.root / "mlflow.db").write_bytes(b"not a database" * 100)
    assert "not up to date" in sync(study.root, "planted")


def test_a_study_that_never_ran_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError):
        sync(tmp_path, "nothing")


def test_serving_before_any_run_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert ui.serve(tmp_path, 0) == 2
    assert "ablate sync" in capsys.readouterr().err


def test_a_follower_ends_with_its_controller_and_leaves_mlflow_complete(study: Any) -> None:
    study.run()
    controller = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    follower = subprocess.Popen(
        [sys.executable, "-m", "ablate.tracking.mlflow", "--root", str(study.root), "--study", "planted", "--follow", str(controller.pid)]
    )
    controller.communicate(b"\n")
    assert follower.wait(timeout=120) == 0
    assert len(rows(study.root, "SELECT * FROM tags WHERE key = 'signature'")) == len(list((study.root / "trials").iterdir()))
