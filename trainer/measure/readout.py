"""What can be read out of features: nearest neighbours and a linear map, learned on some groups of rows and asked about others.

A group is what must not be in training and test at once (a scan, or a part of one that shares no voxel with the others). Groups are
dealt to at most four folds; each fold is answered by what was learned on the other ones, strength of the linear map included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from trainer.measure.features import normalised

FOLDS = 4
LEAST_ROWS = 4
"""Rows with and rows without an organ that at least two folds must have; an organ with fewer is not asked for."""
NEIGHBOURS = 10
VOTE_TEMPERATURE = 0.07
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Ridge penalties among which an inner split of the training folds chooses; 1 weighs the penalty as much as one unit of variance."""
UNTUNED = 0.3
"""The penalty where there is one training fold only, so nothing to choose on."""


@dataclass(frozen=True)
class Question:
    """Which organs does row i show; each organ can be learned and asked in at least two folds."""

    organs: tuple[str, ...]
    shows: Bool[np.ndarray, "n organs"]
    fold: Int[np.ndarray, " n"]
    one_each: bool
    """Every row shows exactly one organ: asked as `which`, by the share found of each organ. Else as `whether`, by ROC areas."""


def question(
    organs: tuple[str, ...], shows: Bool[np.ndarray, "n organs"], group: Int[np.ndarray, " n"], *, one_each: bool
) -> tuple[Question, Bool[np.ndarray, " n"]] | None:
    """The organs that can be asked for, and which rows take part (with `one_each` those that show such an organ).

    None where fewer than two organs are left.
    """
    names = np.unique(group)
    fold = np.searchsorted(names, group) % FOLDS
    kept = np.zeros(len(organs), dtype=bool)
    for o in range(len(organs)):
        with_it, without = (np.bincount(fold[rows], minlength=FOLDS) for rows in (shows[:, o], ~shows[:, o]))
        kept[o] = ((with_it >= LEAST_ROWS) & (without >= LEAST_ROWS)).sum() > 1
    if kept.sum() < 2:
        return None
    rows = np.asarray(shows[:, kept].any(axis=1) | (not one_each))
    names_kept = tuple(name for name, keep in zip(organs, kept, strict=True) if keep)
    return Question(names_kept, shows[rows][:, kept], fold[rows], one_each), rows


def knn_score(asked: Question, features: Num[np.ndarray, "n dim"]) -> float:
    """Score of the votes of the 10 nearest training rows (cosine of standardised features), weighted by exp(cosine / .07).

    Source: Wu et al. 2018, arXiv 1805.01978, and Caron et al. 2021, arXiv 2104.14294 (weighted k-NN). Departs: features are standardised
    by the training rows, and with `one_each` a vote counts by the rarity of its organ, because the score does.
    """
    answers = np.zeros(asked.shows.shape)
    for fold in np.unique(asked.fold):
        test = asked.fold == fold
        weights = _weights(asked, ~test)
        mean, scale = _standard(features[~test], np.ones(len(weights)))
        near = normalised((features[test] - mean) / scale) @ normalised((features[~test] - mean) / scale).T
        found = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
        votes = np.exp((np.take_along_axis(near, found, axis=1) - 1) / VOTE_TEMPERATURE)
        answers[test] = np.einsum("ij,ijo->io", votes * weights[found], asked.shows[~test][found]) / votes.sum(axis=1, keepdims=True)
    return score(asked, answers)


def linear_score(asked: Question, features: Num[np.ndarray, "n dim"]) -> float:
    """Score of a ridge regression from features to organs, its penalty chosen within the training folds.

    With `one_each` rows count by the rarity of their organ (a discriminant that gives every organ the same say).

    Source: Hoerl & Kennard 1970; as a classifier, Hastie et al., The Elements of Statistical Learning, section 4.2. A closed form where
    others fit a logistic regression: the same answer on every machine, in milliseconds, for rows that show several organs too.
    """
    answers = np.zeros(asked.shows.shape)
    for fold in np.unique(asked.fold):
        test = asked.fold == fold
        strength = _tuned(asked, features, ~test)
        (answers[test],) = _ridge(asked, features, ~test, test, (strength,))
    return score(asked, answers)


