from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.offers import SettingType
from ablate.proposals import Told, Tuner
from ablate.study import Level, Levels, Phase, Range, Tune

FACTORS: dict[str, list[Level] | Range] = {
    "crops.threshold": Range(low=-700, high=300),
    "crops.ratio": Range(low=0.2, high=0.9),
    "loss.threshold": Range(low=0.1, high=0.9, when={"loss.matching": ["hierarchical"]}),
    "lr": Range(low=1e-4, high=1e-1, log=True),
    "layers": Range(low=1, high=6),
    "mode": ["plain", "fancy", [1, 2]],
}
TYPES = {"layers": SettingType(int, at_least=1, at_most=6)}
CARRIED: Levels = {"crops.threshold": 500.0, "loss.matching": "hierarchical", "other": 1}
CHEAP = ["tpe", "qmc", "cmaes", "random"]


def a_phase(
    sampler: str = "tpe", factors: dict[str, list[Level] | Range] = FACTORS, tune: int = 12, seed: int = 0, **more: object
) -> Phase:
    return Phase.model_validate(
        {
            "name": "thresholds",
            "design": {"tune": tune, "sampler": sampler, "seed": seed},
            "factors": {p: f.model_dump() if isinstance(f, Range) else f for p, f in factors.items()},
            **more,
        }
    )


def score(levels: Levels) -> float:
    threshold, ratio = levels["crops.threshold"], levels["crops.ratio"]
    assert isinstance(threshold, (int, float))
    assert isinstance(ratio, (int, float))
    return -((threshold + 200) ** 2) / 1e6 - (ratio - 0.5) ** 2


def told(points: Sequence[Levels]) -> list[Told]:
    return [Told(levels, None if i % 7 == 6 else score(levels), i % 5 != 4) for i, levels in enumerate(points)]


def too_cold(points: list[Levels]) -> list[bool]:
    return [float(p["crops.threshold"]) < -400 for p in points]  # type: ignore[arg-type]


def run_all(tuner: Tuner | None, phase: Phase, count: int, batch: int = 4) -> list[Levels]:
    """All points of a phase; with no tuner a fresh one for each batch, as after a restart."""
    points: list[Levels] = []
    while len(points) < count:
        one = tuner or Tuner(phase, CARRIED, TYPES, "maximize")
        points += one.propose(told(points), min(batch, count - len(points)), too_cold)
    return points


@pytest.mark.parametrize("sampler", CHEAP)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31 - 1), tune=st.integers(2, 13))
def test_a_restart_at_any_batch_proposes_the_same_points(sampler: str, seed: int, tune: int) -> None:
    phase = a_phase(sampler, seed=seed, tune=tune)
    through = run_all(Tuner(phase, CARRIED, TYPES, "maximize"), phase, tune)
    assert through == run_all(None, phase, tune)


def test_the_gaussian_process_proposes_the_same_after_a_restart() -> None:
    phase = a_phase("gp", {"crops.threshold": FACTORS["crops.threshold"], "crops.ratio": FACTORS["crops.ratio"]}, tune=4)
    phase = phase.model_copy(update={"design": Tune(tune=4, sampler="gp", batch=2)})
    assert run_all(Tuner(phase, CARRIED, TYPES, "maximize"), phase, 4, batch=2) == run_all(None, phase, 4, batch=2)


PROCESS = """
import json
from ablate.proposals import Told, Tuner
from ablate.study import Phase
phase = Phase.model_validate({"name": "t", "design": {"tune": 9}, "factors": {"a": {"low": 0, "high": 1}, "b": ["x", "y"]}})
points = []
while len(points) < 9:
    points += Tuner(phase, {}, None, "minimize").propose([Told(p, p["a"], p["b"] == "x") for p in points], min(4, 9 - len(points)))
print(json.dumps(points))
"""


def test_another_process_proposes_the_same_points_and_prints_nothing_else() -> None:
    done = [subprocess.run([sys.executable, "-W", "always", "-c", PROCESS], capture_output=True, text=True, check=True) for _ in range(2)]
    assert len(json.loads(done[0].stdout)) == 9
    assert done[0].stdout == done[1].stdout
    assert done[0].stderr == ""


