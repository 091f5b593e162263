"""`train/` measures over the steps of a run, and the record of every crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Num

from trainer.config import TrainerConfig, sinkhorn_columns
from trainer.measure.collapse import SINCE, classify
from trainer.measure.features import feature_measures
from trainer.measure.foreground import mean_share, ratio_summary
from trainer.measure.pairs import pair_measures
from trainer.measure.prototypes import distinct_prototypes, entropy, prototype_measures, softmax, uniformity
from trainer.measure.record import CropRecord
from trainer.measure.stability import loss_largest_rise, loss_stability

if TYPE_CHECKING:
    import pyarrow

    from trainer.data.batches import Batch
    from trainer.data.volumes import Scan

WINDOW_STEPS = 100
"""Crop shares are means over the crops of so many last steps."""

_WINDOWED = ("ratio_global", "ratio_local", "ratio_own_global", "ratio_own_local", "global_iou", "local_containment")


class TrainMeasures:
    """Accumulates over steps; equal updates give equal measures, also across `state_dict` and `load_state_dict`.

    Args:
        config: `measure.*` is the yardstick.
        scans: For names and labels in the record.
    """

    def __init__(self, config: TrainerConfig, scans: Sequence[Scan]) -> None:
        self._config = config
        self._total: list[float] = []
        self._recent: dict[str, list[float]] = {}
        self._window: dict[str, list[Float[np.ndarray, " crops"]]] = {name: [] for name in _WINDOWED}
        self._violations = 0
        self._crops = 0
        self._latest: dict[str, float] = {}
        self._kind = "none"
        self._since_step = 0
        self._record = CropRecord(scans)

    def update(
        self,
        batch: Batch,
        *,
        losses: Mapping[str, float],
        student_logits: Float32[np.ndarray, "n prototypes"] | None,
        features: Float32[np.ndarray, "n dim"] | None,
        ratio: Float32[np.ndarray, " n"] | None,
        crop_losses: Float32[np.ndarray, "batch views"] | None,
        teacher_probs: Num[np.ndarray, "n prototypes"] | None = None,
        prototypes: Num[np.ndarray, "prototypes bottleneck"] | None = None,
        gradient_norms: Mapping[str, float] | None = None,
    ) -> None:
        """Take one step in. Outputs are of the global crops, all first views before all second ones.

        Args:
            batch: Its crops.
            losses: `loss_total`, `loss_global`, `loss_local` of the step and further terms, in nats; one without pairs is left out.
            student_logits: Before temperature; this and the next ones only on measuring steps.
            features: Before the head.
            ratio: Body share of the same crops by the yardstick.
            crop_losses: Of each view as student, in nats; NaN where it is in no pair.
            teacher_probs: The teacher's assignments of the same crops, by which the student was trained.
            prototypes: The student's.
            gradient_norms: Of each part of the student before clipping, by its name; at any step.
        """
        norms = {f"gradient_norm_{name}": value for name, value in (gradient_norms or {}).items()}
        for name, value in {**losses, **norms}.items():
            self._recent[name] = [*self._recent.get(name, []), float(value)][-self._config.measure.every_steps :]
        if "loss_total" in losses:
            self._total.append(float(losses["loss_total"]))
        for name, values in _crop_shares(batch).items():
            self._window[name] = [*self._window[name], values][-WINDOW_STEPS:]
        self._violations += int(batch.violations.sum())
        self._crops += int(batch.violations.size)
        if student_logits is not None and features is not None and ratio is not None:
            self._latest = self._outputs(batch, student_logits, features, ratio, teacher_probs, prototypes)
            self._watch(batch.step + 1)
        if self._config.measure.record_crops:
            self._record.add(batch, crop_losses)

    def _outputs(
        self,
        batch: Batch,
        logits: Float32[np.ndarray, "n prototypes"],
        features: Float32[np.ndarray, "n dim"],
        ratio: Float32[np.ndarray, " n"],
        teacher_probs: Num[np.ndarray, "n prototypes"] | None,
        prototypes: Num[np.ndarray, "prototypes bottleneck"] | None,
    ) -> dict[str, float]:
        m, loss = self._config.measure, self._config.loss
        probs = softmax(logits, m.temperature)
        found = prototype_measures(probs, ratio, m.rich_ratio, m.background_ratio)
        found |= pair_measures(probs, softmax(logits, loss.student_temperature), teacher_probs, batch.global_iou)
        found |= feature_measures(features, np.tile(batch.scan, 2))
        columns = sinkhorn_columns(self._config) if loss.centering == "sinkhorn" else np.inf
        uniform = uniformity(float(entropy(probs).mean()), probs.shape[1], columns)
        if uniform is not None:
            found["uniformity"] = uniform
        if prototypes is not None:
            found["distinct_prototypes"] = float(distinct_prototypes(prototypes))
        return found

    def _watch(self, step: int) -> None:
        """Since which measure the kind of collapse has been what it is."""
        kind = classify(self._latest)
        if kind != self._kind:
            self._kind, self._since_step = kind, step

    def metrics(self) -> dict[str, float]:
        """All `train/` measures up to now.

        - `loss_total`, `loss_global`, `loss_local` and further terms (nats), `gradient_norm_<part>` (before clipping): mean over the
          last `measure.every_steps` steps that had them.
        - `loss_stability`, `loss_largest_rise`: of `loss_total` over the whole run so far, see `stability`.
        - `foreground_ratio_global`, `_local`: by the yardstick, with `_p10`; `_own`, `_own_p10`: by the arm's own foreground. These,
          `global_iou` and `local_containment` are shares in [0, 1] over the crops of the last 100 steps, see `foreground`.
        - `foreground_violations`: share of all crops so far.
        - of the student's global crops at the last measuring step: `feature_std`, `rankme` and `lidar` (see `features`); the prototype
          measures by foreground (see `prototypes`) and by the IoU of the pair (see `pairs`), with the divergence of teacher and student;
          `uniformity` from the least entropy that Sinkhorn-Knopp allows (0) to uniform (1); `distinct_prototypes`, near-duplicates
          counted once.
        - `collapse_since_step`: the measuring step since which `collapse.classify` names the collapse that it names now; left out where
          it names none.
        """
        found = {name: float(np.mean(values)) for name, values in self._recent.items()}
        if len(self._total) > 1 and np.isfinite(self._total).all():
            found |= {"loss_stability": loss_stability(self._total), "loss_largest_rise": loss_largest_rise(self._total)}
        seen = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in self._window.items()}
        for view in ("global", "local"):
            found |= ratio_summary(seen[f"ratio_{view}"], f"foreground_ratio_{view}")
            found |= ratio_summary(seen[f"ratio_own_{view}"], f"foreground_ratio_{view}_own")
        found |= mean_share(seen["global_iou"], "global_iou") | mean_share(seen["local_containment"], "local_containment")
        if self._crops:
            found["foreground_violations"] = self._violations / self._crops
        named = {f"train/{name}": value for name, value in (found | self._latest).items()}
        return named if self._kind == "none" else named | {SINCE: float(self._since_step)}

    def crop_table(self) -> pyarrow.Table:
        """Every crop on record, one row each: see `record.CropRecord.table`."""
        return self._record.table()

    def state_dict(self) -> dict[str, object]:
        """All that has been taken in, as plain values and arrays; a copy."""
        return {
            "total": list(self._total),
            "recent": {name: list(values) for name, values in self._recent.items()},
            "window": {name: [part.copy() for part in parts] for name, parts in self._window.items()},
            "violations": self._violations,
            "crops": self._crops,
            "latest": dict(self._latest),
            "kind": self._kind,
            "since_step": self._since_step,
            "record": self._record.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict`; what was taken in before is forgotten."""
        total, recent, window, latest, record = (state[name] for name in ("total", "recent", "window", "latest", "record"))
        assert isinstance(total, Sequence)
        assert isinstance(recent, Mapping)
        assert isinstance(window, Mapping)
        assert isinstance(latest, Mapping)
        assert isinstance(record, Mapping)
        self._total = [float(v) for v in total]
        self._recent = {str(name): [float(v) for v in values] for name, values in recent.items()}
        self._window = {name: [np.array(part) for part in window[name]] for name in _WINDOWED}
        self._violations, self._crops = int(str(state["violations"])), int(str(state["crops"]))
        self._latest = {str(name): float(value) for name, value in latest.items()}
        self._kind, self._since_step = str(state["kind"]), int(str(state["since_step"]))
        self._record.load_state_dict(record)


def _crop_shares(batch: Batch) -> dict[str, Float[np.ndarray, " crops"]]:
    return {
        "ratio_global": batch.ratio[:, :2].ravel(),
        "ratio_local": batch.ratio[:, 2:].ravel(),
        "ratio_own_global": batch.ratio_own[:, :2].ravel(),
        "ratio_own_local": batch.ratio_own[:, 2:].ravel(),
        "global_iou": batch.global_iou.ravel(),
        "local_containment": batch.local_containment.ravel(),
    }