def score(asked: Question, answers: Float[np.ndarray, "n organs"], rows: Bool[np.ndarray, " n"] | None = None) -> float:
    """How good answers are, in [0, 1], every organ counted the same.

    With `one_each`: mean over organs of the share of its rows whose greatest answer it is; chance is 1 / organs. Else: mean over organs
    of the area under the ROC curve, the chance that a row with it gets a greater answer than one without (equal ones count half),
    within each fold that has both; chance is .5. Not across folds: each fold has its own training rows, and their
    commonness of an organ runs against that of the fold.

    Args:
        rows: Those that count; none: all.

    Source: balanced accuracy, Brodersen et al. 2010; the area as a rank statistic, Hanley & McNeil 1982.
    """
    shows, fold = asked.shows, asked.fold
    counted = np.ones(len(shows), dtype=bool) if rows is None else rows
    if asked.one_each:
        hit = answers.argmax(axis=1) == shows.argmax(axis=1)
        return float(np.mean([hit[own].mean() for own in (counted & shows[:, o] for o in range(shows.shape[1])) if own.any()]))
    found = []
    for o in range(shows.shape[1]):
        parts = [(answers[part, o], shows[part, o]) for part in (counted & (fold == f) for f in np.unique(fold[counted]))]
        areas = [_area(said, true) for said, true in parts if true.any() and not true.all()]
        if areas:
            found.append(sum(areas) / len(areas))
    return float(np.mean(found))


def _area(answers: Float[np.ndarray, " n"], shows: Bool[np.ndarray, " n"]) -> float:
    pairs = shows.sum() * (~shows).sum()
    won = shows.astype(np.float64) @ np.sign(answers[:, None] - answers) @ ~shows  # pairs won less pairs lost
    return float(0.5 + won / (2 * pairs))


def _tuned(asked: Question, features: Num[np.ndarray, "n dim"], train: Bool[np.ndarray, " n"]) -> float:
    """The strength that answers training folds best from the other training folds; of equals the strongest."""
    inner = np.unique(asked.fold[train])
    if len(inner) < 2:
        return UNTUNED
    answers = np.zeros((len(STRENGTHS), *asked.shows.shape))
    for fold in inner:
        held = train & (asked.fold == fold)
        answers[:, held] = _ridge(asked, features, train & ~held, held, STRENGTHS)
    scores = [score(asked, answer, train) for answer in answers]
    return max(zip(scores, STRENGTHS, strict=True))[1]


def _ridge(
    asked: Question,
    features: Num[np.ndarray, "n dim"],
    train: Bool[np.ndarray, " n"],
    test: Bool[np.ndarray, " n"],
    strengths: tuple[float, ...],
) -> Float[np.ndarray, "strengths test organs"]:
    weights = _weights(asked, train)
    mean, scale = _standard(features[train], weights)
    root = np.sqrt(weights / weights.sum())[:, None]
    shown = asked.shows[train].astype(np.float64)
    usual = np.average(shown, axis=0, weights=weights)
    left, singular, right = np.linalg.svd((features[train] - mean) / scale * root, full_matrices=False)
    along, seen = left.T @ ((shown - usual) * root), (features[test] - mean) / scale @ right.T
    return np.stack([usual + (seen * (singular / (singular**2 + s))) @ along for s in strengths])


def _weights(asked: Question, rows: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " rows"]:
    """One over the number of rows of the same organ, where each shows one; else all alike."""
    if not asked.one_each:
        return np.ones(int(rows.sum()))
    which = asked.shows[rows].argmax(axis=1)
    return np.asarray(1 / np.bincount(which)[which])


def _standard(
    features: Num[np.ndarray, "n dim"], weights: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
    """Mean and standard deviation; 1 where a feature does not vary."""
    wide = features.astype(np.float64)
    mean = np.average(wide, axis=0, weights=weights)
    spread = np.sqrt(np.average((wide - mean) ** 2, axis=0, weights=weights))
    return mean, np.where(spread > 1e-12, spread, 1.0)
