"""The document, the frames and the answer of a study, from a real ledger and real trial folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate import design, gates, verdict
from ablate.answer import NOT_LEARNED
from ablate.conclusion import Conclusion, Point
from ablate.errors import LedgerError
from ablate.ledger import Ledger
from ablate.results import Results, timeless
from ablate.study import BASELINE, CONFIRMATION, REFERENCES, Arm, Study
from ablate.trial import Cause, Outcome, TrialFiles, TrialSpec, accept, metric_line

STUDY: dict[str, Any] = {
    "study": "toy",
    "question": "Which?",
    "trainer": {"callable": "a:b", "schema": "a:c"},
    "baseline": {"x": 0, "p": 0.1},
    "references": {"untrained": {"steps": 0}},
    "objective": {"metric": "score", "smallest_effect": 0.02},
    "guards": [{"metric": "health", "at_least": 0.2}],
    "questions": [
        {"ask": "Less uniform?", "metric": "entropy", "direction": "minimize"},
        {"ask": "Known?", "metric": "absent", "direction": "maximize"},
    ],
    "budget": {"trials": 60, "hours": 1},
    "phases": [
        {"name": "flags", "design": "factorial", "factors": {"x": [0, 1]}, "gate": {"advance_if": "any_adopted"}},
        {
            "name": "thresholds",
            "design": {"tune": 4},
            "factors": {"p": {"low": 0.0, "high": 1.0}, "q": {"low": 0.0, "high": 1.0, "when": {"mode": ["on"]}}},
        },
    ],
}


class Toy:
    """A study of two phases whose trials are written, not trained."""

    def __init__(self, root: Path, *, reference: float = 0.29, hours: float = 0.0, document: Mapping[str, Any] = STUDY) -> None:
        self.root, self.study = root, Study.model_validate(document)
        self.noise = np.random.default_rng(0)
        self.ledger = Ledger(root / "toy" / "ledger.db")
        self.ledger.freeze({"study": self.study.model_dump(mode="json", by_alias=True), "base": {"steps": 100, "q": 0.5}}, "code", "data")
        self.ledger.touch_session(self.ledger.begin_session(), hours * 3600)
        self.origin = self.arm(REFERENCES, Arm(name=BASELINE, levels=self.study.baseline), 0.25, health=0.05)
        untrained = Arm(name="untrained", levels={**self.study.baseline, "steps": 0})
        self.references = {"untrained": self.arm(REFERENCES, untrained, reference)}

    def arm(
        self, phase: str, arm: Arm, score: float, *, health: float = 0.5, replicates: range = range(4), early: float | None = None
    ) -> dict[int, Mapping[str, float]]:
        """Finished trials of an arm, each streamed, accepted and recorded.

        Args:
            early: Health at step 1, where the score is that of the end; none: no health there, and a score of 0.
        """
        self.ledger.add_arms(phase, [arm])
        found: dict[int, Mapping[str, float]] = {}
        for replicate in replicates:
            signature = f"{phase}-{arm.name}-{replicate}"
            self.ledger.add_trials(phase, arm.name, [TrialSpec(signature, replicate, {}, "a:b", "code", "data")])
            metrics = {
                "score": score + self.noise.normal(0, 0.003),
                "health": health,
                "entropy": 0.99 - health + self.noise.normal(0, 0.01),
            }
            number = self.ledger.start_attempt(signature, "worker")
            files = TrialFiles(self.root, signature).attempt(number)
            files.directory.mkdir(parents=True)
            files.metrics.write_text(
                metric_line(1, {"score": 0.0} if early is None else {**metrics, "health": early}) + metric_line(2, metrics)
            )
            files.summary.write_text(json.dumps({"collapse": "none" if health > 0.2 else "uniform"}))
            files.outcome.write_text(Outcome(signature, number, None, "", 1.5, metrics, (), {}, None).to_json())
            accept(self.root, {signature: number})
            self.ledger.finish_attempt(signature, number, cause=None, message="", seconds=1.5)
            found[replicate] = metrics
        return found

    def fail(self, phase: str, arm: Arm, replicate: int) -> None:
        """A trial that failed for good."""
        self.ledger.add_arms(phase, [arm])
        self.ledger.add_trials(phase, arm.name, [TrialSpec("failed", replicate, {}, "a:b", "code", "data")])
        self.ledger.finish_attempt(
            "failed", self.ledger.start_attempt("failed", "worker"), cause=Cause.NAN, message="loss is NaN at step 3\ntrace", seconds=1.0
        )

    def conclude(
        self, phase: str, scores: Mapping[str, float], carried: dict[str, Any], *, points: tuple[Point, ...] = (), inert: Sequence[str] = ()
    ) -> None:
        """Run a phase's arms with these true means, and record the decision."""
        arms = [Arm(name=BASELINE, levels=carried)]
        arms += [Arm(name=name, levels={**carried, "x": 1, "p": 0.1 if phase == "flags" else 0.4}) for name in scores if name != BASELINE]
        evidence = {arm.name: self.arm(phase, arm, scores[arm.name], health=0.05 if scores[arm.name] < 0.28 else 0.5) for arm in arms}
        collapse = {name: dict.fromkeys(found, "none" if found[0]["health"] > 0.2 else "uniform") for name, found in evidence.items()}
        spec = self.study.phase(phase)
        found = verdict.conclude(
            self.study, spec, arms, evidence, origin=self.origin, references=self.references, collapse=collapse, points=points
        )
        found = found.model_copy(update={"inert": list(inert)})
        self.ledger.conclude(phase, gates.pass_through(self.study, spec, found).model_dump(mode="json"))

    def results(self) -> Results:
        return Results(self.root, "toy")


