"""From tuned points to an operating range, a point in its middle and a front."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ablate.conclusion import Conclusion, Point
from ablate.operating import operating, pareto_front, recommended
from ablate.proposals import Told, Tuner
from ablate.study import Arm, Levels, Phase, Study
from ablate.thresholds import thresholds
from ablate.verdict import best_point, point

PHASE: dict[str, Any] = {
    "name": "tune",
    "design": {"tune": 24, "sampler": "qmc", "batch": 4},
    "factors": {"hu": {"low": -700, "high": 300}, "ratio": {"low": 0.2, "high": 0.9}},
}


def study(phase: dict[str, Any]) -> Study:
    return Study.model_validate(
        {
            "study": "toy",
            "question": "Where?",
            "trainer": {"callable": "a:b"},
            "baseline": {"hu": 0.0, "ratio": 0.3, "mode": "x"},
            "objective": {"metric": "score", "smallest_effect": 0.02},
            "guards": [{"metric": "health", "at_least": 0.2}],
            "phases": [phase],
        }
    )


def tuned(found: Study, phase: Phase, truth: Any) -> tuple[Tuner, list[Point]]:
    tuner, points, noise = Tuner(phase, found.baseline, None, "maximize"), list[Point](), np.random.default_rng(0)
    while len(points) < 24:
        told = [Told(one.levels, one.objective, one.feasible, tuple(one.others)) for one in points]
        new = tuner.propose(told, 4)
        if not new:
            break
        for levels in new:
            metrics = {r: {**truth(levels), "score": truth(levels)["score"] + float(noise.normal(0, 0.002))} for r in range(4)}
            also = [goal.metric for goal in phase.design.also]  # type: ignore[union-attr]
            points.append(point(found, Arm(name=f"point {len(points):02d}", levels=levels), metrics, replicates=4, also=also))
    return tuner, points


def cliff(levels: Levels) -> dict[str, float]:
    """A plateau below -200 HU that falls off a cliff above; the ratio hardly matters."""
    return {"score": 0.5 if float(levels["hu"]) < -200 else 0.2, "health": 0.5, "cost": float(levels["ratio"])}  # type: ignore[arg-type]


def test_a_plateau_with_a_cliff_gives_a_range_and_a_point_in_its_middle() -> None:
    found = study(PHASE)
    phase = found.phases[0]
    tuner, points = tuned(found, phase, cliff)
    told = operating(found, phase, tuner, points)
    json.dumps(told)
    spans = {span["name"]: span for span in told["spans"]}
    assert spans["hu"]["high"] == pytest.approx(-200, abs=130)
    assert spans["hu"]["cliffs"]
    levels, how = recommended(found, told, points, found.baseline)
    assert levels is not None
    assert -650 < float(levels["hu"]) < -280, "away from the cliff and from the end"  # type: ignore[arg-type]
    assert how == "the middle of the operating range"
    said = " ".join(told["sentences"])
    assert "hu has a cliff just above" in said
    assert "ratio hardly matters" in said
    concluded = Conclusion(
        phase="tune", winner="tuned", winner_levels=levels, arms=_arms(found, levels), reason="", points=points, operating=told
    )
    tuned_to = thresholds(found, [concluded], {"hu": 0.0, "ratio": 0.3})["hu"]
    assert (tuned_to.low, tuned_to.high) == (spans["hu"]["low"], spans["hu"]["high"])


def _arms(found: Study, levels: Levels) -> list[Any]:
    common = {"carried": False, "replicates": 0, "effect": None, "total_effect": None, "p_adjusted": None, "metrics": {}, "collapse": None}
    rest = {"guards": [], "reason": "", **common}
    return [
        {"name": "baseline", "levels": found.baseline, "verdict": "baseline", **rest},
        {"name": "tuned", "levels": levels, "verdict": "adopt", **rest},
    ]


def test_lists_are_held_at_the_best_point_and_said() -> None:
    found = study({**PHASE, "factors": {**PHASE["factors"], "mode": ["x", "y"]}})
    phase = found.phases[0]
    tuner, points = tuned(found, phase, lambda p: {**cliff(p), "score": cliff(p)["score"] + 0.1 * (p["mode"] == "y")})
    told = operating(found, phase, tuner, points)
    assert told["held"] == {"mode": "y"}
    assert told["sentences"][0].startswith("With mode=y, as at the best point")
    levels, _ = recommended(found, told, points, found.baseline)
    assert levels is not None
    assert levels["mode"] == "y"


def test_broken_guards_everywhere_leave_no_range_and_the_reason() -> None:
    found = study(PHASE)
    tuner, points = tuned(found, found.phases[0], lambda p: {**cliff(p), "health": 0.1})
    told = operating(found, found.phases[0], tuner, points)
    assert recommended(found, told, points, found.baseline) == (None, "no point is feasible")
    assert "none of 24 points is feasible: health >= 0.2 broken" in told["sentences"][0]
    assert operating(found, found.phases[0], tuner, [])["sentences"][0] == "No operating range: no point was measured."


def test_too_few_points_fall_back_on_the_best_and_say_so() -> None:
    found = study(PHASE)
    tuner, points = tuned(found, found.phases[0], cliff)
    told = operating(found, found.phases[0], tuner, points[:3])
    levels, how = recommended(found, told, points[:3], found.baseline)
    assert levels in [one.levels for one in points[:3]]
    assert how.startswith("the best point (point 0")


def test_a_point_that_was_given_up_is_recommended_only_for_want_of_one_that_ran_to_its_end_and_called_guessed() -> None:
    found = study(PHASE)
    tuner, measured = tuned(found, found.phases[0], cliff)
    whole, lost = (point for point in measured[:2])
    assert whole.feasible
    short = [
        whole.model_copy(update={"name": name, "objective": 9.0, "values": {0: 9.0}, "rung": rung, "guessed": guessed})
        for name, rung, guessed in (("at a rung", 2, 0.3), ("once", None, 0.0))
    ]
    told = operating(found, found.phases[0], tuner, [whole, *short])
    assert told["recommended_levels"] is None
    levels, how = recommended(found, told, [*short, whole], found.baseline)
    assert best_point(found, [*short, whole]) == whole
    assert levels == whole.levels
    assert "guessed" not in how
    lost = lost.model_copy(update={"feasible": False})
    _, of_a_rung = recommended(found, told, [short[0], lost], found.baseline)
    assert of_a_rung.startswith("the best point (at a rung, score 9, guessed from step 2)")
    _, of_once = recommended(found, told, [short[1], lost], found.baseline)
    assert of_once.startswith(f"the best point (once, score 9, guessed from 1 of {len(lost.values)} replicates)")


def test_a_front_holds_what_nothing_beats() -> None:
    goals = [{"metric": "cost", "direction": "minimize"}]
    found = study({**PHASE, "design": {**PHASE["design"], "also": goals}})
    phase = found.phases[0]
    levels: Levels = {"hu": 0.0, "ratio": 0.3}

    def at(name: str, score: float, cost: float | None, feasible: bool = True) -> Point:
        return Point(name=name, levels=levels, objective=score, guards=[], feasible=feasible, others=[cost])

    points = [at("good", 0.5, 3.0), at("cheap", 0.3, 1.0), at("beaten", 0.3, 2.0), at("ill", 0.9, 0.1, False), at("mute", 0.9, None)]
    assert pareto_front(found, phase, points) == ["good", "cheap"]
    tuner, real = tuned(found, phase, cliff)
    told = operating(found, phase, tuner, real)
    assert told["front"]
    assert told["sentences"][-1].startswith("No point is better in one of score and cost and as good in the others than: point ")
    assert pareto_front(study(PHASE), study(PHASE).phases[0], points) == []
