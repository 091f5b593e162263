"""What earlier runs of a study concluded, and what changed since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from ablate import design, history
from ablate.cli import app
from ablate.conclusion import Conclusion
from ablate.ledger import Ledger
from ablate.study import Study
from ablate.verdict import conclude

STUDY: dict[str, Any] = {
    "study": "toy",
    "question": "Which?",
    "trainer": {"callable": "a:b"},
    "baseline": {"x": 0},
    "objective": {"metric": "score", "smallest_effect": 0.02},
    "replicates": {"start": 4, "at_most": 4},
    "phases": [{"name": "first", "design": "factorial", "factors": {"x": [0, 1]}}],
}
NOISE = [0.004, -0.006, 0.001, 0.003]


def concluded(study: Study, gain: float) -> list[Conclusion]:
    """One phase whose arm gains so much."""
    phase = study.phases[0]
    arms = design.expand(phase, study.baseline)
    values = {arm.name: {r: {"score": 0.3 + gain * (i > 0) + NOISE[(r + i) % 4]} for r in range(4)} for i, arm in enumerate(arms)}
    return [conclude(study, phase, arms, values, origin=values["baseline"], references={}, collapse={})]


def test_a_run_is_recorded_once_and_later_ones_say_what_changed(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    first = history.entry(study, concluded(study, 0.2), "code 1", "data")
    history.record(tmp_path, first)
    history.record(tmp_path, history.entry(study.model_copy(update={"workers": 9}), concluded(study, 0.2), "code 1", "data"))
    assert len(history.read(tmp_path, "toy")) == 1, "the same run again, with more workers"
    assert history.earlier(tmp_path, first) == []
    stricter = study.model_copy(update={"alpha": 0.01})
    now = history.entry(stricter, concluded(stricter, 0.0), "code 2", "data")
    (before,) = history.earlier(tmp_path, now)
    assert before["changed"][0] == "Changed since: the study file and the trainer's code."
    assert before["changed"][1].startswith("It concluded: x=1 (first), score +0.2 (")
    assert before["changed"][1].endswith("Now: nothing adopted.")
    assert before["changed"][2] == "Verdicts that differ: first/x=1 adopt -> undecided."
    history.record(tmp_path, now)
    assert [one["code_version"] for one in history.read(tmp_path, "toy")] == ["code 1", "code 2"]
    assert history.earlier(tmp_path, first)[0]["code_version"] == "code 2", "a run taken back is a run of its own"


def test_torn_lines_and_other_studies_are_passed_over(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    history.record(tmp_path, history.entry(study, concluded(study, 0.2), "code", "data"))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"study": "toy", "torn\n[1]\n{"study": "other"}\n{"study": "toy"}\n')
    assert len(history.read(tmp_path, "toy")) == 1
    assert history.read(tmp_path / "nowhere", "toy") == []


def test_the_command_and_the_report_tell_it(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    history.record(tmp_path, history.entry(study, concluded(study, 0.2), "old code", "data"))
    ledger = Ledger(tmp_path / "toy" / "ledger.db")
    ledger.freeze({"study": study.model_dump(mode="json", by_alias=True), "base": {}}, "new code", "data")
    ledger.conclude("first", concluded(study, 0.0)[0].model_dump(mode="json"))
    ledger.close()
    runner = CliRunner()
    said = runner.invoke(app, ["history", "toy", "--runs", str(tmp_path)], catch_exceptions=False).output
    assert "Changed since: the trainer's code. It concluded: x=1 (first)" in said
    told = json.loads(runner.invoke(app, ["history", "toy", "--json", "--runs", str(tmp_path)], catch_exceptions=False).output)
    document = json.loads(runner.invoke(app, ["report", "toy", "--json", "--runs", str(tmp_path)], catch_exceptions=False).output)
    assert len(told["history"]) == len(document["history"]) == 1
