from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import figures
from dashboards.mattered import AREAS, points_map, waterfall
from dashboards.palette import VERDICTS, lines
from trainer.measure.stability import loss_largest_rise

Curves = Callable[[pd.DataFrame, str], dict[str, dict[int, tuple[float, float, float]]]]


def drawn(frame: pd.DataFrame, metric: str) -> dict[str, dict[int, tuple[float, float, float]]]:
    """Arm to step to (mean, least, greatest), as the figure has it."""
    arms = list(dict.fromkeys(frame["arm"]))
    figure = figures.curves(frame, metric, lines(arms, "baseline"), winner="baseline", marked={})
    found: dict[str, dict[int, tuple[float, float, float]]] = {}
    curves = [trace for trace in figure.data if trace.mode == "lines"]
    for band, line in zip(curves[0::2], curves[1::2], strict=True):
        count = len(line.x)
        highs, lows = band.y[:count], band.y[count:][::-1]
        found[line.legendgroup] = {s: (m, low, high) for s, m, low, high in zip(line.x, line.y, lows, highs, strict=True)}
    return found


def naive(frame: pd.DataFrame) -> dict[str, dict[int, tuple[float, float, float]]]:
    values: dict[str, dict[int, list[float]]] = {}
    for _, row in frame.iterrows():
        values.setdefault(row["arm"], {}).setdefault(int(row["step"]), []).append(float(row["value"]))
    return {arm: {s: (sum(v) / len(v), min(v), max(v)) for s, v in steps.items()} for arm, steps in values.items()}


def check(curves: Curves, frame: pd.DataFrame) -> None:
    found, wanted = curves(frame, "loss"), naive(frame)
    assert found.keys() == wanted.keys()
    for arm, steps in wanted.items():
        assert found[arm].keys() == steps.keys()
        for step, three in steps.items():
            assert found[arm][step] == pytest.approx(three)


FRAME = pd.DataFrame(
    [(arm, r, step, (1 + r) ** 2 * (step + 1) + len(arm)) for arm in ("baseline", "b=1") for r in range(3) for step in (0, 5, 10)],
    columns=["arm", "replicate", "step", "value"],
)


def test_a_curve_is_the_mean_over_replicates_and_its_band_their_spread() -> None:
    check(drawn, FRAME)


def test_a_long_curve_is_drawn_in_stretches_and_keeps_its_ends_and_its_spread() -> None:
    rows = [("baseline", r, step, 1.0 + 100.0 * r) for r in range(2) for step in range(0, 30_000, 10)]
    found = drawn(pd.DataFrame(rows, columns=["arm", "replicate", "step", "value"]), "ratio")["baseline"]
    assert len(found) == figures.POINTS
    assert (min(found), max(found)) == (95, 29_895), "the middles of the first and of the last stretch"
    assert all(three == pytest.approx((51, 1, 101)) for three in found.values())


def naive_rise(values: list[float]) -> float:
    window = max(1, len(values) // 10)
    smooth = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
    return max(smooth[late] - smooth[early] for late in range(len(smooth)) for early in range(late + 1))


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=60))
def test_the_largest_rise_is_that_of_the_trainers_measure(values: list[float]) -> None:
    at, rise = figures.largest_rise(values)
    assert rise == pytest.approx(naive_rise(values), abs=1e-9)
    assert 0 <= at < len(values)
    assert rise == pytest.approx(loss_largest_rise(values), abs=1e-6)


def test_a_rise_is_marked_where_it_is_and_only_on_a_loss() -> None:
    """Down from 4, up by .6 around step 60, down again; the other arm only falls."""
    rows = [("baseline", 0, step, 4 - step / 50) for step in range(100)]
    rows += [("b=1", 0, step, 4 - step / 50 + (0.6 if 50 <= step < 70 else 0)) for step in range(100)]
    frame = pd.DataFrame(rows, columns=["arm", "replicate", "step", "value"])

    def marks(metric: str) -> list[Any]:
        figure = figures.curves(frame, metric, lines(["baseline", "b=1"], "baseline"), winner="b=1", marked={})
        return [trace for trace in figure.data if trace.mode == "markers"]

    (mark,) = marks("train/loss_total")
    assert mark.name == "largest rise of b=1"
    assert 50 <= mark.x[0] < 70
    assert "rises by 0.4" in mark.hovertemplate
    assert marks("train/loss_stability") == marks("train/foreground_ratio_global") == []