@pytest.mark.parametrize("sampler", CHEAP)
def test_points_are_new_inside_their_ranges_and_on_top_of_what_is_carried(sampler: str) -> None:
    phase = a_phase(sampler, set={"extra": True})
    points = run_all(None, phase, 12)
    for point in points:
        assert -400 <= point["crops.threshold"] <= 300  # type: ignore[operator]
        assert 0.2 <= point["crops.ratio"] <= 0.9  # type: ignore[operator]
        assert 1e-4 <= point["lr"] <= 1e-1  # type: ignore[operator]
        assert isinstance(point["layers"], int)
        assert point["layers"] in range(1, 7)
        assert point["mode"] in ["plain", "fancy", [1, 2]]
        assert (point["other"], point["extra"], point["loss.matching"]) == (1, True, "hierarchical")
    assert len({json.dumps(point, sort_keys=True) for point in points}) == 12


def test_a_range_that_is_not_live_is_left_at_what_is_carried() -> None:
    elsewhere = {**CARRIED, "loss.matching": "all_pairs", "loss.threshold": 0.3}
    tuner = Tuner(a_phase(), elsewhere, TYPES, "maximize")
    assert "loss.threshold" not in tuner.live_factors()
    assert "loss.threshold" in Tuner(a_phase(), CARRIED, TYPES, "maximize").live_factors()
    assert "loss.threshold" in Tuner(a_phase(set={"loss.matching": "hierarchical"}), elsewhere, TYPES, "maximize").live_factors()
    assert {point["loss.threshold"] for point in tuner.propose([], 4)} == {0.3}


def test_nothing_is_proposed_where_no_range_is_live() -> None:
    tuner = Tuner(a_phase(factors={"loss.threshold": FACTORS["loss.threshold"]}), {"loss.matching": "none"}, None, "maximize")
    assert tuner.live_factors() == {}
    assert tuner.propose([], 4) == []


def test_infeasible_points_are_asked_again_and_never_returned() -> None:
    seen: list[Levels] = []

    def infeasible(points: list[Levels]) -> list[bool]:
        seen.extend(points)
        return [float(p["crops.threshold"]) < 100 for p in points]  # type: ignore[arg-type]

    found = Tuner(a_phase("random"), CARRIED, TYPES, "maximize").propose([], 4, infeasible)
    assert len(found) == 4
    assert len(seen) > 4
    assert all(float(point["crops.threshold"]) >= 100 for point in found)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", CHEAP)
def test_where_nothing_is_feasible_the_asking_ends(sampler: str) -> None:
    assert Tuner(a_phase(sampler), CARRIED, TYPES, "maximize").propose([], 3, lambda points: [True] * len(points)) == []


@pytest.mark.parametrize("sampler", [sampler for sampler in CHEAP if sampler != "cmaes"])
def test_a_small_space_is_used_up_without_repeats(sampler: str) -> None:
    factors: dict[str, list[Level] | Range] = {"layers": Range(low=1, high=3), "mode": ["x", "y"]}
    phase = a_phase(sampler, factors, tune=20)
    points: list[Levels] = []
    while new := Tuner(phase, {}, TYPES, "maximize").propose([Told(p, 1.0, True) for p in points], 4):
        points += new
    assert sorted((p["layers"], p["mode"]) for p in points) == [(n, m) for n in (1, 2, 3) for m in ("x", "y")]


def test_points_that_do_not_come_again_are_told_as_they_are() -> None:
    foreign = [
        Told(
            {**CARRIED, "crops.threshold": t, "crops.ratio": 0.5, "mode": "plain", "layers": 2, "lr": 0.01, "loss.threshold": 0.5},
            -abs(t),
            True,
        )
        for t in (-300.0, -50.0, 20.0, 250.0)
    ]
    phase = a_phase()
    first = Tuner(phase, CARRIED, TYPES, "maximize").propose(foreign, 4)
    assert first == Tuner(phase, CARRIED, TYPES, "maximize").propose(foreign, 4)
    assert not [point for point in first if point in [t.levels for t in foreign]]


