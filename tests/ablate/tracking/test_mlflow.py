"""Against a real MLflow store."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ablate.errors import LedgerError, TrainerError
from ablate.loading.reading import parse
from ablate.offers import Offers
from ablate.study import CONFIRMATION, Arm, Study
from ablate.tracking import ui
from ablate.tracking.entries import StudyEntries, Told
from ablate.tracking.mlflow import MlflowTracker, sync
from ablate.tracking.registry import winner_of

# MLflow itself still uses what SQLAlchemy and others deprecate.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

PHASE = {"name": "flags", "design": "one_at_a_time", "factors": {"crops.min_global_overlap": [0.0, 0.3]}}
CURES: dict[str, list[Any]] = {"crops.localcrops_subset_of_globalcrops": [False, True], "crops.min_global_overlap": [0.0, 0.3]}
CURED = {"phases": [{"name": "flags", "design": "factorial", "factors": CURES}], "replicates": {"start": 3, "at_most": 3}}
SMALL = {"phases": [PHASE], "replicates": {"start": 3, "at_most": 3}}


@pytest.fixture
def study(planted: Callable[..., Any], empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = planted(changes=SMALL)
    shutil.copy(empty_store, made.root / "mlflow.db")
    return made


EXPORT = """
from pathlib import Path

def written(request):
    Path(request["folder"], "model.bin").write_text(Path(request["run"]).name)
    return "model.bin"