def tuning_point(name: str, p: float, objective: float | None, feasible: bool = True) -> Point:
    return Point(name=name, levels={"x": 1, "p": p}, objective=objective, guards=[], feasible=feasible)


POINTS = (
    tuning_point("point 00", 0.2, 0.345),
    tuning_point("point 01", 0.4, 0.36),
    tuning_point("point 02", 0.7, 0.30),
    tuning_point("point 03", 0.9, None, feasible=False),
)


@pytest.fixture
def finished(tmp_path: Path) -> Results:
    toy = Toy(tmp_path)
    toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.33}, {"x": 0, "p": 0.1})
    toy.conclude("thresholds", {BASELINE: 0.33, "tuned": 0.37}, {"x": 1, "p": 0.1}, points=POINTS)
    return toy.results()


def test_the_document_has_the_promised_shape(finished: Results) -> None:
    document = finished.document()
    assert {"study", "references", "phases", "thresholds", "budget"} <= document.keys()
    assert document["references"]["untrained"]["metrics"]["score"] == pytest.approx(0.29, abs=0.01)
    assert [phase["name"] for phase in document["phases"]] == ["flags", "thresholds"]
    for phase in document["phases"]:
        for arm in phase["arms"]:
            promised = {"name", "levels", "carried", "replicates", "effect", "total_effect", "metrics", "collapse", "verdict", "reason"}
            assert promised <= arm.keys()
            assert {"mean", "low", "high"} <= arm["effect"].keys()
    assert document["budget"] == {"trials_used": 24, "trials_at_most": 60, "hours_used": 0.0, "hours_at_most": 1.0} | {
        "gpu_hours_used": 0.0,
        "gpu_hours_at_most": None,
    }
    assert document["failed_trials"] == []


def test_the_document_is_json_without_nan(finished: Results) -> None:
    text = json.dumps(finished.document(), allow_nan=False)
    assert json.loads(text) == finished.document()


def test_two_runs_of_a_study_have_the_same_table_but_for_times(tmp_path: Path) -> None:
    tables, whole = [], []
    for name, hours in (("one", 0.1), ("two", 0.4)):
        toy = Toy(tmp_path / name, hours=hours)
        toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.33}, {"x": 0, "p": 0.1})
        whole.append(json.dumps(toy.results().document()))
        tables.append(json.dumps(timeless(toy.results().document())))
    assert tables[0] == tables[1]
    assert whole[0] != whole[1]


def test_what_is_timed_is_left_out_of_a_timeless_document() -> None:
    document = {"a": {"loop/steps_per_second": 3.0, "loop/data_fraction": 0.1, "score": 1.0, "trial_s": 2.0}, "budget": {"hours_used": 2}}
    assert timeless(document) == {"a": {"score": 1.0}}


