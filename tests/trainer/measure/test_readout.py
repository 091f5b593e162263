"""What is read out of features equals loops; groups that are asked about never take part in the learning."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from trainer.measure import readout
from trainer.measure.readout import Question, knn_score, linear_score, question, score

Score = Callable[[Question, np.ndarray], float]
ORGANS = ("heart", "liver", "spleen")


def asked(*, one_each: bool, seed: int = 0, groups: int = 3, rows: int = 90) -> tuple[Question, np.ndarray]:
    """Features that know something: a noisy code of the organ."""
    rng = np.random.default_rng(seed)
    which = rng.choice(3, rows, p=[0.6, 0.25, 0.15])
    shows = np.eye(3, dtype=bool)[which] if one_each else rng.random((rows, 3)) < [0.5, 0.3, 0.4]
    found = question(ORGANS, shows, rng.integers(groups, size=rows), one_each=one_each)
    assert found is not None
    features = np.concatenate([shows + rng.normal(size=(rows, 3)) * 0.7, rng.normal(size=(rows, 2)) * 5], axis=1)
    return found[0], features[found[1]]


def loop_score(q: Question, answers: np.ndarray) -> float:
    found = []
    for o in range(q.shows.shape[1]):
        if q.one_each:
            own = [i for i in range(len(answers)) if q.shows[i, o]]
            found.append(sum(answers[i].tolist().index(max(answers[i].tolist())) == o for i in own) / len(own))
            continue
        areas = []
        for f in sorted(set(q.fold.tolist())):
            rows = [i for i in range(len(answers)) if q.fold[i] == f]
            wins = [
                1.0 if answers[i, o] > answers[j, o] else 0.5 if answers[i, o] == answers[j, o] else 0.0
                for i in rows
                for j in rows
                if q.shows[i, o] and not q.shows[j, o]
            ]
            if wins:
                areas.append(sum(wins) / len(wins))
        found.append(sum(areas) / len(areas))
    return sum(found) / len(found)


def loop_weights(q: Question, rows: list[int]) -> list[float]:
    if not q.one_each:
        return [1.0] * len(rows)
    which = [q.shows[i].tolist().index(True) for i in rows]
    return [1 / which.count(o) for o in which]


def loop_standard(features: np.ndarray, rows: list[int], weights: list[float]) -> np.ndarray:
    out = np.zeros(features.shape)
    for d in range(features.shape[1]):
        mean = sum(w * features[i, d] for i, w in zip(rows, weights, strict=True)) / sum(weights)
        spread = math.sqrt(sum(w * (features[i, d] - mean) ** 2 for i, w in zip(rows, weights, strict=True)) / sum(weights))
        out[:, d] = (features[:, d] - mean) / spread
    return out


def loop_knn(q: Question, features: np.ndarray) -> float:
    answers = np.zeros(q.shows.shape)
    for f in set(q.fold.tolist()):
        train = [i for i in range(len(features)) if q.fold[i] != f]
        z = loop_standard(features, train, [1.0] * len(train))
        rarity = dict(zip(train, loop_weights(q, train), strict=True))
        for i in (i for i in range(len(features)) if q.fold[i] == f):
            cosine = {j: float(z[i] @ z[j]) / math.hypot(*z[i].tolist()) / math.hypot(*z[j].tolist()) for j in train}
            near = sorted(train, key=lambda j: -cosine[j])[:10]
            votes = {j: math.exp((cosine[j] - 1) / 0.07) for j in near}
            for o in range(q.shows.shape[1]):
                answers[i, o] = sum(votes[j] * rarity[j] for j in near if q.shows[j, o]) / sum(votes.values())
    return loop_score(q, answers)


def normal_equations(q: Question, features: np.ndarray, train: list[int], test: list[int], strength: float) -> np.ndarray:
    """Ridge by its normal equations, with an intercept of its own that is not penalised."""
    weights = np.array(loop_weights(q, train))
    z = loop_standard(features, train, weights.tolist())
    design = np.concatenate([np.ones((len(features), 1)), z], axis=1)
    penalty = strength * weights.sum() * np.diag([0.0] + [1.0] * features.shape[1])
    x, y = design[train], q.shows[train].astype(float)
    return design[test] @ np.linalg.solve(x.T @ (weights[:, None] * x) + penalty, x.T @ (weights[:, None] * y))


def reference_linear(q: Question, features: np.ndarray) -> float:
    answers = np.zeros(q.shows.shape)
    for f in sorted(set(q.fold.tolist())):
        test = [i for i in range(len(features)) if q.fold[i] == f]
        train = [i for i in range(len(features)) if q.fold[i] != f]
        inner = sorted({int(q.fold[i]) for i in train})
        best, strength = -1.0, 0.3
        for candidate in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0) if len(inner) > 1 else ():
            said = np.zeros(q.shows.shape)
            for g in inner:
                held = [i for i in train if q.fold[i] == g]
                said[held] = normal_equations(q, features, [i for i in train if q.fold[i] != g], held, candidate)
            found = loop_score(Question(q.organs, q.shows[train], q.fold[train], q.one_each), said[train])
            if found >= best:
                best, strength = found, candidate
        answers[test] = normal_equations(q, features, train, test, strength)
    return loop_score(q, answers)


def check(measure: Score, reference: Score) -> None:
    for one_each in (False, True):
        for groups in (2, 3):
            q, features = asked(one_each=one_each, groups=groups, seed=groups)
            assert measure(q, features) == pytest.approx(reference(q, features), abs=1e-9)


def test_neighbours_and_the_linear_map_equal_their_references() -> None:
    check(knn_score, loop_knn)
    check(linear_score, reference_linear)


def leaking(reader: Score) -> Score:
    """The planted leak: what is asked about was also learned from."""

    def wrong(q: Question, features: np.ndarray) -> float:
        twice = Question(q.organs, np.tile(q.shows, (2, 1)), np.concatenate([q.fold, q.fold + 1]), q.one_each)
        return reader(twice, np.tile(features, (2, 1)))

    return wrong


@pytest.mark.parametrize(
    "wrong",
    [
        leaking(knn_score),
        lambda q, f: knn_score(q, f * [1, 1, 1, 9, 9] - 3 * (f > 2)),
        lambda q, f: knn_score(Question(q.organs, q.shows, q.fold, not q.one_each), f),
    ],
)
def test_planted_errors_in_neighbours_are_found(wrong: Score) -> None:
    with pytest.raises(AssertionError):
        check(wrong, loop_knn)


def untuned(q: Question, features: np.ndarray) -> float:
    answers = np.zeros(q.shows.shape)
    for f in set(q.fold.tolist()):
        test, train = np.flatnonzero(q.fold == f).tolist(), np.flatnonzero(q.fold != f).tolist()
        answers[test] = normal_equations(q, features, train, test, 3.0)
    return loop_score(q, answers)


@pytest.mark.parametrize("wrong", [leaking(linear_score), untuned, lambda q, f: linear_score(q, f**2)])
def test_planted_errors_in_the_linear_map_are_found(wrong: Score) -> None:
    with pytest.raises(AssertionError):
        check(wrong, reference_linear)


def check_score(measure: Score) -> None:
    for one_each in (False, True):
        q, _ = asked(one_each=one_each)
        answers = (q.shows + np.random.default_rng(1).normal(size=q.shows.shape) * 0.8).round(1)  # ties
        if one_each:
            answers += np.arange(3) * 1e-3
        assert measure(q, answers) == pytest.approx(loop_score(q, answers))


def across_folds(q: Question, answers: np.ndarray) -> float:
    return score(Question(q.organs, q.shows, np.zeros_like(q.fold), q.one_each), answers)


def plain_accuracy(q: Question, answers: np.ndarray) -> float:
    return float((answers.argmax(1) == q.shows.argmax(1)).mean()) if q.one_each else score(q, answers)


def test_the_score_equals_a_loop() -> None:
    check_score(score)


@pytest.mark.parametrize("wrong", [across_folds, plain_accuracy, lambda q, a: score(q, a - 1e-3 * q.shows)])
def test_planted_errors_in_the_score_are_found(wrong: Score) -> None:
    with pytest.raises(AssertionError):
        check_score(wrong)


def test_features_that_know_nothing_score_chance_and_those_that_know_all_score_one() -> None:
    for one_each, chance in ((False, 0.5), (True, 1 / 3)):
        q, _ = asked(one_each=one_each, rows=240)
        rows = len(q.shows)
        for reader in (knn_score, linear_score):
            assert reader(q, np.ones((rows, 4))) == pytest.approx(chance, abs=0.05 if one_each else 1e-9)
            assert reader(q, np.random.default_rng(0).normal(size=(rows, 4))) == pytest.approx(chance, abs=0.12)
            assert reader(q, q.shows.astype(np.float32)) > 0.99


def test_more_features_than_rows_do_no_harm() -> None:
    q, features = asked(one_each=False)
    wide = np.concatenate([features, np.random.default_rng(0).normal(size=(90, 200)) * 0.1], axis=1)
    assert 0.5 < linear_score(q, wide) <= 1


def test_organs_without_enough_rows_in_two_folds_are_not_asked() -> None:
    shows = np.zeros((40, 4), dtype=bool)
    group = np.repeat([10, 20, 30, 40], 10)
    shows[:, 0] = np.arange(40) % 2 == 0  # everywhere
    shows[:10, 1] = np.arange(10) < 5  # in one group only
    shows[:, 2] = True  # without a row that lacks it
    shows[::10, 3] = True  # too few of each group
    assert question(("a", "b", "c", "d"), shows, group, one_each=False) is None
    shows[20:, 3] = np.arange(20) % 2 == 0
    found = question(("a", "b", "c", "d"), shows, group, one_each=False)
    assert found is not None
    assert found[0].organs == ("a", "d")
    assert found[1].all()


def test_rows_of_organs_that_are_not_asked_take_no_part_where_each_row_shows_one() -> None:
    which = np.array([0, 1] * 20 + [2])
    found = question(ORGANS, np.eye(3, dtype=bool)[which], np.arange(41) // 2 % 2, one_each=True)
    assert found is not None
    assert found[0].organs == ("heart", "liver")
    assert np.flatnonzero(~found[1]).tolist() == [40]


def test_groups_are_never_split_between_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "LEAST_ROWS", 1)
    group = np.random.default_rng(0).integers(11, size=200)
    found = question(ORGANS, np.random.default_rng(1).random((200, 3)) < 0.5, group, one_each=False)
    assert found is not None
    assert all(len(set(found[0].fold[group == g].tolist())) == 1 for g in range(11))
    assert len(set(found[0].fold.tolist())) == 4