"""


@pytest.fixture(scope="module")
def told(planting: Callable[..., Any], empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A study with an adopted arm, pictures, reports and an export, told once; for tests that only read or register."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "exports_here.py").write_text(EXPORT)
    trainer = {"callable": "trainer.train:train", "export": "exports_here:written"}
    made = planting(folder / "runs", changes=CURED | {"trainer": trainer}, gallery=b"\x89PNG\r\n")
    made.run()
    (made.root / "planted" / "report.html").write_text("<p>the answer</p>")
    (made.root / "planted" / "report.md").write_text("the answer")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.syspath_prepend(folder)
        shutil.copy(empty_store, made.root / "mlflow.db")
        sync(made.root, "planted")
        yield made
    made.ledger.close()


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
        "inputs": rows(
            root,
            "SELECT k.value, d.name, d.digest, g.value FROM inputs AS i JOIN datasets AS d ON d.dataset_uuid = i.source_id "
            "JOIN input_tags AS g ON g.input_uuid = i.input_uuid AND g.name = 'mlflow.data.context' "
            "JOIN tags AS k ON k.run_uuid = i.destination_id AND k.key = 'ablate.key' ORDER BY 1, 2, 3, 4",
        ),
        "about": rows(root, "SELECT key, value FROM experiment_tags ORDER BY 1"),
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
        ("log_artifacts", 2),
        ("log_inputs", 2),
        ("set_terminated", 2),
        ("set_tag", 4),
        ("set_experiment_tag", 2),
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
            found = StudyEntries(study.root, "planted")
            with pytest.raises(Killed):
                MlflowTracker(study.root, "planted").tell(found.all(), found.about)
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


def test_what_ended_and_was_told_is_left_out_of_the_next_look_until_it_changes(study: Any) -> None:
    study.run()
    whole = [entry.key for entry in StudyEntries(study.root, "planted").all()]
    told: Told = {}
    telling = StudyEntries(study.root, "planted").all(told)
    first = next(telling).key
    telling.close()  # MLflow went down while the first one was told
    assert [entry.key for entry in StudyEntries(study.root, "planted").all(told)] == whole
    assert [entry.key for entry in StudyEntries(study.root, "planted").all(told)] == ["study"]
    signature = first.removeprefix("trial:")
    with closing(sqlite3.connect(study.root / "planted" / "ledger.db")) as ledger, ledger:
        assert ledger.execute("UPDATE trials SET message = 'looked at again' WHERE signature = ?", (signature,)).rowcount == 1
    assert [entry.key for entry in StudyEntries(study.root, "planted").all(told)] == [first, "study"]


def test_an_arms_summary_run_carries_the_mean_curves_of_its_trials_and_ends_with_the_means(told: Any) -> None:
    specs = [told.spec(arm.levels, r) for arm in told.ledger.arms("flags") if arm.name == "baseline" for r in range(3)]
    found = rows(
        told.root,
        "SELECT m.step, m.value FROM metrics AS m JOIN tags AS t ON t.run_uuid = m.run_uuid AND t.key = 'ablate.key' "
        "AND t.value = 'arm:flags/baseline' WHERE m.key = 'train/loss_total' ORDER BY m.step",
    )
    wanted = [(step, sum(told.curve(s.config, step, s.replicate)["train/loss_total"] for s in specs) / 3) for step in range(0, 41, 5)]
    assert [step for step, _ in found] == [step for step, _ in wanted]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted])
    effects = rows(told.root, "SELECT DISTINCT step FROM metrics WHERE key LIKE 'effect/%'")
    assert effects == [(0,)], "a single value, drawn as a bar"


def test_the_studys_run_holds_report_study_file_thresholds_and_galleries(told: Any) -> None:
    (uri,) = rows(
        told.root,
        "SELECT r.artifact_uri FROM runs AS r JOIN tags AS t ON t.run_uuid = r.run_uuid AND t.key = 'kind' AND t.value = 'study'",
    )
    folder = Path(uri[0].removeprefix("file://"))
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    winner = StudyEntries(told.root, "planted").conclusions[0].winner
    assert winner != "baseline"
    galleries = {f"galleries/flags/{who} gallery.png" for who in ("baseline", "winner")}
    assert names == {"report.html", "report.md", "study.yaml", "study.json", "thresholds.json", "conclusions.json"} | galleries
    written = parse((folder / "study.yaml").read_text())[0]
    assert Study.model_validate(written).study == "planted"


def test_descriptions_are_markdown_that_says_question_verdict_and_changes(told: Any) -> None:
    ((about,),) = rows(told.root, "SELECT value FROM experiment_tags WHERE key = 'mlflow.note.content'")
    assert about.startswith(f"**{told.study.question}**")
    assert "viewStateShareKey=arms" in about
    notes = dict(
        rows(
            told.root,
            "SELECT k.value, n.value FROM tags AS n JOIN tags AS k ON k.run_uuid = n.run_uuid AND k.key = 'ablate.key' "
            "WHERE n.key = 'mlflow.note.content'",
        )
    )
    assert "- `crops.min_global_overlap`: `0.3`" in notes["arm:flags/min_global_overlap=0.3"]
    assert "**baseline**" in notes["arm:flags/baseline"]
    assert told.study.question in notes["study"]


def test_what_a_trial_read_stands_among_its_inputs(told: Any) -> None:
    found = everything(told.root)["inputs"]
    assert {row[3] for row in found} == {"all"}
    assert {row[0].partition(":")[0] for row in found} == {"trial", "arm", "study"}
    assert len(found) == len({row[0] for row in found})


def test_the_winners_backbone_is_registered_once_and_found_by_its_alias(told: Any) -> None:
    from mlflow import MlflowClient

    assert "version 1" in sync(told.root, "planted", register="my backbone").splitlines()[-1]
    assert "already" in sync(told.root, "planted", register="my backbone").splitlines()[-1]
    client = MlflowClient(f"sqlite:///{told.root / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'my backbone'")
    assert client.get_model_version_by_alias("my backbone", "winner").version == version.version
    assert version.tags["arm"] == StudyEntries(told.root, "planted").conclusions[0].winner
    assert version.tags["verdict"] == "adopt"
    assert "- `crops.min_global_overlap`: `0.3`" in version.description
    stored = Path(version.source.removeprefix("file://")) / "model.bin"
    assert stored.read_text() == "0001", "the file that the trainer's export wrote for the accepted attempt"


def test_a_study_without_an_adopted_arm_registers_nothing(study: Any) -> None:
    arm = Arm(name="baseline", levels=dict(study.study.baseline))
    study.use("flags", arm, [0])
    with pytest.raises(TrainerError, match="no winner"):
        sync(study.root, "planted", register="my backbone")


def test_a_winner_that_was_not_confirmed_is_none(planted: Callable[..., Any]) -> None:
    made = planted(changes=CURED)
    made.run()
    found = StudyEntries(made.root, "planted")
    assert winner_of(found).arm.verdict == "adopt"
    last = found.conclusions[-1]
    refuted = last.model_copy(update={"phase": CONFIRMATION, "winner": "baseline"})
    made.ledger.conclude(CONFIRMATION, refuted.model_dump(mode="json"))
    with pytest.raises(TrainerError, match="not confirmed"):
        winner_of(StudyEntries(made.root, "planted"))


def test_a_trainer_without_an_export_says_which_key_to_add(planted: Callable[..., Any]) -> None:
    made = planted(changes={"trainer": {"callable": "trainer.train:train"}})
    with pytest.raises(TrainerError, match=r"trainer\.export"):
        Offers(made.study.trainer).export(made.root, made.root)


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