def mean_distance(sampler: str, seed: int, *, direction: str = "maximize", broken_above: float | None = None) -> float:
    """How far the last points of a phase are from the best threshold, -200 HU."""
    phase = a_phase(sampler, {"crops.threshold": FACTORS["crops.threshold"]}, tune=32, seed=seed)
    points: list[Told] = []
    while len(points) < 32:
        for levels in Tuner(phase, {}, None, direction).propose(points, 4):
            value = float(levels["crops.threshold"])  # type: ignore[arg-type]
            good = -abs(value + 200)
            feasible = broken_above is None or value <= broken_above
            points.append(Told(levels, (good if feasible else 1e6) * (1 if direction == "maximize" else -1), feasible))
    return sum(abs(float(p.levels["crops.threshold"]) + 200) for p in points[-12:]) / 12  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_what_is_told_draws_the_sampler_to_the_best_point(direction: str) -> None:
    informed = sum(mean_distance("tpe", seed, direction=direction) for seed in range(3)) / 3
    blind = sum(mean_distance("random", seed) for seed in range(3)) / 3
    assert informed < 0.5 * blind


def test_points_that_break_a_guard_do_not_draw_the_sampler_however_well_they_score() -> None:
    assert sum(mean_distance("tpe", seed, broken_above=0.0) for seed in range(3)) / 3 < 150


def test_a_fixed_design_has_no_tuner() -> None:
    with pytest.raises(ValueError, match="proposes nothing"):
        Tuner(Phase(name="p", design="path", factors={"a": [1]}), {}, None, "maximize")


@settings(max_examples=40)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(0, 1000))
def test_rounded_points_stay_inside_their_range(low: float, width: float, seed: int) -> None:
    high = low + width
    if not low < high:
        return
    phase = a_phase("random", {"a": Range(low=low, high=high)}, seed=seed)
    for point in Tuner(phase, {}, None, "maximize").propose([], 4):
        assert low <= point["a"] <= high  # type: ignore[operator]


@pytest.mark.parametrize("sampler", CHEAP)
def test_more_points_go_on_where_fewer_ended(sampler: str) -> None:
    assert run_all(None, a_phase(sampler, tune=16), 16)[:8] == run_all(None, a_phase(sampler, tune=8), 8)


def test_a_grid_is_regular_reaches_the_ends_and_ends_itself() -> None:
    factors: dict[str, list[Level] | Range] = {
        "t": Range(low=-100, high=100),
        "r": Range(low=0.01, high=1.0, log=True),
        "n": Range(low=1, high=2),
        "mode": ["x", "y"],
    }
    types = {"n": SettingType(int, at_least=1, at_most=2)}
    phase = a_phase("grid", factors, tune=40)
    points: list[Levels] = []
    while new := Tuner(phase, {}, types, "maximize").propose([Told(p, 1.0, True) for p in points], 4):
        points += new
    assert len(points) == 36
    assert sorted({float(p["t"]) for p in points}) == [-100.0, 0.0, 100.0]  # type: ignore[arg-type]
    assert sorted({float(p["r"]) for p in points}) == pytest.approx([0.01, 0.1, 1.0])  # type: ignore[arg-type]
    assert {p["n"] for p in points} == {1, 2}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "grid", "random"])
def test_several_objectives_are_told_and_replayed(sampler: str) -> None:
    factors: dict[str, list[Level] | Range] = {"a": Range(low=0, high=1), "b": Range(low=0, high=1)}
    phase = a_phase(sampler, factors, tune=6).model_copy(
        update={"design": Tune(tune=6, sampler=sampler, batch=2, also=[{"metric": "cost", "direction": "minimize"}])}  # type: ignore[arg-type, list-item]
    )

    def both(points: Sequence[Levels]) -> list[Told]:
        return [Told(p, float(p["a"]), True, (float(p["b"]),)) for p in points]  # type: ignore[arg-type]

    def through(tuner: Tuner | None) -> list[Levels]:
        points: list[Levels] = []
        while len(points) < 6 and (new := (tuner or Tuner(phase, {}, None, "maximize")).propose(both(points), 2)):
            points += new
        return points

    assert len(through(None)) >= 4
    assert through(None) == through(Tuner(phase, {}, None, "maximize"))


def test_cmaes_with_one_range_is_refused_with_what_to_take() -> None:
    with pytest.raises(ValueError, match=r"cmaes needs at least two ranges but factors has 1. Take tpe"):
        a_phase("cmaes", {"layers": Range(low=1, high=3), "mode": ["x", "y"]})


def test_more_points_follow_those_of_the_first_call_in_batches_of_their_own() -> None:
    assert Tune(tune=10, batch=4, more=[6, 1]).batches == [4, 4, 2, 4, 2, 1]
    assert Tune(tune=10, batch=4, more=[6, 1]).points == 17
