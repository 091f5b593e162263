"""Every crop on record: where it lay, what it held, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int, UInt8

if TYPE_CHECKING:
    import pyarrow

    from trainer.data.batches import Batch
    from trainer.data.volumes import Scan

SAMPLES_PER_AXIS = 64
"""Crops are searched for structures in full up to this edge; larger ones on a grid of at most this many voxels an axis."""

MOST_CROPS = 200_000
"""Crops on record at once, about 10 MB; beyond, every second step on record is dropped (any crop can be drawn again from its step)."""
_PARTS = 256  # arrays of single steps that are joined at a time

_COLUMNS = ("step", "scan", "corners", "edge", "ratio", "ratio_own", "violation", "iou", "containment", "parent", "loss")


class CropRecord:
    """Compact arrays of one row a crop (about 50 bytes), turned into a table at the end.

    Every step is on record until there are more than 200,000 crops; from then on every second one, and so on by doubling, so memory
    and checkpoints are bounded in runs of any length, and which steps are kept depends on the number of steps alone.
    """

    def __init__(self, scans: Sequence[Scan]) -> None:
        self._scans = scans
        self._every = 1
        self._crops = 0
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}

    def add(self, batch: Batch, crop_losses: Float32[np.ndarray, "batch views"] | None) -> None:
        """Take the crops of one step in, where steps as late as this are still kept."""
        if batch.step % self._every:
            return
        scans, views = batch.ratio.shape
        missing = np.full((scans, 2), np.nan, np.float32)
        iou = np.full((scans, views), np.nan, np.float32)
        iou[:, :2] = batch.global_iou[:, None]
        row: dict[str, np.ndarray] = {
            "step": np.full((scans, views), batch.step, np.int32),
            "scan": np.repeat(batch.scan[:, None], views, axis=1).astype(np.int32),
            "corners": np.concatenate([batch.global_corners, batch.local_corners], axis=1).astype(np.int16),
            "edge": np.concatenate([batch.global_edges, batch.local_edges], axis=1).astype(np.int16),
            "ratio": batch.ratio.astype(np.float32),
            "ratio_own": batch.ratio_own.astype(np.float32),
            "violation": batch.violations,
            "iou": iou,
            "containment": np.concatenate([missing, batch.local_containment.astype(np.float32)], axis=1),
            "parent": np.concatenate([np.full((scans, 2), -1), batch.local_parents], axis=1).astype(np.int8),
            "loss": np.full((scans, views), np.nan, np.float32) if crop_losses is None else np.array(crop_losses, np.float32),
        }
        for name, values in row.items():
            self._parts[name].append(values)
        self._crops += scans * views
        if self._crops > MOST_CROPS:
            self._thin()
        elif len(self._parts["step"]) > _PARTS:
            self._take(self._rows())

    def _rows(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}

    def _take(self, rows: Mapping[str, np.ndarray]) -> None:
        self._parts = {name: [rows[name]] if name in rows else [] for name in _COLUMNS}
        self._crops = rows["step"].size if rows else 0

    def _thin(self) -> None:
        rows = self._rows()
        while rows["step"].size > MOST_CROPS and rows["step"].any():
            self._every *= 2
            kept = rows["step"][:, 0] % self._every == 0
            rows = {name: values[kept] for name, values in rows.items()}
        self._take(rows)

    def state_dict(self) -> dict[str, object]:
        """All rows so far, as arrays."""
        return {"every": self._every, **self._rows()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict`."""
        self._every = int(str(state["every"]))
        self._take({name: np.array(state[name]) for name in _COLUMNS if name in state})

    def table(self) -> pyarrow.Table:
        """One row a crop, in the order of steps, batch positions and views.

        The metadata `every_steps` is 1 where every step is on record, else the distance between those that are. Columns: `step`;
        `scan` (name); `view` (0 and 1: the globals); `kind` (global, local); `corner_depth`, `corner_height`, `corner_width` and `size`
        (voxels of the scan); `ratio` and `ratio_own` (body share by the yardstick, foreground share by the arm's own threshold);
        `violation` (its ratio could not be met); `iou` (of the two globals; null for locals); `containment` (largest share inside a
        global; null for globals); `parent` (0 or 1: the global that the coin chose; null for globals); `structures` (names of the labels in
        the crop, in the order of their numbers; null where the scan has no labels); `loss` (nats; null where the crop was in no pair).
        """
        import pyarrow as pa

        rows = self._rows()
        if not rows:
            rows = {name: np.empty((0, 2, 3) if name == "corners" else (0, 2), np.float32) for name in _COLUMNS}
        views = rows["step"].shape[1]
        view = np.tile(np.arange(views, dtype=np.int16), len(rows["step"]))
        flat = {name: values.reshape(-1, 3) if name == "corners" else values.ravel() for name, values in rows.items()}
        local = view >= 2
        scan, corners = flat["scan"].astype(np.int64), flat["corners"].astype(np.int32)
        size = flat["edge"].astype(np.int32)
        table = pa.table(
            {
                "step": pa.array(flat["step"].astype(np.int32)),
                "scan": pa.array([self._scans[int(i)].name for i in scan], pa.string()),
                "view": pa.array(view),
                "kind": pa.array(np.where(local, "local", "global").tolist(), pa.string()),
                "corner_depth": pa.array(corners[:, 0]),
                "corner_height": pa.array(corners[:, 1]),
                "corner_width": pa.array(corners[:, 2]),
                "size": pa.array(size),
                "ratio": pa.array(flat["ratio"]),
                "ratio_own": pa.array(flat["ratio_own"]),
                "violation": pa.array(flat["violation"].astype(bool)),
                "iou": pa.array(flat["iou"], mask=local),
                "containment": pa.array(flat["containment"], mask=~local),
                "parent": pa.array(flat["parent"].astype(np.int8), mask=~local),
                "structures": pa.array(self._structures(scan, corners, size), pa.list_(pa.string())),
                "loss": pa.array(flat["loss"], mask=np.isnan(flat["loss"])),
            }
        )
        return table.replace_schema_metadata({"every_steps": str(self._every)})

    def _structures(
        self, scan: Int[np.ndarray, " crops"], corners: Int[np.ndarray, "crops 3"], size: Int[np.ndarray, " crops"]
    ) -> list[list[str] | None]:
        found: list[list[str] | None] = []
        for index, corner, edge in zip(scan, corners, size, strict=True):
            owner = self._scans[int(index)]
            labels, names = owner.labels, owner.label_names
            found.append(None if labels is None else [names.get(n, f"label {n}") for n in structures(labels, corner, int(edge))])
        return found


def structures(labels: UInt8[np.ndarray, "depth height width"], corner: Int[np.ndarray, "3"], size: int) -> list[int]:
    """Labels other than 0 that any voxel of the crop carries, ascending (crops above 64 voxels: any voxel of a regular grid)."""
    d, h, w = (int(n) for n in corner)
    stride = -(-size // SAMPLES_PER_AXIS)
    crop = labels[d : d + size : stride, h : h + size : stride, w : w + size : stride]
    present = np.flatnonzero(np.bincount(crop.ravel()))
    return [int(n) for n in present if n]