def test_a_median_in_place_of_the_mean_is_caught() -> None:
    def wrong(frame: pd.DataFrame, metric: str) -> dict[str, dict[int, tuple[float, float, float]]]:
        medians = frame.groupby(["arm", "step"], as_index=False)["value"].median()
        right = drawn(frame, metric)
        return {
            arm: {
                s: (float(medians[(medians["arm"] == arm) & (medians["step"] == s)]["value"].iloc[0]), low, high)
                for s, (_, low, high) in steps.items()
            }
            for arm, steps in right.items()
        }

    with pytest.raises(AssertionError):
        check(wrong, FRAME)


def arm(name: str, verdict: str, mean: float | None, *, half: float | None = 0.01, broken: bool = False) -> dict[str, Any]:
    effect = (
        None
        if mean is None
        else {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}
    )
    guards = [{"guard": "mi >= 0.2", "metric": "probe/mi", "value": 0.1, "holds": not broken}]
    return {"name": name, "verdict": verdict, "effect": effect, "p_adjusted": 0.01, "guards": guards}


ARMS = [
    arm("baseline", "baseline", 0.0),
    arm("good", "adopt", 0.06),
    arm("bad", "reject", -0.01, broken=True),
    arm("open", "undecided", 0.02, half=None),
    arm("lost", "undecided", None),
]


def effects(sign: int = 1) -> Any:
    return figures.effects(ARMS, metric="probe/mrr", sign=sign, smallest_effect=0.02, references={"untrained": 0.03}, alpha=0.05)


def test_the_effect_plot_has_each_arm_with_its_interval_and_its_verdict_by_colour_shape_and_word() -> None:
    figure = effects()
    marks = {trace.hovertemplate.split("</b>")[0].removeprefix("<b>"): trace for trace in figure.data}
    assert marks.keys() == {"baseline", "good", "bad", "open", "lost"}
    for one in ARMS:
        mark, trace = VERDICTS[one["verdict"]], marks[one["name"]]
        assert (trace.marker.color, trace.marker.symbol) == (mark.colour, mark.symbol)
    assert marks["good"].error_x.array == pytest.approx([0.01])
    assert marks["good"].error_x.arrayminus == pytest.approx([0.01])
    assert marks["open"].error_x.array is None
    said = " ".join(annotation.text for annotation in figure.layout.annotations)
    assert "✓ adopt" in said
    assert "guard broken: mi" in said
    assert "untrained" in said


def test_a_number_below_a_mark_stays_within_the_figure() -> None:
    """It reaches towards the middle: centred on a mark near the left end it lost its sign on a phone."""
    placed = {trace.name: trace.textposition for trace in effects().data}
    assert placed["bad"] == placed["baseline"] == "bottom right"
    assert placed["good"] == "bottom left"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_arm_is_on_top_whichever_way_is_better(sign: int) -> None:
    figure = effects(sign)
    known = [trace for trace in figure.data if trace.opacity == 1.0]
    means = [trace.x[0] * sign for trace in sorted(known, key=lambda trace: trace.y[0])]
    assert means == sorted(means)


def test_the_smallest_effect_is_a_band_and_the_baseline_and_the_reference_are_lines() -> None:
    shapes = [(shape.x0, shape.x1) for shape in effects().layout.shapes]
    assert (-0.02, 0.02) in shapes
    assert (0, 0) in shapes
    assert (0.03, 0.03) in shapes


def test_no_two_arms_share_a_height_however_long_their_names() -> None:
    arms = [arm(", ".join(["crops.some_setting=true"] * n), "undecided", 0.01 * n) for n in range(1, 9)]
    figure = figures.effects(arms, metric="m", sign=1, smallest_effect=0.02, references={}, alpha=0.05)
    heights = sorted(trace.y[0] for trace in figure.data)
    assert all(high - low >= figures.ROW_PIXELS for low, high in itertools.pairwise(heights))


