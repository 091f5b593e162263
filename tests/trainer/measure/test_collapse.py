"""Planted collapses are named as such, for few and many prototypes and crops; the rule for stopping is slower than the names."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.measure.collapse import SINCE, alarm, certain_collapse, classify
from trainer.measure.prototypes import prototype_measures, softmax

SIZES = [(64, 192), (64, 16), (512, 192), (4096, 64), (65_536, 32), (8, 500)]
ISSUE_KEYS = ("prototype_entropy_foreground", "marginal_entropy", "foreground_mutual_information", "prototype_usage")


def kind(probs: np.ndarray, ratio: np.ndarray | None = None, prefix: str = "probe/") -> str:
    measures = prototype_measures(probs, np.ones(len(probs)) if ratio is None else ratio, 0.5, 0.05)
    return classify({prefix + name: value for name, value in measures.items()})


def one_prototype(n: int, k: int, share: float = 1.0) -> np.ndarray:
    probs = np.full((n, k), (1 - share) / (k - 1))
    probs[:, 3] = share
    return probs


def told_apart(n: int, k: int, used: int | None = None) -> np.ndarray:
    """Each crop mostly on one of `used` prototypes, the rest of its mass on a few others."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, k)).astype(np.float32)
    logits[np.arange(n), np.arange(n) % (used or k)] += 14 + np.log(k)
    return softmax(logits, 1.0)


@pytest.mark.parametrize(("k", "n"), SIZES)
def test_uniform_outputs_are_uniform(k: int, n: int) -> None:
    assert kind(np.full((n, k), 1 / k)) == "uniform"
    nearly = softmax(np.random.default_rng(0).normal(size=(n, k)).astype(np.float32) * 0.1, 1.0)
    assert kind(nearly) == "uniform"


@pytest.mark.parametrize(("k", "n"), SIZES)
def test_one_prototype_is_a_single_prototype_also_when_it_is_not_sure(k: int, n: int) -> None:
    assert kind(one_prototype(n, k)) == "single_prototype"
    assert kind(one_prototype(n, k, 0.97)) == "single_prototype"


@pytest.mark.parametrize(("k", "n"), SIZES)
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 3.0, 10.0, 100.0])
def test_a_constant_output_is_always_uniform_or_a_single_prototype(k: int, n: int, sharpness: float) -> None:
    row = np.random.default_rng(1).normal(size=(1, k)).astype(np.float32) * sharpness
    assert kind(np.tile(softmax(row, 1.0), (n, 1))) in ("uniform", "single_prototype")


@pytest.mark.parametrize(("k", "n"), SIZES)
def test_crops_that_are_told_apart_are_no_collapse(k: int, n: int) -> None:
    assert kind(told_apart(n, k)) == "none"


def test_half_of_the_prototypes_dead_is_no_collapse_but_nearly_all_dead_is_partial() -> None:
    assert kind(told_apart(192, 64, used=32)) == "none"
    assert kind(told_apart(192, 64, used=3)) == "partial"


def test_body_against_air_is_not_anatomy() -> None:
    """Two outputs, one for all foreground and one for all air: much information over all crops, none within the body."""
    ratio = np.repeat([1.0, 0.0], [96, 48])
    probs = np.where(ratio[:, None] > 0.5, one_prototype(144, 64, 0.9), np.roll(one_prototype(144, 64, 0.9), 7, axis=1))
    assert kind(probs, ratio) == "single_prototype"
    spread = np.where(ratio[:, None] > 0.5, np.full((144, 64), 1 / 64), one_prototype(144, 64))
    assert kind(spread, ratio) == "uniform"


def test_faint_differences_on_a_spread_output_are_partial() -> None:
    probs = softmax(np.random.default_rng(0).normal(size=(192, 64)).astype(np.float32) * 0.35 + np.linspace(0, 4, 64), 1.0)
    measures = prototype_measures(probs, np.ones(192), 0.5, 0.05)
    assert 0.02 < measures["foreground_mutual_information"] < 0.2
    assert measures["prototype_entropy_foreground"] < 0.95
    assert kind(probs) == "partial"


def test_noise_with_much_information_reads_as_none_because_information_is_not_learning() -> None:
    assert kind(np.random.default_rng(0).dirichlet(np.full(64, 0.5), 192)) == "none"
    assert kind(np.random.default_rng(0).dirichlet(np.full(64, 200.0), 192)) == "uniform"


def test_the_plain_measures_are_enough() -> None:
    for probs, expected in (
        (np.full((96, 64), 1 / 64), "uniform"),
        (one_prototype(96, 64), "single_prototype"),
        (told_apart(96, 64), "none"),
    ):
        measures = prototype_measures(probs, np.ones(96), 0.5, 0.05)
        assert classify({f"probe/{name}": measures[name] for name in ISSUE_KEYS}) == expected


def test_probe_goes_before_train_and_train_stands_alone() -> None:
    uniform, healthy = (prototype_measures(p, np.ones(96), 0.5, 0.05) for p in (np.full((96, 64), 1 / 64), told_apart(96, 64)))
    both = {f"probe/{n}": v for n, v in uniform.items()} | {f"train/{n}": v for n, v in healthy.items()}
    assert classify(both) == "uniform"
    assert classify({name: value for name, value in both.items() if name.startswith("train/")}) == "none"


