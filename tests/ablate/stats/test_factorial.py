"""Factorials: planted main effects and interactions are found, null ones are not, aliases and failures are said."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ablate.stats.factorial import Cell, Contrast, Factor, analyse

ON_OFF = [Factor(name, ("off", "on")) for name in ("bias", "overlap", "weighting")]
ALPHA = 0.05


def measured(
    truth: dict[tuple[int, ...], float], replicates: int, noise: float, seed: int, factors: int = 3
) -> dict[Cell, dict[int, float]]:
    """Truth is a sum over sets of factors that are on; each replicate moves all cells together."""
    draw = np.random.default_rng(seed)
    block = draw.normal(0, 1, replicates)
    return {
        cell: {
            r: sum(v for on, v in truth.items() if all(cell[i] for i in on)) + block[r] + noise * draw.standard_normal()
            for r in range(replicates)
        }
        for cell in itertools.product((0, 1), repeat=factors)
    }


def by_name(contrasts: tuple[Contrast, ...]) -> dict[str, Contrast]:
    return {one.name: one for one in contrasts}


def test_effects_are_the_means_a_reader_would_write_down() -> None:
    cells = measured({(0,): 0.3, (1, 2): 0.2}, 4, 0.1, 1)
    found = analyse(ON_OFF, cells, ALPHA)
    means = {cell: np.mean(list(values.values())) for cell, values in cells.items()}
    main = np.mean([means[1, b, c] - means[0, b, c] for b in (0, 1) for c in (0, 1)])
    crossed = np.mean([means[1, 1, c] - means[0, 1, c] - means[1, 0, c] + means[0, 0, c] for c in (0, 1)])
    assert by_name(found.main)["bias=on"].mean == pytest.approx(main)
    assert by_name(found.interactions)["bias=on x overlap=on"].mean == pytest.approx(crossed)


def test_a_planted_interaction_is_found_and_put_in_words() -> None:
    found = analyse(ON_OFF, measured({(0, 1): 1.0}, 4, 0.03, 2), ALPHA)
    assert [one.name for one in found.interactions if one.shown] == ["bias=on x overlap=on"]
    assert any(s.startswith("bias=on is shown to help only where overlap=on (+") for s in found.sentences)
    assert any(s.startswith("weighting=on is not shown to matter") for s in found.sentences)


def test_less_is_better_turns_the_sign() -> None:
    cells = measured({(0,): -1.0}, 4, 0.03, 3)
    assert by_name(analyse(ON_OFF, cells, ALPHA, sign=-1).main)["bias=on"].mean == pytest.approx(1.0, abs=0.1)


def test_without_effects_something_is_shown_in_at_most_alpha_of_the_studies() -> None:
    studies = 160
    shown = 0
    for seed in range(studies):
        found = analyse(ON_OFF, measured({}, 3 + seed % 4, 1.0, seed), ALPHA)
        shown += any(one.shown for one in (*found.main, *found.interactions))
    assert shown / studies <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / studies)


def test_more_than_two_levels_are_each_held_against_the_first() -> None:
    factors = [Factor("a", ("0", "1", "2")), Factor("b", ("off", "on"))]
    cells = {(a, b): {r: a * a + 10.0 * b + 0.01 * ((r + a + 2 * b) % 3) for r in range(4)} for a in range(3) for b in range(2)}
    means = {one.name: one.mean for one in analyse(factors, cells, ALPHA).main}
    assert means == pytest.approx({"a=1": 1.0, "a=2": 4.0, "b=on": 10.0}, abs=0.02)


def test_a_half_fraction_says_what_cannot_be_told_apart() -> None:
    half = {cell: values for cell, values in measured({(2,): 1.0}, 4, 0.03, 5).items() if cell[2] == (cell[0] == cell[1])}
    found = analyse(ON_OFF, half, ALPHA)
    assert by_name(found.main)["weighting=on"].assumes_absent == ("bias=on x overlap=on",)
    assert {one.name for one in found.not_estimable} == {"bias=on x overlap=on", "bias=on x weighting=on", "overlap=on x weighting=on"}
    assert any(s.startswith("bias=on x overlap=on is not told apart from weighting=on") for s in found.sentences)
    assert any(s.startswith("weighting=on is not told apart from bias=on x overlap=on") for s in found.sentences)
    assert not any("helps" in s or "harms" in s for s in found.sentences), "each main effect may be an interaction"


def test_failures_leave_out_only_the_replicates_that_cannot_tell() -> None:
    cells = measured({(0, 1): 1.0}, 5, 0.03, 6)
    del cells[1, 1, 1][0]
    for cell in ((1, 1, 0), (1, 1, 1)):
        cells[cell][1] = math.nan
    found = analyse(ON_OFF, cells, ALPHA)
    one = by_name(found.interactions)["bias=on x overlap=on"]
    assert one.lost == (1,)
    assert one.replicates == (0, 2, 3, 4)
    assert found.dropped == (((1, 1, 0), 1), ((1, 1, 1), 1))
    assert any("Without replicate 1," in s for s in found.sentences)


def test_too_few_replicates_and_constant_values_have_no_interval() -> None:
    two = analyse(ON_OFF, measured({(0,): 1.0}, 2, 0.1, 7), ALPHA)
    constant = analyse(ON_OFF, {cell: dict.fromkeys(range(4), float(cell[0])) for cell in itertools.product((0, 1), repeat=3)}, ALPHA)
    assert all(one.low is None and one.mean is not None for found in (two, constant) for one in found.main)
    assert any("no interval" in s for s in two.sentences)
    with pytest.raises(ValueError, match="level of each of 3 factors"):
        analyse(ON_OFF, {(0, 0, 7): {0: 1.0}}, ALPHA)


def test_a_cell_without_any_result_aliases_what_it_alone_would_tell() -> None:
    cells = measured({(0,): 1.0}, 4, 0.03, 8)
    cells[1, 1, 1] = {}
    whole = analyse(ON_OFF, cells, ALPHA)
    assert whole.not_estimable == (), "seven cells tell main effects and two-way interactions apart"
    assert whole.sentences[0] == (
        "No replicate has a result in 1 of 8 cells (bias=on, overlap=on, weighting=on): effects are those of the others; "
        "interactions of three and more factors are taken as absent."
    )
    two = {cell[:2]: {} if cell == (1, 1, 0) else values for cell, values in cells.items() if cell[2] == 0}
    found = analyse(ON_OFF[:2], two, ALPHA)
    assert [one.partners for one in found.not_estimable] == [("bias=on", "overlap=on")]
    assert found.not_estimable[0].steps == ((0, 1), (1, 1))
    never = analyse(ON_OFF[:2], {cell: values if cell[1] == 0 else {0: math.nan} for cell, values in two.items()}, ALPHA)
    assert any(s.startswith("overlap=on is not told apart from the mean") for s in never.sentences)
    nothing = analyse(ON_OFF[:2], {cell: {} for cell in two}, ALPHA)
    assert nothing.sentences == ("Of 4 cells of the factorial none has a result, so nothing is known of any factor.",)
