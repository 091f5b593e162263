"""`train/` measures over the steps of a run, and the record of every crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from trainer.config import TrainerConfig
from trainer.measure.features import feature_measures
from trainer.measure.foreground import mean_share, ratio_summary
from trainer.measure.prototypes import prototype_measures, softmax
from trainer.measure.record import CropRecord
from trainer.measure.stability import loss_largest_rise, loss_stability

if TYPE_CHECKING:
    import pyarrow

    from trainer.data.batches import Batch
    from trainer.data.volumes import Scan

LOSSES = ("loss_total", "loss_global", "loss_local")
WINDOW_STEPS = 100
"""Crop shares are means over the crops of so many last steps."""

_WINDOWED = ("ratio_global", "ratio_local", "ratio_own_global", "ratio_own_local", "global_iou", "local_containment")


class TrainMeasures:
    """Accumulates over steps; equal updates give equal measures, also across `state_dict` and `load_state_dict`.

    Args:
        config: `measure.*` is the yardstick; `crops.*` gives sizes for the record.
        scans: For names and labels in the record.
    """

    def __init__(self, config: TrainerConfig, scans: Sequence[Scan]) -> None:
        self._config = config
        self._losses: dict[str, list[float]] = {name: [] for name in LOSSES}
        self._window: dict[str, list[Float[np.ndarray, " crops"]]] = {name: [] for name in _WINDOWED}
        self._violations = 0
        self._crops = 0
        self._latest: dict[str, float] = {}
        self._record = CropRecord(config, scans)

    def update(
        self,
        batch: Batch,
        *,
        losses: Mapping[str, float],
        student_logits: Float32[np.ndarray, "n prototypes"] | None,
        features: Float32[np.ndarray, "n dim"] | None,
        ratio: Float32[np.ndarray, " n"] | None,
        crop_losses: Float32[np.ndarray, "batch views"] | None,
    ) -> None:
        """Take one step in.

        Args:
            batch: Its crops.
            losses: `loss_total`, `loss_global`, `loss_local` of the step, in nats; one without pairs is left out.
            student_logits: Of the global crops, before temperature; only on measuring steps.
            features: Of the same crops, before the head; only on measuring steps.
            ratio: Body share of the same crops by the yardstick; only on measuring steps.
            crop_losses: Of each view as student, in nats; NaN where it is in no pair.
        """
        for name in LOSSES:
            if name in losses:
                self._losses[name].append(float(losses[name]))
        for name, values in _crop_shares(batch).items():
            self._window[name] = [*self._window[name], values][-WINDOW_STEPS:]
        self._violations += int(batch.violations.sum())
        self._crops += int(batch.violations.size)
        if student_logits is not None and features is not None and ratio is not None:
            m = self._config.measure
            self._latest = prototype_measures(softmax(student_logits, m.temperature), ratio, m.rich_ratio, m.background_ratio)
            self._latest |= feature_measures(features)
        if self._config.measure.record_crops:
            self._record.add(batch, crop_losses)

    def metrics(self) -> dict[str, float]:
        """All `train/` measures up to now.

        - `loss_total`, `loss_global`, `loss_local`: nats, mean over the last `measure.every_steps` steps.
        - `loss_stability`, `loss_largest_rise`: of `loss_total` over the whole run so far, see `stability`.
        - `foreground_ratio_global`, `_local`: by the yardstick, with `_p10`; `_own`, `_own_p10`: by the arm's own foreground. These,
          `global_iou` and `local_containment` are shares in [0, 1] over the crops of the last 100 steps, see `foreground`.
        - `foreground_violations`: share of all crops so far.
        - `feature_std`, `rankme` and the prototype measures: of the student's global crops at the last measuring step.
        """
        found: dict[str, float] = {}
        for name, values in self._losses.items():
            if values:
                found[name] = float(np.mean(values[-self._config.measure.every_steps :]))
        total = self._losses["loss_total"]
        if len(total) > 1 and np.isfinite(total).all():
            found |= {"loss_stability": loss_stability(total), "loss_largest_rise": loss_largest_rise(total)}
        seen = {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in self._window.items()}
        for view in ("global", "local"):
            found |= ratio_summary(seen[f"ratio_{view}"], f"foreground_ratio_{view}")
            found |= ratio_summary(seen[f"ratio_own_{view}"], f"foreground_ratio_{view}_own")
        found |= mean_share(seen["global_iou"], "global_iou") | mean_share(seen["local_containment"], "local_containment")
        if self._crops:
            found["foreground_violations"] = self._violations / self._crops
        found |= self._latest
        return {f"train/{name}": value for name, value in found.items()}

    def crop_table(self) -> pyarrow.Table:
        """Every crop of the run so far, one row each: see `record.CropRecord.table`."""
        return self._record.table()

    def state_dict(self) -> dict[str, object]:
        """All that has been taken in, as plain values and arrays; a copy."""
        return {
            "losses": {name: list(values) for name, values in self._losses.items()},
            "window": {name: [part.copy() for part in parts] for name, parts in self._window.items()},
            "violations": self._violations,
            "crops": self._crops,
            "latest": dict(self._latest),
            "record": self._record.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict`; what was taken in before is forgotten."""
        losses, window, latest, record = state["losses"], state["window"], state["latest"], state["record"]
        assert isinstance(losses, Mapping)
        assert isinstance(window, Mapping)
        assert isinstance(latest, Mapping)
        assert isinstance(record, Mapping)
        self._losses = {name: [float(v) for v in losses[name]] for name in LOSSES}
        self._window = {name: [np.array(part) for part in window[name]] for name in _WINDOWED}
        self._violations, self._crops = int(str(state["violations"])), int(str(state["crops"]))
        self._latest = {str(name): float(value) for name, value in latest.items()}
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
