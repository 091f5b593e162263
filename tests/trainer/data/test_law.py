"""The sampler against its law, enumerated by loops that share no code with it, with every constraint at once."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chisquare

from trainer.config import Crops
from trainer.data.crops import CropSampler
from trainer.data.foreground import Foreground

EDGE, GLOBAL, LOCAL, PATCH = 8, 4, 2, 2
DRAWS = 6000
LEAST_P = 1e-3

Corner = tuple[int, int, int]
CROPS = Crops(
    global_size_voxels=GLOBAL,
    local_size_voxels=LOCAL,
    local_crops=1,
    foreground_crop_prob=0.5,
    min_foreground_ratio=0.4,
    min_foreground_ratio_local=0.6,
    localcrops_subset_of_globalcrops=True,
    min_global_overlap=0.2,
)


def body() -> np.ndarray:
    """A blob away from one corner, with holes: many positions are infeasible and some have no feasible partner."""
    mask = np.zeros((EDGE, EDGE, EDGE), dtype=bool)
    mask[3:, 2:, 3:] = True
    mask[5, 4, 5] = mask[6, 2, 6] = False
    return mask


def share(mask: np.ndarray, corner: Corner, size: int) -> float:
    inside = [mask[corner[0] + a, corner[1] + b, corner[2] + c] for a in range(size) for b in range(size) for c in range(size)]
    return sum(map(int, inside)) / size**3


def iou(one: Corner, other: Corner, size: int) -> float:
    shared = 1
    for a, b in zip(one, other, strict=True):
        shared *= max(0, min(a, b) + size - max(a, b))
    return shared / (2 * size**3 - shared)


class Law:
    """Exact probabilities, by enumeration."""

    def __init__(self, mask: np.ndarray, crops: Crops) -> None:
        self.crops = crops
        room = EDGE - GLOBAL + 1
        self.positions: list[Corner] = list(itertools.product(range(room), repeat=3))
        self.ratio = {p: share(mask, p, GLOBAL) for p in self.positions}
        self.local_ratio = {p: share(mask, p, LOCAL) for p in itertools.product(range(EDGE - LOCAL + 1), repeat=3)}

    def feasible(self, must: bool) -> list[Corner]:
        return [p for p in self.positions if not must or self.ratio[p] >= self.crops.min_foreground_ratio]

    def partners(self, first: Corner, must: bool) -> list[Corner]:
        return [p for p in self.feasible(must) if iou(first, p, GLOBAL) >= self.crops.min_global_overlap]

    def pairs(self) -> dict[tuple[bool, bool, Corner, Corner], float]:
        """P(coins, first, second)."""
        law: dict[tuple[bool, bool, Corner, Corner], float] = {}
        for must, other_must in itertools.product((False, True), repeat=2):
            partners = {p: self.partners(p, other_must) for p in self.feasible(must)}
            firsts = [p for p, found in partners.items() if found]
            for first in firsts:
                for second in partners[first]:
                    law[must, other_must, first, second] = 0.25 / len(firsts) / len(partners[first])
        return law

    def locals(self) -> dict[Corner, float]:
        """P(local position), parents and coins summed out; None where no feasible position lies inside the parent."""
        law: dict[Corner, float] = defaultdict(float)
        within = list(itertools.product(range(0, GLOBAL - LOCAL + 1, PATCH), repeat=3))
        least = self.crops.min_foreground_ratio_local
        assert least is not None
        for (_, _, first, second), p in self.pairs().items():
            for parent, must in itertools.product((first, second), (False, True)):
                inside: list[Corner] = [(parent[0] + a, parent[1] + b, parent[2] + c) for a, b, c in within]
                allowed = [q for q in inside if not must or self.local_ratio[q] >= least]
                if not allowed:
                    best = max(self.local_ratio[q] for q in inside)
                    allowed = [q for q in inside if self.local_ratio[q] == best]
                for q in allowed:
                    law[q] += p / 4 / len(allowed)
        return law


def p_value(observed: Counter[object], law: dict[object, float], draws: int) -> float:
    """Chi-square over the cells of the law, small ones merged; a draw outside the law has probability 0."""
    if set(observed) - set(law):
        return 0.0
    seen: list[float] = []
    expected: list[float] = []
    rest_seen = rest_expected = 0.0
    for cell, p in sorted(law.items(), key=lambda item: (-item[1], str(item[0]))):
        if p * draws >= 5:
            seen.append(observed[cell])
            expected.append(p * draws)
        else:
            rest_seen += observed[cell]
            rest_expected += p * draws
    if rest_expected >= 5:
        seen.append(rest_seen)
        expected.append(rest_expected)
    else:
        seen[-1] += rest_seen
        expected[-1] += rest_expected
    return float(chisquare(seen, expected, sum_check=False).pvalue)


def drawn(sampler: CropSampler) -> dict[str, Counter[object]]:
    counts: dict[str, Counter[object]] = {"first": Counter(), "second": Counter(), "local": Counter()}
    for step in range(DRAWS):
        crops = sampler.draw(7, step, 0)
        coins = tuple(bool(c) for c in crops.constrained[:2])
        counts["first"][coins, tuple(crops.global_corners[0].tolist())] += 1
        counts["second"][coins, tuple(crops.global_corners[1].tolist())] += 1
        counts["local"][tuple(crops.local_corners[0].tolist())] += 1
    return counts


def law_of(crops: Crops) -> dict[str, dict[object, float]]:
    law = Law(body(), crops)
    first: dict[object, float] = defaultdict(float)
    second: dict[object, float] = defaultdict(float)
    for (must, other, one, two), p in law.pairs().items():
        first[(must, other), one] += p
        second[(must, other), two] += p
    return {"first": first, "second": second, "local": dict(law.locals())}


def worst_p(sampler: CropSampler) -> float:
    law, counts = law_of(CROPS), drawn(sampler)
    return min(p_value(counts[kind], law[kind], DRAWS) for kind in law)


@pytest.fixture
def sampler() -> CropSampler:
    return CropSampler(Foreground.of(body()), CROPS, PATCH)


def test_the_law_sums_to_one() -> None:
    for law in law_of(CROPS).values():
        assert sum(law.values()) == pytest.approx(1)


def test_the_case_is_hard_some_free_first_crops_have_no_feasible_partner() -> None:
    law = Law(body(), CROPS)
    assert 0 < sum(not law.partners(p, True) for p in law.positions) < len(law.positions)


def test_draws_follow_the_enumerated_law_with_all_constraints_at_once(sampler: CropSampler) -> None:
    assert worst_p(sampler) > LEAST_P


def test_draws_by_enumeration_follow_the_same_law(sampler: CropSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.uniform.PROPOSALS", ())
    assert worst_p(sampler) > LEAST_P


def without_partner_check(sampler: CropSampler) -> None:
    sampler._has_partner = lambda corners: np.ones(len(corners), dtype=bool)  # type: ignore[method-assign]


def centred_on_foreground(sampler: CropSampler) -> None:
    """The usual shortcut: pick a foreground voxel and centre the crop on it."""
    voxels = np.argwhere(body())
    room = EDGE - GLOBAL

    def first(size: int, must: bool, partner_must: bool, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        if not must:
            return rng.integers(room + 1, size=3), False
        return np.clip(voxels[rng.integers(len(voxels))] - GLOBAL // 2, 0, room), False

    sampler._first_global = first  # type: ignore[method-assign]


def off_the_patch_grid(sampler: CropSampler) -> None:
    sampler._patch, sampler._steps_inside = 1, np.full(3, GLOBAL - LOCAL + 1)


def one_parent_only(sampler: CropSampler) -> None:
    box = sampler._local_box
    firsts: list[np.ndarray] = []
    second = sampler._second_global

    def remembered(first: np.ndarray, first_size: int, size: int, must: bool, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        firsts.append(first)
        return second(first, first_size, size, must, rng)

    sampler._second_global = remembered  # type: ignore[method-assign]
    sampler._local_box = lambda parent, size, rng: box((firsts[-1], GLOBAL), size, rng)  # type: ignore[method-assign]


@pytest.mark.parametrize("bias", [without_partner_check, centred_on_foreground, off_the_patch_grid, one_parent_only])
def test_a_biased_sampler_is_caught(sampler: CropSampler, bias: Callable[[CropSampler], None]) -> None:
    bias(sampler)
    assert worst_p(sampler) < LEAST_P
