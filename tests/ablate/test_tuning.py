"""A tuning phase from its points to its sentences: a planted plateau, a planted cliff, what is infeasible, and a Pareto front."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ablate import runner
from ablate.cli.session import tuning_study, write_settings
from ablate.errors import StudyError
from ablate.results import Results
from ablate.study import Study

TRAINER = """
import math, random

def train(config, run):
    noise = random.Random(f"{config['seed']} {sorted(config.items())}")
    level = random.Random(config["seed"]).gauss(0, 0.05)   # of the replicate: it pairs
    x, rate = config["x"], config.get("rate", 0.01)
    score = 0.0 if x > 0.7 else 1.0 - 2 * max(0.0, 0.3 - x)   # a plateau from .3 to .7, then a cliff
    score -= 0.3 * abs(math.log10(rate) + 2)
    score -= 0.5 * (config.get("mode", "good") == "bad")
    if config.get("fragile") and x < 0.15:
        score = math.nan
    run.report(1, {})
    return {"score": score + level + noise.gauss(0, 0.01), "cost": 10 * x + config.get("width", 1), "health": 1.0 - (x > 0.6)}

def preflight(config):
    if config["x"] > config.get("possible", 1.0):
        return [{"level": "error", "path": "x", "what": "no crop meets it.", "mend": "Lower x."}]
    return []