def test_a_name_is_broken_into_lines_and_nothing_is_lost() -> None:
    name = ", ".join(f"setting_{i}=true" for i in range(9)) + ", " + "x" * 200
    broken = figures.wrapped(name)
    assert max(map(len, broken)) <= figures.NAME_WIDTH + 1
    assert "".join(broken).replace(" ", "") == name.replace(" ", "")


def test_markup_in_a_name_is_text_in_every_figure() -> None:
    nasty = '<a href="http://example.org">x</a>'
    frame = FRAME.assign(arm=FRAME["arm"].replace({"b=1": nasty}))
    made = [
        figures.effects([arm(nasty, "adopt", 0.1)], metric=nasty, sign=1, smallest_effect=0.02, references={nasty: 0.1}, alpha=0.05),
        figures.curves(frame, nasty, lines(["baseline", nasty], "baseline"), nasty, {nasty: 3.0}),
        figures.pairs({0: 1.0}, {0: 2.0}, nasty, (nasty, "b")),
        figures.slices([{"name": nasty, "levels": {nasty: 1.0}, "objective": 1.0, "feasible": True}], nasty, metric=nasty, threshold=None),
    ]
    for figure in made:
        assert "<a " not in str(figure.to_dict())
        assert "&lt;a " in str(figure.to_dict())


def test_a_slice_shows_each_measured_point_and_what_is_recommended() -> None:
    points = [
        {"name": "point 00", "levels": {"t": 0.3}, "objective": 0.5, "feasible": True},
        {"name": "point 01", "levels": {"t": 0.6}, "objective": 0.4, "feasible": False},
        {"name": "point 02", "levels": {"t": 0.7}, "objective": None, "feasible": False},
    ]
    figure = figures.slices(points, "t", metric="m", threshold={"recommended": 0.3, "low": 0.25, "high": 0.35})
    feasible, infeasible = figure.data
    assert (list(feasible.x), list(feasible.y), feasible.marker.symbol) == ([0.3], [0.5], "circle")
    assert (list(infeasible.x), infeasible.marker.symbol) == ([0.6], "x")
    assert {(shape.x0, shape.x1) for shape in figure.layout.shapes} == {(0.25, 0.35), (0.3, 0.3)}


def test_a_setting_searched_by_its_logarithm_is_drawn_so_and_single_trials_stand_beside_their_mean() -> None:
    points = [
        {"name": f"point 0{i}", "levels": {"t": 10.0**i}, "objective": 0.5, "feasible": True, "values": {0: 0.4, 1: 0.6}} for i in (0, 2)
    ]
    figure = figures.slices(points, "t", metric="m", threshold={"recommended": 100, "low": 50, "high": 200}, log=True)
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.annotations[0].x == 2, "a text's place is the logarithm"
    trials = next(trace for trace in figure.data if trace.name == "a trial")
    assert list(zip(trials.x, trials.y, strict=True)) == [(1.0, 0.4), (1.0, 0.6), (100.0, 0.4), (100.0, 0.6)]


TUNED = {
    "points": [
        {"name": "point 00", "levels": {"crops.foreground_threshold": -400, "r": 0.3}, "objective": 0.5, "feasible": True},
        {"name": "point 01", "levels": {"crops.foreground_threshold": 200, "r": 0.8}, "objective": None, "feasible": False},
    ],
    "operating": {
        "thresholds": [{"name": "crops.foreground_threshold", "log": False}, {"name": "r", "log": False}],
        "spans": [],
        "recommended_levels": {"crops.foreground_threshold": -380, "r": 0.35},
        "regions": {"x": "crops.foreground_threshold", "y": "r", "xs": [-500, 0, 500], "ys": [0, 1], "rows": ["gfu", "fxu"]},
    },
}


