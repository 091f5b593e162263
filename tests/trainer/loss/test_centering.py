"""Sinkhorn-Knopp and softmax centering equal naive loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.config import Loss
from trainer.loss import Centering, sinkhorn, softmax_centered

CPU = torch.device("cpu")


def naive_sinkhorn(logits: list[list[float]], temperature: float, iterations: int) -> list[list[float]]:
    samples, prototypes = len(logits), len(logits[0])
    largest = max(max(row) for row in logits)
    plan = [[math.exp((value - largest) / temperature) for value in row] for row in logits]
    for _ in range(iterations):
        for k in range(prototypes):
            column = sum(plan[i][k] for i in range(samples))
            for i in range(samples):
                plan[i][k] /= column * prototypes
        for i in range(samples):
            row = sum(plan[i])
            plan[i] = [value / (row * samples) for value in plan[i]]
    return [[value * samples for value in row] for row in plan]


def naive_softmax(logits: list[float], center: list[float], temperature: float) -> list[float]:
    scores = [math.exp((value - c) / temperature) for value, c in zip(logits, center, strict=True)]
    return [score / sum(scores) for score in scores]


def cosines(seed: int, samples: int = 6, prototypes: int = 4) -> Tensor:
    return torch.rand(samples, prototypes, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def check_sinkhorn(found: Callable[[Tensor, float, int], Tensor], seed: int = 0, temperature: float = 0.1, iterations: int = 3) -> None:
    logits = cosines(seed)
    expected = torch.tensor(naive_sinkhorn(logits.tolist(), temperature, iterations))
    assert torch.allclose(found(logits, temperature, iterations), expected, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.07, 0.5]), st.integers(1, 6))
def test_sinkhorn_equals_the_loop(seed: int, temperature: float, iterations: int) -> None:
    check_sinkhorn(sinkhorn, seed, temperature, iterations)


def one_iteration_less(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    return sinkhorn(logits, temperature, iterations - 1)


def balances_samples_only(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    return torch.softmax(logits / temperature, dim=-1)


def normalises_in_the_other_order(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    plan = torch.exp(logits / temperature)
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return plan / plan.sum(1, keepdim=True)


@pytest.mark.parametrize("wrong", [one_iteration_less, balances_samples_only, normalises_in_the_other_order], ids=lambda f: f.__name__)
def test_a_planted_error_in_sinkhorn_fails_the_check(wrong: Callable[[Tensor, float, int], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_sinkhorn(wrong)


def test_sinkhorn_rows_sum_to_one_and_prototypes_are_balanced_once_converged() -> None:
    plan = sinkhorn(cosines(1, samples=32, prototypes=8), 0.2, 100)
    assert torch.allclose(plan.sum(1), torch.ones(32), atol=1e-5)
    assert torch.allclose(plan.sum(0), torch.full((8,), 4.0), atol=1e-3)


def test_sinkhorn_survives_logits_that_underflow_in_float32() -> None:
    logits = torch.tensor([[1.0, 0.9], [-1.0, -0.9]])
    assert torch.isfinite(sinkhorn(logits * 50, 0.02, 3)).all()


def test_identical_crops_cannot_all_take_one_prototype() -> None:
    """The mechanism behind uniform collapse: n equal crops of a batch B get at most B / (n K) of a prototype each."""
    logits = cosines(2, samples=20, prototypes=5)
    logits[:16] = logits[0]
    plan = sinkhorn(logits, 0.02, 200)
    assert float(plan[:16].max()) <= 20 / (16 * 5) + 1e-3


def test_softmax_applies_the_previous_batches_centre_and_then_updates_it() -> None:
    config = Loss(centering="softmax", center_momentum=0.8)
    centering, center = Centering(config, 4, CPU), [0.0] * 4
    for seed in range(3):
        logits = cosines(seed)
        found = centering.targets(logits, 0.1)
        expected = [naive_softmax(row, center, 0.1) for row in logits.tolist()]
        assert torch.allclose(found, torch.tensor(expected), atol=1e-5)
        means = [sum(row[k] for row in logits.tolist()) / len(logits) for k in range(4)]
        center = [0.8 * c + 0.2 * m for c, m in zip(center, means, strict=True)]
    assert torch.allclose(centering.center, torch.tensor(center), atol=1e-6)


def test_a_centre_updated_before_it_is_applied_is_told_apart() -> None:
    logits = cosines(3)
    early = softmax_centered(logits, 0.1 * logits.mean(0), 0.1)
    assert not torch.allclose(Centering(Loss(centering="softmax"), 4, CPU).targets(logits, 0.1), early, atol=1e-5)


@pytest.mark.parametrize("kind", ["sinkhorn", "softmax"])
def test_foreground_crops_are_balanced_among_themselves_over_all_prototypes_but_the_last(kind: str) -> None:
    logits = cosines(4, samples=6, prototypes=5)
    foreground = torch.tensor([False, True, True, False, True, True])
    centering = Centering(Loss(centering=kind), 5, CPU)
    found = centering.targets(logits, 0.1, foreground)
    rows = [row[:-1] for row, is_foreground in zip(logits.tolist(), foreground.tolist(), strict=True) if is_foreground]
    expected = naive_sinkhorn(rows, 0.1, 3) if kind == "sinkhorn" else [naive_softmax(row, [0.0] * 4, 0.1) for row in rows]
    assert not found[~foreground].any()
    assert torch.allclose(found[foreground, :-1], torch.tensor(expected), atol=1e-5)
    assert torch.equal(found[foreground, -1], torch.zeros(4))
    if kind == "softmax":
        assert torch.allclose(centering.center[:-1], 0.1 * torch.tensor(rows).mean(0), atol=1e-6)
        assert centering.center[-1] == 0


@pytest.mark.parametrize("kind", ["sinkhorn", "softmax"])
def test_a_batch_of_background_alone_leaves_the_centre_as_it_was(kind: str) -> None:
    centering = Centering(Loss(centering=kind), 4, CPU)
    assert not centering.targets(cosines(5), 0.1, torch.zeros(6, dtype=torch.bool)).any()
    assert torch.equal(centering.center, torch.zeros(4))


def check_queue(targets: Callable[[Centering, Tensor], Tensor]) -> None:
    """Step n is balanced together with the two steps before it, newest first, and only its own rows are given."""
    centering = Centering(Loss(), 4, CPU, queue=2)
    steps = [cosines(seed) for seed in range(5)]
    for n, logits in enumerate(steps):
        together = [row for past in [logits, *reversed(steps[max(n - 2, 0) : n])] for row in past.tolist()]
        expected = naive_sinkhorn(together, 0.1, 3)[: len(logits)]
        assert torch.allclose(targets(centering, logits), torch.tensor(expected), atol=1e-5)


def test_sinkhorn_balances_past_steps_of_the_queue_too() -> None:
    check_queue(lambda centering, logits: centering.targets(logits, 0.1))


def test_a_queue_that_is_not_read_is_told_apart() -> None:
    with pytest.raises(AssertionError):
        check_queue(lambda _, logits: Centering(Loss(), 4, CPU).targets(logits, 0.1))


def test_the_queue_raises_the_bound_on_how_much_of_a_crop_goes_to_one_prototype() -> None:
    """Of B crops and K prototypes a crop gives one at most B / K; with a queue the columns count that are balanced in all."""
    config = Loss(sinkhorn_iterations=50)
    alone, queued = Centering(config, 32, CPU), Centering(config, 32, CPU, queue=4)
    for seed in range(5):
        logits = cosines(seed, samples=8, prototypes=32)
        found = alone.targets(logits, 0.02), queued.targets(logits, 0.02)
    assert found[0].max() <= 8 / 32 + 1e-2
    assert found[1].max() > 0.5


def test_a_centering_goes_on_from_its_state() -> None:
    for config, queue in ((Loss(), 2), (Loss(centering="softmax"), 0)):
        first, second = (Centering(config, 4, CPU, queue=queue) for _ in range(2))
        for seed in range(3):
            first.targets(cosines(seed), 0.1)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.targets(cosines(9), 0.1), second.targets(cosines(9), 0.1))
