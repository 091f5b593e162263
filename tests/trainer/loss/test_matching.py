"""Each matching equals a rule in words, crop by crop; geometry is checked voxel by voxel."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.config import Loss
from trainer.loss import Geometry, match, needs_local_teacher, unmatched_locals
from trainer.loss.matching import contains, local_iou

GLOBAL, LOCAL, LOCALS = 6, 3, 3


def geometry(seed: int, batch: int = 4) -> Geometry:
    random = torch.Generator().manual_seed(seed)
    return Geometry(
        torch.randint(0, 4, (batch, 2, 3), generator=random),
        torch.randint(0, 7, (batch, LOCALS, 3), generator=random),
        torch.randint(GLOBAL - 1, GLOBAL + 2, (batch, 2), generator=random),
        torch.randint(LOCAL - 1, LOCAL + 2, (batch, LOCALS), generator=random),
        torch.rand(2 + LOCALS, batch, generator=random),
    )


def edges(batch: int) -> tuple[Tensor, Tensor]:
    return torch.full((batch, 2), GLOBAL), torch.full((batch, LOCALS), LOCAL)


def voxels(corner: Tensor, size: Tensor | int) -> set[tuple[int, ...]]:
    return set(itertools.product(*(range(int(c), int(c) + int(size)) for c in corner)))


def naive(g: Geometry, matching: str, threshold: float = 0.4, min_iou: float = 0.0) -> list[list[list[float]]]:
    views, batch = g.ratio.shape
    teachers = {"hierarchical": views, "background_prototype": 3}.get(matching, 2)
    mask = [[[0.0] * batch for _ in range(views)] for _ in range(teachers)]
    for t, s, b in itertools.product(range(teachers), range(views), range(batch)):
        if matching == "background_prototype" and t == 2:
            mask[t][s][b] = float(float(g.ratio[s, b]) < threshold)
            continue
        enough_t, enough_s = float(g.ratio[t, b]) >= threshold, float(g.ratio[s, b]) >= threshold
        if t == s:
            continue
        if t >= 2:
            if s < 2 or enough_s:
                continue
            one = voxels(g.local_corners[b, t - 2], g.local_edges[b, t - 2])
            other = voxels(g.local_corners[b, s - 2], g.local_edges[b, s - 2])
            allowed = len(one & other) / len(one | other) >= min_iou
        elif matching == "own_global" and s >= 2:
            inner = voxels(g.local_corners[b, s - 2], g.local_edges[b, s - 2])
            allowed = inner <= voxels(g.global_corners[b, t], g.global_edges[b, t])
        elif matching == "hierarchical" and s >= 2:
            allowed = enough_s
        elif matching in ("foreground_only", "background_prototype"):
            allowed = enough_s and enough_t
        else:
            allowed = True
        mask[t][s][b] = float(allowed)
    return mask


def check(matching: str, found: Callable[[Geometry, Loss], Tensor], min_iou: float = 0.0, seed: int = 0) -> None:
    g = geometry(seed, batch=6)
    config = Loss(matching=matching, matching_threshold=0.4, local_pair_min_iou=min_iou)
    assert found(g, config).tolist() == naive(g, matching, 0.4, min_iou)


def check_often(matching: str, found: Callable[[Geometry, Loss], Tensor]) -> None:
    for seed in range(5):
        check(matching, found, seed=seed)


MATCHINGS = ["all_pairs", "own_global", "hierarchical", "foreground_only", "background_prototype"]


@settings(max_examples=15)
@given(st.sampled_from(MATCHINGS), st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.4]))
def test_a_matching_equals_its_rule(matching: str, seed: int, min_iou: float) -> None:
    check(matching, match, min_iou, seed)


def keeps_same_view(g: Geometry, config: Loss) -> Tensor:
    mask = match(g, config)
    mask[0, 0] = 1
    return mask


def matches_a_local_with_itself(g: Geometry, config: Loss) -> Tensor:
    mask = match(g, config)
    if len(mask) > 2:
        mask[2:, 2:] += torch.eye(LOCALS)[:, :, None] * (g.ratio[2:] < config.matching_threshold)
    return mask


def swaps_globals(g: Geometry, config: Loss) -> Tensor:
    mask = match(g, config)
    mask[:2, 2:] = mask[:2, 2:].flip(0)
    return mask


def turns_the_threshold_round(g: Geometry, config: Loss) -> Tensor:
    return match(replace(g, ratio=1 - g.ratio), config)


@pytest.mark.parametrize(
    ("matching", "wrong"),
    [
        ("all_pairs", keeps_same_view),
        ("background_prototype", keeps_same_view),
        ("own_global", swaps_globals),
        ("hierarchical", matches_a_local_with_itself),
        ("hierarchical", turns_the_threshold_round),
        ("foreground_only", turns_the_threshold_round),
        ("background_prototype", turns_the_threshold_round),
    ],
)
def test_a_planted_error_fails_the_check(matching: str, wrong: Callable[[Geometry, Loss], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_often(matching, wrong)


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("other", MATCHINGS)
def test_no_matching_passes_for_another(matching: str, other: str) -> None:
    if matching == other:
        return

    def mistaken(g: Geometry, config: Loss) -> Tensor:
        return match(g, Loss(matching=other, matching_threshold=config.matching_threshold))

    with pytest.raises(AssertionError):
        check_often(matching, mistaken)


def test_a_local_that_sticks_out_by_one_voxel_is_not_contained() -> None:
    g = Geometry(torch.tensor([[[0, 0, 0], [2, 2, 2]]]), torch.tensor([[[3, 3, 3], [4, 3, 3], [1, 2, 2]]]), *edges(1), torch.ones(5, 1))
    assert contains(g)[:, :, 0].tolist() == [[True, False, True], [True, True, False]]


def test_iou_of_locals_is_counted_in_voxels() -> None:
    g = geometry(1)
    for a, c, b in itertools.product(range(LOCALS), range(LOCALS), range(4)):
        one, other = (voxels(g.local_corners[b, n], g.local_edges[b, n]) for n in (a, c))
        assert float(local_iou(g)[a, c, b]) == pytest.approx(len(one & other) / len(one | other))


def test_locals_without_partner_are_counted() -> None:
    far = torch.tensor([[[0, 0, 0], [9, 9, 9], [0, 0, 1]]])
    g = Geometry(torch.zeros(1, 2, 3, dtype=torch.long), far, *edges(1), torch.tensor([[1.0], [1.0], [0.0], [0.0], [0.0]]))
    mask = match(g, Loss(matching="hierarchical", local_pair_min_iou=0.5))
    assert unmatched_locals(mask) == 1
    assert mask[2:, 2:, 0].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_the_teacher_looks_at_locals_only_where_a_pair_asks_for_it() -> None:
    g = geometry(2)
    full = replace(g, ratio=torch.ones_like(g.ratio))
    for matching, geometry_, threshold, needed in (
        ("hierarchical", full, 0.3, False),
        ("hierarchical", g, 1.0, True),
        ("all_pairs", g, 0.3, False),
        ("background_prototype", g, 1.0, False),
    ):
        config = Loss(matching=matching, matching_threshold=threshold)
        assert needs_local_teacher(match(geometry_, config), config) == needed
