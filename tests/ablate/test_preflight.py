"""What the trainer foretells reaches the plan and the report: each finding once, with its arms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import preflight
from ablate.errors import StudyError
from ablate.ledger import Ledger
from ablate.loading import load
from ablate.offers import Offers
from ablate.study import Finding, Study

STUDY = """\
study: foretold
question: What is said before step 1?
trainer:
  callable: "trainer.train:train"
  schema: "trainer.config:schema"
  preset: phantom_cpu
  set: {data.phantom.scans: 4}
baseline: {crops.min_global_overlap: 0.0, crops.localcrops_subset_of_globalcrops: false}
objective: {metric: probe/local_to_global_mrr, direction: maximize, smallest_effect: 0.02}
phases:
  - name: flags
    design: factorial
    factors:
      crops.min_global_overlap: [0.0, 0.3]
      crops.localcrops_subset_of_globalcrops: [false, true]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "foretold.yaml"
    path.write_text(STUDY)
    return path


def finding(level: str, path: str, what: str = "w.") -> Finding:
    return Finding.model_validate({"level": level, "path": path, "what": what, "why": "y.", "mend": "m."})


def test_each_finding_comes_once_errors_first_with_its_places() -> None:
    arms: preflight.Asked = [("baseline", {}), ("a", {}), ("b", {}), ("b", {"x": 1})]
    findings = [
        [finding("warning", "p")],
        [finding("warning", "p", "slightly other."), finding("error", "q")],
        [finding("info", "r")],
        [finding("warning", "p")],
    ]
    found = preflight.summary(arms, findings)
    assert [(one["level"], one["path"], one["arms"]) for one in found] == [
        ("error", "q", ["a"]),
        ("warning", "p", ["baseline", "a", "b (on 1 of 2 possible winners)"]),
        ("info", "r", ["b (on 1 of 2 possible winners)"]),
    ]
    assert found[1]["what"] == "w."


def ask(study: Study, tmp_path: Path) -> tuple[preflight.Asked, list[list[Finding]]]:
    arms = preflight.asked(study)
    return arms, preflight.check(study, arms, Offers(study.trainer), tmp_path / "runs")


def test_the_built_in_trainer_warns_of_the_baseline_and_not_of_its_cure(study: Path, tmp_path: Path) -> None:
    arms, findings = ask(load(study), tmp_path)
    warned = {where: {one.path for one in found if one.level == "warning"} for (where, _), found in zip(arms, findings, strict=True)}
    both = {"crops.min_global_overlap", "crops.localcrops_subset_of_globalcrops"}
    assert warned["baseline"] == both
    assert min(warned.values(), key=len) == set()
    assert sorted(map(len, warned.values())) == [0, 1, 1, 2]


def test_a_level_that_cannot_work_is_refused_with_its_place(study: Path, tmp_path: Path) -> None:
    text = STUDY + "      crops.foreground_crop_prob: [0.0, 1.0]\n"
    study.write_text(text.replace("baseline: {", "baseline: {crops.foreground_crop_prob: 0.0, crops.foreground_threshold: 2500.0, "))
    with pytest.raises(StudyError, match="feasible fraction 0"):
        ask(load(study), tmp_path)


def test_the_plan_shows_what_was_foretold_once_it_was_asked_for(study: Path, tmp_path: Path) -> None:
    def plan(*words: str) -> dict[str, object]:
        command = [sys.executable, "-m", "ablate", "plan", str(study), "--json", "--runs", str(tmp_path / "runs"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    assert plan()["preflight"] is None
    told = plan("--preflight")["preflight"]
    assert isinstance(told, list)
    assert {one["path"] for one in told if one["level"] == "warning"} == {
        "crops.min_global_overlap",
        "crops.localcrops_subset_of_globalcrops",
    }
    assert plan()["preflight"] == told
    study.write_text(STUDY.replace("smallest_effect: 0.02", "smallest_effect: 0.03"))
    assert plan()["preflight"] is None, "another study was not looked at"


def test_what_was_foretold_is_found_again_from_the_ledgers_copy_of_the_study(study: Path, tmp_path: Path) -> None:
    loaded = load(study)
    preflight.keep(tmp_path, loaded, "code", [{"path": "x"}])
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.freeze({"study": loaded.model_dump(mode="json", by_alias=True)}, "code", "data")
    frozen = ledger.frozen()
    ledger.close()
    assert frozen is not None
    again = Study.model_validate(frozen.document["study"])
    backwards = Study.model_validate(json.loads(json.dumps(loaded.model_dump(mode="json", by_alias=True), sort_keys=True)))
    for one in (again, backwards, again.model_copy(update={"workers": 7})):
        assert preflight.kept(tmp_path, one, "code") == [{"path": "x"}]
    assert preflight.kept(tmp_path, again.model_copy(update={"alpha": 0.1}), "code") is None