def tuned_map(threshold: float, ratio: float) -> dict[str, Any]:
    thresholds = {"crops.foreground_threshold": {"recommended": threshold}, "r": {"recommended": ratio}}
    figure = points_map(TUNED, ["crops.foreground_threshold", "r"], {"objective": {"metric": "m"}, "thresholds": thresholds})
    assert figure.layout.xaxis.title.text == "crops.foreground_threshold (HU)"
    return {trace.name: trace for trace in figure.data}


def test_the_map_shows_regions_and_calls_the_middle_recommended_only_where_the_study_does() -> None:
    """Where tuning did not beat what was carried, table and map named two different settings as recommended."""
    adopted, kept = tuned_map(-380, 0.35), tuned_map(-500, 0.5)
    assert [name for name in adopted if "recommended" in name] == ["recommended: the middle of the operating range"]
    star = kept["recommended: the carried value stays"]
    assert (star.x, star.y) == ((-500,), (0.5,))
    middle = kept["middle of the operating range"]
    assert (middle.x, middle.y) == ((-380,), (0.35,))
    fields = {letter: [list(row) for row in kept[word].z] for letter, word, _ in AREAS}
    assert fields == {
        letter: [[1 if found == letter else None for found in row] for row in TUNED["operating"]["regions"]["rows"]] for letter in "gfxu"
    }
    assert len({trace.colorscale for trace in kept.values() if trace.type == "heatmap"}) == 4, "each has a look of its own"
    assert kept["not measured: beyond the outermost points"].showlegend


@pytest.mark.parametrize("sign", [1, -1])
def test_the_waterfall_ends_at_the_sum_of_its_steps_in_the_metrics_own_direction(sign: int) -> None:
    path = [
        {"name": "a", "mean": 0.1, "low": 0.05, "high": 0.2, "pairs": 4},
        {"name": "b", "mean": -0.02, "low": None, "high": None, "pairs": 4},
    ]
    document = {
        "objective": {"metric": "m", "direction": "maximize" if sign > 0 else "minimize"},
        "attribution": {"path": path, "start": {"name": "baseline", "mean": 0.5}},
    }
    bars = waterfall(document).data[0]
    assert bars.y == pytest.approx((0.5, sign * 0.1, sign * -0.02, 0.5 + sign * 0.08))
    assert bars.text[-1] == f"{0.5 + sign * 0.08:.3g}"
    assert bars.meta["low"][1] == pytest.approx(0.05 if sign > 0 else -0.2)


def test_room_for_an_axis_is_for_the_labels_that_it_will_have() -> None:
    def left(*values: float) -> int:
        frame = pd.DataFrame([("baseline", 0, i, value) for i, value in enumerate(values)], columns=["arm", "replicate", "step", "value"])
        return int(figures.curves(frame, "m", lines(["baseline"], "baseline"), "baseline", {}).layout.margin.l)

    one = figures.CHARACTER_PIXELS
    assert left(0.0, 9.0) + 2 * one == left(0.0, 0.9) == left(0.0, 0.61) < left(0.61, 0.62)
    assert left(-0.5, 0.4) > left(0.0, 0.9)
    assert left(float("nan"), float("inf")) < left(0.0, 0.9)


def test_arms_are_told_apart_by_colour_and_line_style_up_to_two_dozen() -> None:
    drawn_as = lines(["baseline", *(f"arm {i}" for i in range(24))], "baseline")
    assert len({(line.colour, line.dash) for line in drawn_as.values()}) == 25


def test_the_effect_plot_of_many_arms_takes_time_in_proportion_to_them() -> None:
    def seconds(count: int) -> float:
        many = [arm(f"x={number}", "undecided", 0.01 * number) for number in range(count)]
        found = []
        for _ in range(3):
            began = time.process_time()
            figures.effects(many, metric="probe/mrr", sign=1, smallest_effect=0.02, references={}, alpha=0.05)
            found.append(time.process_time() - began)
        return min(found)

    seconds(2)
    assert seconds(120) < 8 * seconds(30)  # 4 times where each arm costs the same; plotly's add_ calls made it 14
