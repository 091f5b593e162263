"""Names of what is wrong with a network, by stated rules on its measures."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.measure import classify

CONSTANT_COSINE = 0.999
"""Mean cosine from which all crops have the same feature: LayerScale 1e-3 at the start gives .9998, 1e-1 .53, none .14."""
EXPLAINED = 0.7
"""Share of the variance from which one thing explains the features. Trained networks and untrained ones read at most .2 for the body share
and 0 for the scan on the phantom, .44 and .10 on five CT scans."""
ONE_DIRECTION = 0.9
"""Share of the variance along one direction, from which there is no other; a collapsed phantom network reads .76, a healthy one .48."""
FEW_DIRECTIONS = 0.05
"""Effective directions over the most there could be, below which they are few; collapsed and healthy phantom networks read .17 and .26."""
LEARNED = 0.02
"""Reciprocal rank above the untrained network's that counts as learning (the studies' smallest effect)."""

MEANING = {
    "uniform": "every crop spreads over all prototypes alike; the student ignores its input",
    "single_prototype": "every crop goes to one prototype",
    "partial": "prototypes tell crops apart too little, or few of them are in use",
    "constant": "every crop has the same feature",
    "body_against_air": "features tell body from air and little else",
    "scan_identity": "features tell which scan a crop is from and little of what it shows",
    "one_direction": "features differ along one direction only",
    "few_directions": "features differ along few directions (dimensional collapse)",
    "nothing_learned": "no collapse is seen, but nothing learned either: on these scans random weights do as well",
    "none": "no collapse is seen",
    "undecided": "no collapse is seen in the features; of the prototypes nothing is known",
}


def prototype_kind(found: Mapping[str, float]) -> str:
    """What trainer.measure.collapse says of the prototypes; `undecided` without logits."""
    if "marginal_entropy" not in found:
        return "undecided"
    return classify({name: value for name, value in found.items() if "/" not in name})


def feature_kind(found: Mapping[str, float]) -> str:
    """The kind of collapse of the features: the first rule that holds.

    1. `constant`: mean cosine >= .999.
    2. `body_against_air`: the body share explains at least .7 of the variance over all crops.
    3. `scan_identity`: the scan explains at least .7 of the variance among body crops.
    4. `one_direction`: at least .9 of the variance lies along one direction.
    5. `few_directions`: fewer than 5 % of the effective directions that crops and dimensions allow.
    6. `none`, which is no proof of learning: random features look so too.

    A rule whose measure is not known is passed over; :func:`undecidable` says so.

    Args:
        found: Of `measures`, with `crops` and `dim`.
    """
    if found["mean_cosine"] >= CONSTANT_COSINE:
        return "constant"
    if found.get("ratio_share", 0.0) >= EXPLAINED:
        return "body_against_air"
    if found.get("scan_share", 0.0) >= EXPLAINED:
        return "scan_identity"
    if found.get("one_direction_share", 0.0) >= ONE_DIRECTION:
        return "one_direction"
    if found["directions"] < FEW_DIRECTIONS * min(found["crops"], found["dim"]):
        return "few_directions"
    return "none"


def learned(found: Mapping[str, float]) -> bool | None:
    """Whether retrieval beats the untrained network by more than .02; None: not known."""
    if "untrained_mrr" not in found:
        return None
    return found["local_to_global_mrr"] - found["untrained_mrr"] > LEARNED


def undecidable(found: Mapping[str, float]) -> list[str]:
    """What cannot be told, and what would tell it."""
    said = []
    if "marginal_entropy" not in found:
        said.append(
            "Whether the prototypes collapse cannot be told from features alone: a phantom network with uniform prototypes had features as "
            "varied as a healthy one. Give logits too (a column `logits`, or a factory whose module returns features and logits)."
        )
    if "ratio_share" not in found:
        said.append(
            "Whether it is body against air that the features tell: give each crop's body share (`foreground_ratio`), and crops of both."
        )
    if "scan_share" not in found:
        said.append("Whether it is the scan that the features tell: give each crop's `scan`, with several crops of each of several scans.")
    if "local_to_global_mrr" not in found:
        said.append("Whether anything was learned: features in a file cannot be retrieved by. Give the checkpoint and the scans.")
    elif "untrained_mrr" not in found:
        said.append(
            "Whether anything was learned: the untrained network of this shape cannot be built here, and random weights retrieve better "
            "than chance too. Run it once with freshly initialised weights and compare local_to_global_mrr."
        )
    if found["crops"] < found["dim"]:
        said.append(
            f"How many directions there are beyond the {found['crops']:.0f} crops: features have {found['dim']:.0f} dimensions. "
            "Ranks compare at equal numbers of crops only."
        )
    return said
