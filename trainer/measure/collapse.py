"""Names of collapse, by stated rules on the measures; and when a collapse is certain enough to stop a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INFORMED_NATS = 0.2
"""Foreground mutual information from which crops count as told apart (the studies' guard)."""
INFORMED_SHARE = 0.05
"""The same as a share of ln min(K, n), so that many prototypes and crops ask for more; .2 nats at K = 64."""
IGNORED_NATS = 0.02
"""Below this the output does not depend on the input: every crop has the same distribution."""
UNIFORM_ENTROPY = 0.95
"""Conditional entropy, share of ln K, from which a distribution counts as uniform."""
SPREAD_ENTROPY = 0.5
"""Marginal entropy below which the prototypes in use are too few (the studies' guard)."""
ONE_PROTOTYPE = 1.5
"""Effective number of prototypes below which there is only one."""
LOW_USAGE = 0.05
"""Share of prototypes that are some crop's first choice, below which usage is a partial collapse."""

ALARM_MEASURES = 3
"""Measures in a row of one kind from which it is an alarm: a single one may be a batch's luck."""
SINCE = "train/collapse_since_step"

CERTAIN_AFTER = 0.5
CERTAIN_MEASURES = 6
CERTAIN_UNIFORM = 0.99
CERTAIN_MARGINAL = 0.02
CERTAIN_NATS = 0.03


def classify(metrics: Mapping[str, float]) -> str:
    """The kind of collapse: `none`, `uniform`, `single_prototype` or `partial`.

    Reads `probe/` keys, else `train/` keys, else bare ones. H: `prototype_entropy_foreground` (without foreground crops, of all),
    M: `marginal_entropy`, I: `foreground_mutual_information` in nats (else of all). The first rule that holds:

    1. `uniform`: H >= .95 and I < .2; or the input is ignored (I < .02) and M >= .5.
    2. `single_prototype`: fewer than 1.5 effective prototypes (exp of the marginal entropy; where only M is known, M < .05);
       or the input is ignored and M < .5.
    3. `partial`: I < .2 or I < 5 % of ln min(K, n), the most it could be; or the prototypes in use are few: M < .5, also as a
       share of ln min(K, n) (few crops cannot fill many prototypes), or usage < .05.
    4. `none`.

    An output that does not depend on the input is therefore always 1 or 2. `none` is no proof of learning: random distributions
    have mutual information too; retrieval against the untrained network tells.

    Raises:
        ValueError: The measures lack an entropy or the mutual information.
    """
    prefix = next((p for p in ("probe/", "train/", "") if f"{p}marginal_entropy" in metrics), "")

    def read(*names: str) -> float | None:
        return next((metrics[prefix + name] for name in names if prefix + name in metrics), None)

    conditional = read("prototype_entropy_foreground", "prototype_entropy")
    marginal, information = read("marginal_entropy"), read("foreground_mutual_information", "mutual_information")
    if conditional is None or marginal is None or information is None:
        raise ValueError(
            f"metrics: expected prototype_entropy, marginal_entropy and foreground_mutual_information but got {sorted(metrics)[:8]}. "
            "Measure at least two crops first (trainer.measure.prototypes)."
        )
    ignored = information < IGNORED_NATS
    if (conditional >= UNIFORM_ENTROPY and information < INFORMED_NATS) or (ignored and marginal >= SPREAD_ENTROPY):
        return "uniform"
    perplexity = read("prototype_perplexity")
    one = marginal < 0.05 if perplexity is None else perplexity < ONE_PROTOTYPE
    if one or ignored:
        return "single_prototype"
    share, spread, usage = read("foreground_information_share"), read("marginal_spread"), read("prototype_usage")
    uninformed = information < INFORMED_NATS or (share is not None and share < INFORMED_SHARE)
    few = (marginal if spread is None else spread) < SPREAD_ENTROPY or (usage is not None and usage < LOW_USAGE)
    return "partial" if uninformed or few else "none"


@dataclass(frozen=True)
class Alarm:
    """A collapse that holds: which kind, and the first measuring step from which it held without break."""

    kind: str
    since_step: int
    text: str


def alarm(history: Sequence[Mapping[str, float]]) -> Alarm | None:
    """The collapse that the arm's own crops show now: the last 3 measures are of one kind by `classify`; None: there is none.

    Early steps of a healthy run may sound it, and a later measure ends it: it says what is, not what will be. `certain_collapse` is
    the stricter rule by which a run is stopped.

    Args:
        history: `train/` measures as `TrainMeasures.metrics` gives them, oldest first, one entry for each measuring step; the last few do.
    """
    latest = [_own(entry) for entry in history[-ALARM_MEASURES:]]
    if len(latest) < ALARM_MEASURES or not all(SINCE in entry for entry in latest):
        return None
    kinds = {classify(entry) for entry in latest}
    if len(kinds) > 1:
        return None
    kind, since = kinds.pop(), int(latest[-1][SINCE])
    informed = f"mutual information {_information(latest[-1]):.3g} nats, prototype entropy {_entropy(latest[-1]):.3f} of ln K"
    return Alarm(kind, since, f"collapse since step {since}: {kind} on the crops trained on, without break ({informed})")


def certain_collapse(history: Sequence[Mapping[str, float]], step: int, steps: int) -> str | None:
    """Why a run may be stopped: its collapse is certain; None: it is not. The rule behind `loop.stop_on_collapse`.

    Certain when at least half of the steps are done (later than any warm-up) and the last 6 measures in a row all show the same
    kind, on the arm's own crops:

    - uniform: `train/prototype_entropy_foreground` (of all crops where there were none) > .99 and mutual information < .03 nats;
    - one prototype: `train/marginal_entropy` < .02 and mutual information < .03 nats.

    Stricter than `classify`, because a stopped run cannot recover: being wrong loses a trial, being late some seconds.
    Checked on `phantom_cpu` trials run to the end: it held from step 60 to 70 of 100 on in both baselines and in two of six
    other arms, all `uniform` at the end; in no trial did it hold that ended as anything else, and healthy ones never read
    above .91 (a regime in which uniform runs recover late would need a later rule).

    Args:
        history: `train/` measures, oldest first, one entry for each measuring step.
        step: Steps done.
        steps: Steps of the whole run.
    """
    if step < CERTAIN_AFTER * steps or len(history) < CERTAIN_MEASURES:
        return None
    latest = history[-CERTAIN_MEASURES:]
    if all(_surely_uniform(m) for m in latest):
        kind, name = "uniform", "prototype entropy"
        worst = min(_entropy(m) for m in latest)
    elif all(_surely_single(m) for m in latest):
        kind, name = "single_prototype", "marginal entropy"
        worst = max(m["train/marginal_entropy"] for m in latest)
    else:
        return None
    since = f" since step {int(latest[-1][SINCE])}" if SINCE in latest[-1] else ""
    return (
        f"collapse is certain at step {step} of {steps}: {kind}{since}, {name} {worst:.4f} of ln K or beyond and mutual information "
        f"below {CERTAIN_NATS} nats in the last {CERTAIN_MEASURES} measures"
    )


def _own(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("train/")}


def _entropy(metrics: Mapping[str, float]) -> float:
    return metrics.get("train/prototype_entropy_foreground", metrics.get("train/prototype_entropy", 0.0))


def _information(metrics: Mapping[str, float]) -> float:
    return metrics.get("train/foreground_mutual_information", metrics.get("train/mutual_information", float("inf")))


def _surely_uniform(metrics: Mapping[str, float]) -> bool:
    return _entropy(metrics) > CERTAIN_UNIFORM and _information(metrics) < CERTAIN_NATS


def _surely_single(metrics: Mapping[str, float]) -> bool:
    return metrics.get("train/marginal_entropy", 1.0) < CERTAIN_MARGINAL and _information(metrics) < CERTAIN_NATS