def test_without_foreground_crops_all_crops_are_read() -> None:
    assert kind(np.full((40, 64), 1 / 64), np.full(40, 0.3)) == "uniform"
    assert kind(told_apart(96, 64), np.full(96, 0.3)) == "none"


def test_missing_measures_are_said() -> None:
    with pytest.raises(ValueError, match="expected prototype_entropy"):
        classify({"train/loss_total": 4.0})


@pytest.mark.parametrize(
    ("changed", "planted"),
    [("UNIFORM_ENTROPY", 1.1), ("INFORMED_NATS", 0.0), ("ONE_PROTOTYPE", 0.0), ("SPREAD_ENTROPY", 0.0), ("IGNORED_NATS", -1.0)],
)
def test_every_bound_of_the_rules_matters(changed: str, planted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cases = [
        softmax(rng.normal(size=(192, 64)).astype(np.float32) * 0.3, 1.0),
        softmax(rng.normal(size=(192, 64)).astype(np.float32) * 0.35 + np.linspace(0, 4, 64), 1.0),
        np.concatenate([one_prototype(180, 64), np.eye(64)[10:22]]),
        np.tile(softmax(np.linspace(0, 4, 64, dtype=np.float32)[None], 1.0), (96, 1)),
        told_apart(192, 64, used=4),
    ]
    before = [kind(probs) for probs in cases]
    monkeypatch.setattr(f"trainer.measure.collapse.{changed}", planted)
    assert [kind(probs) for probs in cases] != before


def measured(entropy: float = 0.997, information: float = 0.004, marginal: float = 0.998) -> dict[str, float]:
    return {
        "train/prototype_entropy_foreground": entropy,
        "train/foreground_mutual_information": information,
        "train/marginal_entropy": marginal,
    }


def test_a_long_uniform_stretch_past_half_of_the_steps_is_certain() -> None:
    reason = certain_collapse([measured()] * 6, 60, 100)
    assert reason is not None
    assert "uniform" in reason
    assert "step 60 of 100" in reason


def test_a_single_prototype_is_certain_too() -> None:
    assert "single_prototype" in (certain_collapse([measured(0.001, 0.0, 0.002)] * 6, 60, 100) or "")


@pytest.mark.parametrize(
    ("history", "step"),
    [
        ([measured()] * 6, 49),  # too early
        ([measured()] * 5, 90),  # too short
        ([*[measured()] * 5, measured(entropy=0.98)], 90),  # on its way out
        ([measured(entropy=0.5), *[measured()] * 5], 90),
        ([measured(information=0.1)] * 6, 90),  # crops are told apart
        ([measured(0.6, 0.01, 0.6)] * 6, 90),  # neither kind
        ([{"train/loss_total": 1.0}] * 6, 90),  # nothing measured
        ([*[measured()] * 3, *[measured(0.001, 0.0, 0.002)] * 3], 90),  # not one kind
    ],
)
def test_anything_less_is_not_certain(history: list[dict[str, float]], step: int) -> None:
    assert certain_collapse(history, step, 100) is None


def test_the_reason_for_stopping_says_since_which_step() -> None:
    assert "uniform since step 15," in (certain_collapse([measured() | {SINCE: 15.0}] * 6, 60, 100) or "")


def test_an_alarm_says_which_collapse_and_since_when() -> None:
    sounded = alarm([measured(0.5, 1.0), *[measured() | {SINCE: 15.0}] * 3])
    assert sounded is not None
    assert (sounded.kind, sounded.since_step) == ("uniform", 15)
    assert "since step 15: uniform" in sounded.text
    single = alarm([measured(0.001, 0.0, 0.002) | {SINCE: 40.0}] * 3)
    assert single is not None
    assert (single.kind, single.since_step) == ("single_prototype", 40)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [measured() | {SINCE: 5.0}] * 2,  # too short
        [measured(0.5, 1.0, 0.99)] * 5,  # healthy
        [*[measured() | {SINCE: 5.0}] * 5, measured(0.5, 1.0, 0.99)],  # over
        [*[measured() | {SINCE: 5.0}] * 2, measured(0.001, 0.0, 0.002) | {SINCE: 15.0}],  # not one kind
        [measured(0.5, 1.0, 0.99), *[measured() | {SINCE: 10.0}] * 2],
    ],
)
def test_no_alarm_without_three_measures_of_one_collapse(history: list[dict[str, float]]) -> None:
    assert alarm(history) is None


def test_steps_without_any_measured_output_are_no_collapse_and_no_error() -> None:
    """Batches whose pairs are all left out measure crops alone."""
    assert alarm([{"train/global_iou": 0.1}, measured() | {SINCE: 10.0}, measured() | {SINCE: 10.0}]) is None


def test_probe_measures_among_the_training_ones_do_not_sound_or_silence_the_alarm() -> None:
    healthy = {"probe/marginal_entropy": 0.99, "probe/prototype_entropy": 0.5, "probe/mutual_information": 2.0}
    assert alarm([measured() | healthy | {SINCE: 5.0}] * 3) is not None
