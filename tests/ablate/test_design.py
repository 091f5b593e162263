from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.design import ALL_OFF, all_off, expand, inert_switches, possible_carries, same, short_names, show
from ablate.study import BASELINE, Arm, Levels, Phase, Range, Study, Tune

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2, allow_nan=False), st.sampled_from(["a", "b", "1", "true", ""])
)
PATHS = st.sampled_from(["a", "b.x", "c.x", "d.y.z"])
FACTORS = st.dictionaries(PATHS, st.lists(SCALARS, min_size=1, max_size=3, unique_by=repr), min_size=1, max_size=3)
COMPONENTS = st.dictionaries(st.sampled_from(["one", "two", "three"]), st.dictionaries(PATHS, SCALARS, min_size=1, max_size=2), max_size=2)
LEVELS = st.dictionaries(PATHS, SCALARS, max_size=3)
DESIGNS = st.sampled_from(["factorial", "one_at_a_time", "add_one_in", "leave_one_out", "path"])


def key(levels: Levels) -> list[tuple[str, str, object]]:
    """Levels to compare by: numbers as floats, true and false apart from 1 and 0."""
    plain = {p: ("bool" if isinstance(v, bool) else "number" if isinstance(v, (int, float)) else "other", v) for p, v in levels.items()}
    return sorted(((p, k, float(v) if k == "number" else v) for p, (k, v) in plain.items()), key=repr)


def distinct(found: list[Levels], carried: Levels) -> list[Levels]:
    kept: list[Levels] = []
    for levels in found:
        if key(levels) != key(carried) and all(key(levels) != key(other) for other in kept):
            kept.append(levels)
    return kept


def naive(phase: Phase, carried: Levels) -> list[Levels]:
    """Every design as loops that a reader believes at sight; the levels of its arms, the baseline left out."""
    ground = {**carried, **phase.set}
    bundles: list[list[Levels]] = []
    for path, levels in phase.factors.items():
        assert not isinstance(levels, Range)
        bundles.append([{path: level} for level in levels])
    for levels_of_component in phase.components.values():
        bundles.append([{}, dict(levels_of_component)])
    found: list[Levels] = []
    if phase.design == "factorial":
        found = [ground]
        for bundle in bundles:
            found = [{**before, **state} for before in found for state in bundle]
    elif phase.design == "one_at_a_time":
        for bundle in bundles:
            for state in bundle:
                if any(p not in carried or key({p: carried[p]}) != key({p: v}) for p, v in state.items()):
                    found.append({**ground, **state})
    elif phase.design == "add_one_in":
        for bundle in bundles:
            found.append({**ground, **bundle[-1]})
    elif phase.design == "leave_one_out":
        for left_out in [-1, *range(len(bundles))]:
            levels = dict(ground)
            for number, bundle in enumerate(bundles):
                if number != left_out:
                    levels.update(bundle[-1])
            found.append(levels)
    else:
        levels = dict(ground)
        for bundle in bundles:
            for state in bundle:
                changed = {**levels, **state}
                if key(changed) != key(levels):
                    levels = changed
                    found.append(dict(levels))
    return distinct(found, carried)


def check(phase: Phase, carried: Levels, arms: list[Arm]) -> None:
    assert [key(arm.levels) for arm in arms[1:]] == [key(levels) for levels in naive(phase, carried)]


@given(DESIGNS, FACTORS, COMPONENTS, LEVELS, LEVELS)
def test_every_design_equals_its_naive_loops(design: str, factors: dict, components: dict, fixed: Levels, carried: Levels) -> None:
    phase = Phase(name="p", design=design, factors=factors, components=components, set=fixed)
    arms = expand(phase, carried)
    assert arms[0] == Arm(name=BASELINE, levels=carried)
    check(phase, carried, arms)


@given(DESIGNS, FACTORS, COMPONENTS, LEVELS, LEVELS)
def test_names_and_levels_are_unique(design: str, factors: dict, components: dict, fixed: Levels, carried: Levels) -> None:
    arms = expand(Phase(name="p", design=design, factors=factors, components=components, set=fixed), carried)
    assert len({arm.name for arm in arms}) == len(arms)
    assert len({repr(key(arm.levels)) for arm in arms}) == len(arms)


def test_a_planted_error_in_a_design_fails_the_comparison() -> None:
    phase = Phase(name="p", design="factorial", set={"s": 1}, factors={"a": [0, 1], "b": [0, 1]})
    good = expand(phase, {"a": 0})
    check(phase, {"a": 0}, good)
    without_a_cell = good[:-1]
    set_forgotten = [good[0], *(Arm(name=a.name, levels={k: v for k, v in a.levels.items() if k != "s"}) for a in good[1:])]
    set_over_factors = expand(Phase(name="p", design="factorial", set={"s": 1, "a": 0}, factors={"b": [0, 1]}), {"a": 0})
    for wrong in (without_a_cell, set_forgotten, set_over_factors):
        with pytest.raises(AssertionError):
            check(phase, {"a": 0}, wrong)


def test_the_flags_of_the_collapse_study_give_eight_cells_with_readable_names() -> None:
    phase = Phase(
        name="flags",
        design="factorial",
        set={"crops.foreground_threshold": -500},
        factors={"crops.foreground_crop_prob": [0.0, 1.0], "crops.subset": [False, True], "crops.min_global_overlap": [0.0, 0.3]},
    )
    carried: Levels = {"crops.foreground_threshold": 500, "crops.foreground_crop_prob": 0.0}
    names = [arm.name for arm in expand(phase, carried)]
    assert names[:3] == [BASELINE, ALL_OFF, "min_global_overlap=0.3"]
    assert "foreground_crop_prob=1, subset=true, min_global_overlap=0.3" in names
    assert len(names) == 9
    off = all_off(phase, carried)
    assert off is not None
    assert off == expand(phase, carried)[1]