def test_tuned_thresholds_have_a_value_a_range_and_a_status(finished: Results) -> None:
    found = finished.document()["thresholds"]
    assert found["p"].items() >= {"recommended": 0.4, "low": 0.2, "high": 0.4, "status": "tuned"}.items()
    assert found["q"].items() >= {"recommended": 0.5, "low": None, "high": None, "status": "inert"}.items()


def test_where_the_tuned_point_is_not_adopted_the_carried_value_stays(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.33}, {"x": 0, "p": 0.1})
    toy.conclude("thresholds", {BASELINE: 0.33, "tuned": 0.331}, {"x": 1, "p": 0.1}, points=POINTS)
    assert toy.results().document()["thresholds"]["p"].items() >= {"recommended": 0.1, "low": 0.2, "high": 0.4, "status": "kept"}.items()


def test_thresholds_of_a_phase_that_has_not_run_are_filled_too(tmp_path: Path) -> None:
    found = Toy(tmp_path).results().document()["thresholds"]
    assert found["p"].items() >= {"recommended": 0.1, "low": None, "high": None, "status": "kept"}.items()


def test_the_answer_names_what_to_change_and_answers_the_questions(finished: Results) -> None:
    answer = finished.answer()
    assert answer.headline[0].startswith("Yes: x=1 (flags) and tuned (thresholds) are adopted.")
    assert "Collapse: the study's baseline is uniform, the winner none." in answer.headline
    assert [(change.path, change.was, change.becomes) for change in answer.changes] == [("p", 0.1, 0.4), ("x", 0, 1)]
    first, second = answer.questions
    assert first.says == "yes"
    assert first.difference == pytest.approx(-0.45, abs=0.02)
    assert first.high is not None
    assert first.high < 0
    assert second.says == "not shown"
    assert "absent has no finite value" in second.sentence
    assert any("Intervals cover what the replicate's seed varies" in line for line in answer.lines())


def test_nobody_is_told_to_change_what_has_no_effect(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.33}, {"x": 0, "p": 0.1})
    toy.conclude("thresholds", {BASELINE: 0.33, "tuned": 0.37}, {"x": 1, "p": 0.1}, points=POINTS, inert=["p"])
    assert [change.path for change in toy.results().answer().changes] == ["x"]


def test_where_healthy_arms_are_undecided_the_answer_says_so_first(tmp_path: Path) -> None:
    toy = Toy(tmp_path, reference=0.2)
    toy.conclude("flags", {BASELINE: 0.33, "x=1": 0.35}, {"x": 0, "p": 0.1})
    assert toy.results().conclusions[0].arm("x=1").verdict == "undecided"
    headline = toy.results().answer().headline[0]
    assert headline.startswith("Undecided: none of 1 arm is adopted")
    assert "of x=1" in headline


def test_no_arm_above_the_reference_means_learning_not_shown(tmp_path: Path) -> None:
    toy = Toy(tmp_path, reference=0.34)
    toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.33}, {"x": 0, "p": 0.1})
    answer = toy.results().answer()
    assert NOT_LEARNED in answer.headline[0]
    assert "untrained" in answer.headline[0]
    assert answer.changes == []
    assert answer.questions, "the arm with the largest effect is shown all the same"
    assert any("a gate led elsewhere: thresholds" in warning for warning in answer.warnings)


def test_collapse_prevented_is_said_only_where_the_trainer_named_a_collapse(tmp_path: Path) -> None:
    toy = Toy(tmp_path, reference=0.34)
    toy.conclude("flags", {BASELINE: 0.29, "x=1": 0.33}, {"x": 0, "p": 0.1})
    assert toy.results().conclusions[0].arm(BASELINE).collapse == "none"
    headline = toy.results().answer().headline[0]
    assert headline.startswith("No: learning not shown. 1 arm of 1 better than the baseline")
    assert "prevented" not in headline


@pytest.mark.parametrize("points", [(), POINTS], ids=["the replicates that chose", "fresh replicates"])
def test_a_winner_carried_from_an_earlier_phase_is_flattered_by_the_replicates_that_chose_it(
    tmp_path: Path, points: tuple[Point, ...]
) -> None:
    toy = Toy(tmp_path)
    toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.33, "x=1 too": 0.31}, {"x": 0, "p": 0.1})
    toy.conclude("thresholds", {BASELINE: 0.33, "tuned": 0.331}, {"x": 1, "p": 0.1}, points=points)
    results = toy.results()
    assert results.conclusions[-1].winner == BASELINE
    flattered = [warning for warning in results.answer().warnings if "flattered" in warning]
    expected = "The winner is the best of 2 arms in flags by the same replicates that measure it: its mean effect is flattered."
    assert flattered == ([] if points else [expected])


