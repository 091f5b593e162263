"""`explain` and `export`: what other people and programs get of a study."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from pandas import DataFrame
from toyplace import Toyplace
from typer.testing import CliRunner

from ablate.cli import app
from ablate.cli.exporting import harmless
from ablate.cli.session import loaded_study
from ablate.errors import StudyError
from ablate.results import Results


@pytest.fixture
def runs(planted: Callable[..., Any]) -> tuple[Path, str]:
    found = planted()
    found.run()
    return found.root, found.study.study


def said(*command: str) -> str:
    done = CliRunner().invoke(app, list(command), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_an_arm_is_explained_with_the_numbers_of_the_report(runs: tuple[Path, str]) -> None:
    root, study = runs
    document = json.loads(said("report", study, "--json", "--runs", str(root)))
    phase = document["phases"][0]
    for arm in phase["arms"]:
        told = said("explain", study, f"{phase['name']}/{arm['name']}", "--runs", str(root))
        assert told.startswith(f"{phase['name']}/{arm['name']}: {arm['verdict']}. {arm['reason']}")
        assert all(guard["guard"] in told for guard in arm["guards"])
    assert json.loads(said("explain", study, phase["winner"], "--json", "--runs", str(root)))["arms"][0]["explained"]
    with pytest.raises(StudyError, match="no such arm"):
        said("explain", study, "nobody", "--runs", str(root))


def test_tables_and_tuning_phases_are_exported_once_however_often(runs: tuple[Path, str], tmp_path: Path) -> None:
    root, study = runs
    storage = f"sqlite:///{tmp_path}/optuna.db"
    for _ in range(2):
        said("export", study, "--csv", str(tmp_path), "--latex", str(tmp_path), "--optuna", storage, "--runs", str(root))
    document = json.loads(said("report", study, "--json", "--runs", str(root)))
    with (tmp_path / "arms.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["phase"] != "references"]) == sum(len(phase["arms"]) for phase in document["phases"])
    assert (tmp_path / "arms.tex").read_text(encoding="utf-8").startswith("\\begin{tabular}")
    tuned = next(phase for phase in document["phases"] if phase["points"])
    found = optuna.load_study(study_name=f"{study}/{tuned['name']}", storage=storage)
    assert [trial.user_attrs["point"] for trial in found.trials] == [point["name"] for point in tuned["points"]]
    assert [trial.value for trial in found.trials if trial.value is not None] == pytest.approx(
        [point["objective"] for point in tuned["points"] if point["objective"] is not None]
    )
    with pytest.raises(StudyError, match="expected --csv DIR"):
        said("export", study, "--runs", str(root))
    with pytest.raises(StudyError, match="expected an Optuna storage"):
        said("export", study, "--optuna", "nonsense", "--runs", str(root))


PAGES = ("dashboard", "ui")
"""They serve pages until they are ended."""


def test_every_command_answers_in_json_but_those_that_serve_pages() -> None:
    without = [one.callback.__name__ for one in app.registered_commands if one.callback and "as_json" not in one.callback.__annotations__]
    assert sorted(without) == sorted(PAGES)


def test_a_run_prints_one_document_and_all_else_on_standard_error(tmp_path: Path) -> None:
    place = Toyplace(tmp_path)
    place.write()
    command = [sys.executable, "-m", "ablate", "run", "toy.yaml", "--no-mlflow", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=place.environment, capture_output=True, text=True, timeout=120, check=True)
    document = json.loads(done.stdout)
    assert "done" in done.stderr
    assert document.pop("mlflow") == "left alone; later: ablate sync toy"
    assert (tmp_path / document.pop("report")).is_file()
    assert document == place.json("report", "toy")
    written = place.json("export", "toy", "--csv", "tables")
    assert written == {"study": "toy", "files": ["tables/arms.csv", "tables/trials.csv", "tables/curves.csv"], "optuna": []}
    assert "wrote mine.yaml" in place.json("init", "mine.yaml")["said"]


def test_a_study_that_has_run_is_taken_by_its_name_under_other_settings(runs: tuple[Path, str]) -> None:
    """`ablate confirm my_ct ...` of docs/START.md, where the settings that made it `my_ct` are not typed again."""
    root, study = runs
    found = loaded_study(root, study, [])
    assert found == Results(root, study).study
    longer = loaded_study(root, study, ["replicates.at_most=9", "crops.foreground_threshold=-300"])
    assert longer.replicates.at_most == 9
    assert longer.trainer.set["crops.foreground_threshold"] == -300
    with pytest.raises(StudyError, match=r"at_mots: no such key\. Did you mean at_most"):
        loaded_study(root, study, ["replicates.at_mots=9"])
    with pytest.raises(StudyError, match="no such file"):
        loaded_study(root, "nobody", [])


def test_levels_are_told_as_a_study_file_writes_them(runs: tuple[Path, str]) -> None:
    root, study = runs
    told = said("explain", study, "flags/localcrops_subset_of_globalcrops=true", "--runs", str(root))
    assert "localcrops_subset_of_globalcrops=true (baseline false)" in told


def test_a_table_for_a_spreadsheet_runs_nothing() -> None:
    odd = DataFrame({"arm": ["=cmd()", "@x", "+1", "flag=on"], "=metric": [-1.5, 2, None, 0]})
    found = harmless(odd)
    assert list(found["arm"]) == ["'=cmd()", "'@x", "'+1", "flag=on"]
    assert list(found.columns) == ["arm", "'=metric"]
    assert found["'=metric"].iloc[0] == -1.5


def test_all_arms_are_readable_side_by_side_in_80_columns(runs: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    root, study = runs
    monkeypatch.setenv("COLUMNS", "80")
    lines = said("compare", study, "--runs", str(root)).splitlines()
    legend = [line.split()[0] for line in lines if "/" in line and not line.startswith("│")]
    heads = [cell.strip() for line in lines if line.startswith("┃") for cell in line.strip("┃").split("┃")]
    assert [head for head in heads if head] == legend
    assert len(legend) > 6
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