"""


@pytest.fixture
def offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trainer of a millisecond, importable here and in the child that answers the preflight."""
    (tmp_path / "plateau_trainer.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    sys.modules.pop("plateau_trainer", None)
    return tmp_path


class Nobody:
    """Watches nothing."""

    def foretold(self, findings: object) -> None: ...
    def phase(self, name: str) -> None: ...
    def trials(self, phase: str, arms: object) -> None: ...
    def event(self, event: object) -> None: ...
    def concluded(self, conclusion: object) -> None: ...


def a_study(
    factors: Mapping[str, object], *, baseline: Mapping[str, object] | None = None, guards: bool = False, **design: object
) -> Study:
    return Study.model_validate(
        {
            "study": "plateau",
            "question": "Where may x stand?",
            "trainer": {
                "callable": "plateau_trainer:train",
                **({"preflight": "plateau_trainer:preflight"} if "possible" in (baseline or {}) else {}),
            },
            "baseline": {"x": 0.05, **(baseline or {})},
            "objective": {"metric": "score", "smallest_effect": 0.1},
            "guards": [{"metric": "health", "at_least": 0.5}] if guards else [],
            "replicates": {"start": 3, "at_most": 3},
            "executor": "inline",
            "confirm": False,
            "phases": [{"name": "thresholds", "design": {"tune": 12, **design}, "factors": factors}],
        }
    )


SAMPLERS = ["tpe", "cmaes", "nsga2", "qmc", "random"]
X = {"low": 0.0, "high": 1.0}


def document_of(study: Study, root: Path) -> dict[str, Any]:
    runner.run(study, root / "runs", Nobody())
    return Results(root / "runs", study.study).document()


def test_a_planted_plateau_and_cliff_are_found_and_its_middle_is_what_is_run_again(offers: Path) -> None:
    document = document_of(a_study({"x": X}, sampler="qmc", tune=16), offers)
    found = document["phases"][0]["operating"]
    tuned = next(arm for arm in document["phases"][0]["arms"] if arm["name"] == "tuned")
    assert found["how"] == "the middle of the operating range"
    assert 0.38 < found["recommended_levels"]["x"] < 0.62
    assert tuned["levels"]["x"] == found["recommended_levels"]["x"], "not the best measured point"
    assert tuned["levels"]["x"] not in [point["levels"]["x"] for point in document["phases"][0]["points"]]
    assert tuned["verdict"] == "adopt"
    (stretch,) = found["spans"]
    assert 0.2 < stretch["low"] < 0.36
    assert 0.6 < stretch["high"] < 0.78
    assert list(stretch["cliffs"]) == [stretch["high"]]
    assert found["worst_replicate"] > 0.75
    row = document["thresholds"]["x"]
    assert (row["recommended"], row["low"], row["high"]) == (found["recommended_levels"]["x"], stretch["low"], stretch["high"])
    assert row["cliffs"] == [row["high"]]
    assert row["sensitivity"] > 0.5
    said = "\n".join(document["answer"]["mattered"])
    assert "thresholds: The middle of the operating range is x = 0." in said
    assert "x has a cliff just above" in said


@pytest.mark.slow
def test_points_have_replicates_of_their_own_number_and_the_competition_has_the_studys(offers: Path) -> None:
    document = document_of(a_study({"x": X}, sampler="qmc", tune=16, replicates=2), offers)
    (phase,) = document["phases"]
    assert {tuple(point["values"]) for point in phase["points"]} == {("0", "1")}
    assert {arm["replicates"] for arm in phase["arms"]} == {3}
    assert 0.35 < phase["operating"]["recommended_levels"]["x"] < 0.65
    assert "over 16 points and 32 trials" in document["fairness"]["sentence"]


def test_what_the_preflight_refuses_is_never_sampled_and_bounds_the_range(offers: Path) -> None:
    document = document_of(a_study({"x": X}, sampler="random", baseline={"possible": 0.45}), offers)
    found = document["phases"][0]["operating"]
    assert len(document["phases"][0]["points"]) == 12
    assert max(point["levels"]["x"] for point in document["phases"][0]["points"]) <= 0.45
    assert found["refused"] > 0
    assert found["recommended_levels"]["x"] <= 0.45
    assert any("never sampled, for example: x: no crop meets it. Lower x." in sentence for sentence in found["sentences"])


def test_a_range_without_a_feasible_point_ends_with_the_reason(offers: Path) -> None:
    document = document_of(a_study({"x": {"low": 0.5, "high": 1.0}}, baseline={"possible": 0.2}), offers)
    (phase,) = document["phases"]
    assert phase["points"] == []
    assert phase["winner"] == "baseline"
    assert phase["operating"]["how"] == "no point is feasible"
    assert "No operating range: none of " in phase["reason"]
    assert "x: no crop meets it. Lower x." in phase["reason"]


@pytest.mark.slow
def test_guards_and_failures_bound_the_range_and_are_said(offers: Path) -> None:
    document = document_of(a_study({"x": X}, guards=True, sampler="qmc", tune=16, baseline={"fragile": True}), offers)
    found = document["phases"][0]["operating"]
    assert 0.15 < found["recommended_levels"]["x"] <= 0.6
    assert found["spans"][0]["high"] < 0.7
    said = " ".join(found["sentences"])
    assert "broke a guard: point" in said
    assert "lost a replicate or gave no objective: point" in said


@pytest.mark.slow
def test_log_ranges_whole_numbers_and_listed_levels_each_have_their_part(offers: Path) -> None:
    factors = {"x": {"low": 0.35, "high": 0.65}, "rate": {"low": 1e-4, "high": 1.0, "log": True}, "mode": ["good", "bad"]}
    document = document_of(a_study(factors, sampler="qmc", tune=24, batch=8), offers)
    found = document["phases"][0]["operating"]
    assert found["held"] == {"mode": "good"}
    assert 0.003 < found["recommended_levels"]["rate"] < 0.03
    flat, rate = found["spans"]
    assert flat["low_open"]
    assert flat["high_open"]
    assert rate["sensitivity"] > 0.3
    assert any("x hardly matters" in sentence for sentence in found["sentences"])


@pytest.mark.slow
def test_a_range_that_is_not_live_is_said(offers: Path) -> None:
    factors = {"x": X, "rate": {"low": 0.001, "high": 0.1, "when": {"mode": ["bad"]}}}
    found = document_of(a_study(factors, sampler="qmc", tune=8), offers)["phases"][0]["operating"]
    assert "rate was not tuned: it matters only where mode = bad." in found["sentences"]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_several_objectives_have_a_front_on_which_what_scores_less_costs_less(offers: Path, sampler: str) -> None:
    study = a_study({"x": X}, sampler=sampler, tune=16, also=[{"metric": "cost", "direction": "minimize"}])
    (phase,) = document_of(study, offers)["phases"]
    points = {point["name"]: point for point in phase["points"]}
    front = sorted((points[name] for name in phase["operating"]["front"]), key=lambda point: point["objective"])
    costs = [point["others"][0] for point in front]
    assert len(front) >= 2
    assert costs == sorted(costs)
    assert max(point["objective"] for point in points.values()) == front[-1]["objective"]


@pytest.mark.parametrize("sampler", [pytest.param(name, marks=pytest.mark.slow) if name != "tpe" else name for name in SAMPLERS])
def test_more_points_go_on_where_the_last_call_ended(offers: Path, sampler: str) -> None:
    runs = offers / "runs"
    study = a_study({"x": X, "rate": {"low": 1e-4, "high": 1.0, "log": True}}, sampler=sampler, tune=6)
    first = tuning_study(study, runs)
    runner.run(first, runs, Nobody())
    assert tuning_study(study, runs) == first, "without more points it is the same call"
    before = Results(runs, "plateau.tune").document()["phases"][0]
    second = tuning_study(study, runs, 5)
    assert second.study == "plateau.tune-1"
    trials = {path.name for path in (runs / "trials").iterdir()}
    runner.run(second, runs, Nobody())
    after = Results(runs, "plateau.tune-1").document()["phases"][0]
    assert [point["levels"] for point in after["points"]][:6] == [point["levels"] for point in before["points"]]
    assert len({json.dumps(point["levels"]) for point in after["points"]}) == 11
    new = {path.name for path in (runs / "trials").iterdir()} - trials
    assert len(new) == 5 * 3 + 2 * 3, "five points, and a competition on replicates that no call used"
    assert tuning_study(study, runs, 4).phases[0].design.more == [5, 4]  # type: ignore[union-attr]
    write_settings(runs, "plateau.tune-1", offers / "found.yaml")
    assert "x:" in (offers / "found.yaml").read_text()


def test_points_are_not_added_to_a_call_that_has_not_ended(offers: Path) -> None:
    runs = offers / "runs"
    study = a_study({"x": X}, sampler="random", tune=4)
    once = tuning_study(study.model_copy(update={"budget": study.budget.model_copy(update={"trials": 3})}), runs)
    with pytest.raises(Exception, match="budget"):
        runner.run(once, runs, Nobody())
    with pytest.raises(StudyError, match="has not ended"):
        tuning_study(study, runs, 4)


PAUSING = """
import json, random
from pathlib import Path

def train(config, run):
    kept = run.directory / "step.json"
    step = json.loads(kept.read_text()) if kept.exists() else 0
    score = 1.0 - abs(config["x"] - 0.5) + random.Random(f"{config['seed']} {config['x']}").gauss(0, 0.01) + 0.1 * config["seed"]
    while step < 4:
        step += 1
        shown = {"score": score * step / 4, "health": 1.0}
        kept.write_text(json.dumps(step))
        if not run.report(step, shown):
            break
    return shown
"""


@pytest.mark.parametrize("rungs", [[], [2]])
def test_the_worse_half_of_a_batch_is_measured_once_and_no_further_than_the_first_rung(offers: Path, rungs: list[int]) -> None:
    (offers / "plateau_trainer.py").write_text(PAUSING)
    document = a_study({"x": X}, guards=True, sampler="qmc", tune=8, replicates=2, halve=True).model_dump(mode="json", by_alias=True)
    found = document_of(Study.model_validate({**document, "rungs": rungs}), offers)
    (phase,) = found["phases"]
    full, short = ([point for point in phase["points"] if len(point["values"]) == count] for count in (2, 1))
    assert (len(full), len(short)) == (4, 4)
    assert [point["rung"] for point in full + short] == [None] * 4 + (rungs or [None]) * 4
    assert all(point["feasible"] for point in phase["points"])
    for batch in (phase["points"][:4], phase["points"][4:]):
        worst = min(abs(point["levels"]["x"] - 0.5) for point in batch if point in short)
        assert worst > max(abs(point["levels"]["x"] - 0.5) for point in batch if point in full) - 0.02
    for point in phase["points"]:
        truth = 1.0 - abs(point["levels"]["x"] - 0.5) + 0.05  # of both replicates together
        assert point["objective"] == pytest.approx(truth, abs=0.05 if not rungs else 0.3)
    runs = [json.loads(line) for path in offers.glob("runs/trials/*/attempts/*/metrics.jsonl") for line in path.read_text().splitlines()]
    assert sum(row["step"] == 4 for row in runs) == 8 + (0 if rungs else 4) + 2 * 3
    assert 0.3 < phase["operating"]["recommended_levels"]["x"] < 0.7
    assert f"over 8 points and {phase['operating'] and 12} trials" in found["fairness"]["sentence"]
    said = " ".join(phase["operating"]["sentences"])
    assert "4 points of 8 were the worse half of their batch and measured " + ("up to step 2 alone" if rungs else "once") in said
    assert "Left out" not in said


@pytest.mark.parametrize("silent", ["all", "some"])
def test_points_that_report_nothing_by_the_rung_are_not_taken_for_the_worse_half(offers: Path, silent: str) -> None:
    """A trainer that measures its objective at the end alone lost the whole tuning phase, without a word."""
    when = "step == 4" if silent == "all" else "(step == 4 or config['x'] > 0.5)"
    (offers / "plateau_trainer.py").write_text(PAUSING.replace("step, shown):", f"step, shown if {when} else {{}}):"))
    document = a_study({"x": X}, sampler="qmc", tune=8, replicates=2, halve=True).model_dump(mode="json", by_alias=True)
    found = document_of(Study.model_validate({**document, "rungs": [2]}), offers)
    (phase,) = found["phases"]
    unheard = [point for point in phase["points"] if silent == "all" or point["levels"]["x"] <= 0.5]
    assert [(point["rung"], len(point["values"])) for point in unheard] == [(None, 2)] * len(unheard), "they run to their end"
    heard = [point for point in phase["points"] if point not in unheard]
    assert len(heard) == (0 if silent == "all" else 4)
    assert sum(point["rung"] == 2 for point in heard) == len(heard) // 2, "of those that do report the worse half stops"
    assert all(point["objective"] is not None for point in phase["points"])
    assert phase["arms"][1]["name"] == "tuned"
    told = [note for note in phase["notes"] if "by step 2" in note]
    if silent == "all":
        nobody = "thresholds: no trial reports score by step 2; no arm is compared there."
        assert told == [f"{nobody} Let the trainer report it by then, or take that rung out."] * len(told)
    else:
        names = " and ".join(point["name"] for point in unheard if point in phase["points"][:4])
        assert told[0].startswith(f"thresholds: no trial of {names} reports score by step 2; they are not compared there.")
    assert len(told) >= 1


def test_a_point_that_failed_before_the_rung_does_not_go_on(offers: Path) -> None:
    failing = PAUSING.replace("    while step", "    if config['x'] > 0.3:\n        raise ValueError('planted')\n    while step")
    (offers / "plateau_trainer.py").write_text(failing)
    document = a_study({"x": X}, sampler="qmc", tune=8, replicates=2, halve=True).model_dump(mode="json", by_alias=True)
    found = document_of(Study.model_validate({**document, "rungs": [2]}), offers)
    (phase,) = found["phases"]
    trials = len(list(offers.glob("runs/trials/*/trial.json"))) - 2 * 3  # the competition's
    assert f"over 8 points and {trials} trials" in found["fairness"]["sentence"]
    assert trials < 12, "fewer than half of a batch had an objective, so that fewer went on"
    lost = [point for point in phase["points"] if point["levels"]["x"] > 0.3]
    assert len(lost) >= 5
    assert all(point["objective"] is None and not point["values"] for point in lost)
    assert phase["notes"] == []


def test_halving_needs_one_objective() -> None:
    with pytest.raises(ValueError, match="halve: expected one objective, by which the worse half is told"):
        a_study({"x": X}, halve=True, also=[{"metric": "cost"}])


def test_the_studys_own_baseline_is_not_trained_again_on_fresh_replicates_where_a_confirmation_follows(offers: Path) -> None:
    document = a_study({"x": X}, sampler="qmc", tune=12, baseline={"width": 2}).model_dump(mode="json", by_alias=True)
    first = {"name": "width", "design": "one_at_a_time", "factors": {"x": [0.05, 0.2]}}
    document["phases"] = [first, *document["phases"]]
    for confirm in (True, False):
        study = Study.model_validate({**document, "study": f"confirm_{confirm}", "confirm": confirm})
        found = document_of(study, offers)
        tuned = next(arm for arm in found["phases"][1]["arms"] if arm["name"] == "tuned")
        assert (tuned["total_effect"] is None) == confirm
        assert tuned["verdict"] == "adopt"
    assert "confirmation" in [
        phase["name"]
        for phase in document_of(Study.model_validate({**document, "study": "confirm_True", "confirm": True}), offers)["phases"]
    ]


def test_an_arm_with_the_baselines_own_trials_is_not_given_up_at_a_rung(offers: Path) -> None:
    """Its guards are those of the baseline, and it counts in no correction."""
    source = PAUSING.replace('"health": 1.0', '"health": 1.0 if config["x"] > 0.3 else 0.1')
    (offers / "plateau_trainer.py").write_text(source + "\ndef inert(config):\n    return ['y']\n")
    document = a_study({"x": X}, guards=True).model_dump(mode="json", by_alias=True)
    document["trainer"]["inert"] = "plateau_trainer:inert"
    document["baseline"] = {"x": 0.05, "y": 0}
    document["phases"] = [{"name": "flags", "design": "factorial", "set": {"y": 1}, "factors": {"x": [0.05, 0.2, 0.4]}}]
    found = document_of(Study.model_validate({**document, "rungs": [2]}), offers)
    arms = {arm["name"]: arm for arm in found["phases"][0]["arms"]}
    same = next(arm for arm in arms.values() if arm["same_trials_as_baseline"])
    assert same["reason"].startswith("It is the same trials as the baseline")
    assert arms["x=0.4"]["verdict"] == "adopt"
    assert found["phases"][0]["short"] == {}, "of the one arm that breaks its guard there the end is looked at, to check the rule"
    assert [check["arm"] for check in found["phases"][0]["checks"]] == ["x=0.2"]


def test_the_answer_tells_which_arms_stopped_at_a_rung_for_want_of_promise(offers: Path) -> None:
    (offers / "plateau_trainer.py").write_text(PAUSING)
    document = a_study({"x": X}).model_dump(mode="json", by_alias=True)
    document["phases"] = [{"name": "levels", "design": "one_at_a_time", "factors": {"x": [0.05, 0.04, 0.03]}}]
    document["replicates"] |= {"at_rungs": "unlikely", "check": 0}
    found = document_of(Study.model_validate({**document, "rungs": [2]}), offers)
    short = list(found["phases"][0]["short"])
    assert len(short) >= 1
    told = [arm for arm in found["phases"][0]["arms"] if arm["name"] in short and arm["verdict"] == "undecided"]
    assert len(told) >= 1
    assert "stopped at a rung for want of promise there: " in found["answer"]["headline"][0]
    assert "could not be judged" not in found["answer"]["headline"][0]
    kept = " ".join(found["answer"]["warnings"])
    assert "would show after step 2 is not known: an arm that starts slowly may be among them." in kept
    assert "Nothing is known of" not in kept
    assert found["problems"] == []