def test_nothing_better_and_nothing_healthy_never_claims_that_collapse_was_prevented(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.251}, {"x": 0, "p": 0.1})
    headline = toy.results().answer().headline[0]
    assert headline.startswith("No: none of 1 arm is adopted")
    assert "prevented" not in headline
    assert "learning not shown" in headline


def test_learning_is_not_called_unshown_where_arms_beat_the_reference_and_only_not_the_baseline(tmp_path: Path) -> None:
    toy = Toy(tmp_path, reference=0.1)
    toy.conclude("flags", {BASELINE: 0.33, "x=1": 0.331}, {"x": 0, "p": 0.1})
    headline = toy.results().answer().headline[0]
    assert "none of 1 arm is adopted" in headline
    assert "learning not shown" not in headline


def test_a_study_without_a_conclusion_says_so(tmp_path: Path) -> None:
    results = Toy(tmp_path).results()
    assert results.answer().lines()[0] == "No phase is concluded yet."
    assert results.document()["phases"] == []
    assert len(results.arms()) == 1


def test_trials_that_failed_for_good_are_named(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.conclude("flags", {BASELINE: 0.25, "x=1": 0.33}, {"x": 0, "p": 0.1})
    toy.fail("flags", Arm(name="x=2", levels={"x": 2}), 0)
    results = toy.results()
    [failed] = results.document()["failed_trials"]
    assert (failed["phase"], failed["arm"], failed["replicate"], failed["cause"]) == ("flags", "x=2", 0, "nan")
    assert "Failed for good: flags/x=2 replicate 0 (nan): loss is NaN at step 3" in results.answer().warnings


def test_frames_are_tidy(finished: Results) -> None:
    arms, trials, curves = finished.arms(), finished.trials(), finished.curves(["score"])
    assert set(arms["arm"]) == {"baseline", "x=1", "tuned", "untrained"}
    assert (trials["state"] == "done").all()
    assert len(trials) == 24
    assert list(curves.columns) == ["phase", "arm", "replicate", "step", "metric", "value"]
    assert len(curves) == 48
    assert finished.curves([]).empty


def test_a_study_that_never_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such ledger"):
        Results(tmp_path, "nothing")


def test_what_is_told_at_a_rung_has_the_guards_of_that_rung_and_the_confirmation_moves_no_rung(tmp_path: Path) -> None:
    """The objective at step 1 was told beside guards of step 2, and a confirmation given up at a rung took all to its step."""
    components = {name: {name: 1} for name in "ab"}
    document = {**STUDY, "phases": [{"name": "flags", "design": "factorial", "components": components}]}
    toy = Toy(tmp_path, document=document)
    carried = {"x": 0, "p": 0.1}
    scores, gains = {}, {BASELINE: 0.25, "a": 0.3, "b": 0.35, "a, b": 0.45}
    phase = toy.study.phase("flags")
    arms = design.expand(phase, carried)
    assert {arm.name for arm in arms} == set(gains)
    for arm in arms:
        scores[arm.name] = toy.arm("flags", arm, gains[arm.name], early=0.05 if arm.name == "a" else 0.5)
    found = verdict.conclude(toy.study, phase, arms, scores, origin=toy.origin, references={}, collapse={})
    assert found.winner == "a, b"

    def told(*conclusions: Conclusion) -> dict[str, Any]:
        results = toy.results()
        results.conclusions = list(conclusions)
        assert results.attribution is not None
        return results.attribution

    ends = told(found)
    assert ends["needs"] == {"a": "needed", "b": "needed"}, "at the end all keep the guard"
    confirmation = found.model_copy(update={"phase": CONFIRMATION, "short": {"winner": 1}})
    assert told(found, confirmation) == ends
    at_rung = told(found.model_copy(update={"short": {"a": 1}}), confirmation)
    assert at_rung["sentences"][0].startswith("What follows is as it stood at step 1")
    assert at_rung["needs"] == {"a": "needed", "b": "needed for a guard"}, "without b the arm a is left, which breaks the guard there"
