"""Measures of features that need no head: how far crops differ, along how many directions, and what explains it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Num

from trainer.config import Measure
from trainer.diagnose.sample import Sample
from trainer.measure.features import feature_std, lidar, normalised, rankme
from trainer.measure.prototypes import prototype_measures, softmax

RATIO_EDGES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Body shares at which crops are grouped to see what the ratio explains."""


def measures(sample: Sample, measure: Measure) -> dict[str, float]:
    """All that can be measured of a sample; what is not known leaves its keys out.

    - `crops`, `dim`: how many.
    - `feature_std`, `rankme`: of all crops, see trainer.measure.features; `body_` before them: of crops with ratio >= `rich_ratio`.
    - `mean_cosine`: mean cosine of two crops; `one_direction_share`: see :func:`first_direction_share`; `directions`: effective number of
      directions in which crops differ (RankMe of centred features).
    - `ratio_share`: variance that the body share explains, all crops; `scan_share`: variance that the scan explains, and `lidar`: by
      scan; both of body crops (of all where the ratio is not known). See :func:`explained_share`.
    - with logits the keys of `prototypes.prototype_measures` at `measure.temperature`; where the ratio is not known every crop counts
      as foreground.
    """
    rows = normalised(sample.features)
    body = np.ones(len(rows), bool) if sample.ratio is None else np.asarray(sample.ratio >= measure.rich_ratio)
    found: dict[str, float | None] = {
        "crops": len(rows),
        "dim": rows.shape[1],
        "feature_std": feature_std(sample.features),
        "mean_cosine": mean_cosine(rows),
        "rankme": rankme(sample.features),
        "directions": rankme(rows - rows.mean(axis=0)),
        "one_direction_share": first_direction_share(rows),
    }
    if sample.ratio is not None:
        found["ratio_share"] = explained_share(rows, np.digitize(sample.ratio, RATIO_EDGES))
        if body.sum() > 1:
            found["body_feature_std"], found["body_rankme"] = feature_std(sample.features[body]), rankme(sample.features[body])
    if sample.scan is not None and body.any():
        found["scan_share"] = explained_share(rows[body], sample.scan[body])
        found["lidar"] = lidar(sample.features[body], sample.scan[body])
    if sample.logits is not None:
        ratio = np.ones(len(rows)) if sample.ratio is None else sample.ratio
        probs = softmax(sample.logits, measure.temperature)
        found |= prototype_measures(probs, ratio, measure.rich_ratio, measure.background_ratio)
    return {name: float(value) for name, value in found.items() if value is not None} | dict(sample.evidence)


def mean_cosine(rows: Float[np.ndarray, "n dim"]) -> float:
    """Mean cosine similarity of two different rows of unit norm, in [-1, 1]."""
    n = len(rows)
    return float((np.square(rows.sum(axis=0)).sum() - np.square(rows).sum()) / (n * (n - 1)))


def first_direction_share(rows: Float[np.ndarray, "n dim"]) -> float | None:
    """Share of the variance along the direction in which rows differ most, in (0, 1]; None where they do not differ."""
    values = np.square(np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False))
    return float(values[0] / values.sum()) if values.sum() > 0 else None


def explained_share(rows: Num[np.ndarray, "n dim"], groups: Int[np.ndarray, " n"]) -> float | None:
    """Share of the rows' total variance that lies between groups, adjusted for their number; about 0 for groups by chance, at most 1.

    1 - (SSW / (n - g)) / (SST / (n - 1)), sums of squares within groups and in all over all dimensions. None with one group, without
    two rows in some group, or where rows do not differ.

    Source: Kelley 1935, doi:10.1073/pnas.21.9.554 (epsilon squared), with traces of the scatter for variances.
    """
    names, of = np.unique(groups, return_inverse=True)
    n, g = len(rows), len(names)
    if g < 2 or n <= g:
        return None
    wide = rows.astype(np.float64)
    sums = np.zeros((g, wide.shape[1]))
    np.add.at(sums, of, wide)
    within = np.square(wide - (sums / np.bincount(of)[:, None])[of]).sum() / (n - g)
    total = np.square(wide - wide.mean(axis=0)).sum() / (n - 1)
    return float(1 - within / total) if total > 0 else None