def test_the_all_off_cell_is_the_baseline_where_the_two_coincide() -> None:
    phase = Phase(name="p", design="factorial", factors={"a": [0, 1]})
    assert all_off(phase, {"a": 0.0}) == Arm(name=BASELINE, levels={"a": 0.0})
    assert all_off(Phase(name="p", design="path", factors={"a": [0, 1]}), {}) is None


def test_true_and_one_are_different_levels_and_one_and_one_point_zero_are_not() -> None:
    assert same(1, 1.0)
    assert not same(1, True)
    assert not same([1, True], [1, 1])
    assert len(expand(Phase(name="p", design="one_at_a_time", factors={"a": [True]}), {"a": 1})) == 2


def test_a_path_names_the_step_that_it_goes_up_to() -> None:
    phase = Phase(name="p", design="path", components={"crops": {"a": 1}, "overlap": {"b": 1}}, factors={"w": ["linear", "squared"]})
    names = [arm.name for arm in expand(phase, {})]
    assert names == [BASELINE, "w=linear", "up to w=squared", "up to crops", "up to overlap"]


def test_a_tuning_phase_is_not_expanded() -> None:
    with pytest.raises(ValueError, match="proposed"):
        expand(Phase(name="p", design=Tune(tune=4), factors={"a": Range(low=0, high=1)}), {})


@given(st.lists(st.from_regex(r"[ab](\.[ab]){0,3}", fullmatch=True), min_size=1, max_size=6, unique=True))
def test_short_names_end_their_path_and_are_unique(paths: list[str]) -> None:
    names = short_names(paths)
    assert len(set(names.values())) == len(paths)
    assert all(path == name or path.endswith(f".{name}") for path, name in names.items())


@given(SCALARS, SCALARS)
def test_levels_that_differ_never_look_the_same(one: object, other: object) -> None:
    assert same(one, other) == (show(one) == show(other))  # type: ignore[arg-type]


def identity_without(*inert: str):
    return lambda levels: repr(sorted((p, v) for p, v in levels.items() if p not in inert))


@pytest.mark.parametrize("design", ["factorial", "one_at_a_time", "add_one_in", "leave_one_out", "path"])
def test_a_factor_without_effect_is_found_in_every_design(design: str) -> None:
    phase = Phase(name="p", design=design, factors={"dead": [0, 1], "live": [0, 1]}, components={"idle": {"dead": 3}})
    assert inert_switches(phase, {"dead": 0, "live": 0}, identity_without("dead")) == ["factors.dead", "components.idle"]
    assert inert_switches(phase, {"dead": 0, "live": 0}, identity_without()) == []


def test_a_factor_that_matters_in_one_cell_only_is_not_inert() -> None:
    phase = Phase(name="p", design="factorial", factors={"switch": [0, 1], "threshold": [1, 2]})

    def identity(levels: Levels) -> str:
        return repr((levels["switch"], levels["threshold"] if levels["switch"] else None))

    assert inert_switches(phase, {}, identity) == []
    assert inert_switches(phase.model_copy(update={"design": "one_at_a_time"}), {"switch": 0, "threshold": 1}, identity) == [
        "factors.threshold"
    ]


def test_a_component_that_is_carried_already_is_not_called_inert() -> None:
    phase = Phase(name="p", design="path", components={"held": {"a": 1}, "new": {"b": 1}})
    assert inert_switches(phase, {"a": 1, "b": 0}, identity_without()) == []


def test_only_live_ranges_are_looked_at() -> None:
    factors = {"a": Range(low=0, high=1), "b": Range(low=0, high=1, when={"mode": ["x"]})}
    phase = Phase(name="p", design=Tune(tune=4), factors=factors)
    assert inert_switches(phase, {"mode": "y"}, identity_without("a", "b")) == ["factors.a"]
    assert inert_switches(phase, {"mode": "x"}, identity_without("a", "b")) == ["factors.a", "factors.b"]


def a_study(*phases: Phase) -> Study:
    return Study.model_validate(
        {
            "study": "s",
            "question": "?",
            "trainer": {"callable": "m:f"},
            "baseline": {"a": 0},
            "objective": {"metric": "m", "smallest_effect": 1.0},
            "phases": [phase.model_dump(by_alias=True) for phase in phases],
        }
    )


def test_what_may_be_carried_holds_every_chain_of_winners() -> None:
    first = Phase(name="one", design="one_at_a_time", factors={"a": [0, 1, 2]})
    second = Phase(name="two", design="one_at_a_time", factors={"b": [1]})
    study = a_study(first, second, first.model_copy(update={"name": "three"}))
    carries, complete = possible_carries(study, 2)
    assert complete
    assert sorted(map(repr, carries)) == sorted(repr(c) for a in (0, 1, 2) for c in ({"a": a}, {"a": a, "b": 1}))
    assert carries[0] == {"a": 0}


def test_a_long_list_of_carries_says_that_it_was_cut() -> None:
    wide = Phase(name="one", design="one_at_a_time", factors={"a": list(range(1, 30))})
    carries, complete = possible_carries(a_study(wide, wide.model_copy(update={"name": "two"})), 1, at_most=10)
    assert (len(carries), complete) == (10, False)
    tuned = Phase(name="one", design=Tune(tune=4), set={"s": 1}, factors={"a": Range(low=0, high=1)})
    assert possible_carries(a_study(tuned, wide), 1) == ([{"a": 0}, {"a": 0, "s": 1}], False)
