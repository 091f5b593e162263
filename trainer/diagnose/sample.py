"""What a network said of crops, from scans or from a file: all that a diagnosis reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int, Num

from trainer.config import TrainerConfig
from trainer.data import Scan, scan_foreground, stream
from trainer.measure import Probe, ProbeError
from trainer.measure.retrieval import reciprocal_ranks
from trainer.trained.network import Network, Read

FILES = (".parquet", ".npz", ".npy")
NOISE = 0.03
"""Standard deviation of the fresh noise on both views of retrieval, in the window's unit: recognising its noise is no knowledge."""
_POSITIONS = 512
_COLUMNS = ("features", "logits", "foreground_ratio", "scan")


class SampleError(ValueError):
    """Features that cannot be diagnosed; the message says what was expected."""


@dataclass(frozen=True)
class Sample:
    """Crops as rows. What is None is not known, and what depends on it stays undecided."""

    features: Num[np.ndarray, "n dim"]
    logits: Num[np.ndarray, "n prototypes"] | None = None
    """Before temperature."""
    ratio: Float[np.ndarray, " n"] | None = None
    """Body share of each crop, in [0, 1]."""
    scan: Int[np.ndarray, " n"] | None = None
    """Which scan each crop is from, as a number."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """What was measured on the scans themselves, by `sample_scans`."""

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise SampleError("\n".join(problems))


def sample_scans(network: Network, scans: Sequence[Scan]) -> Sample:
    """Read the yardstick's crops of each scan (see trainer.measure.probe), one scan in memory at a time.

    Evidence: `local_to_global_mrr` and `untrained_mrr` (mean reciprocal rank of a local crop's own global crop among those of its
    scan, fresh noise on both; the second for the same network before training, where it can be built), `chance_mrr`; of uniformly
    random crops of the global size `air_share` (body share <= `measure.background_ratio`), `disjoint_share` (two of a scan that share no
    voxel) and `random_iou`; `clipped_share`, the voxels of body crops at an end of the window. All but the ranks in [0, 1].

    Raises:
        ProbeError: No scan has two crops inside the body.
    """
    parts, refused = [], []
    for index, scan in enumerate(scans):
        try:
            parts.append(_of_scan(network, scan, index))
        except ProbeError as error:
            refused.append(error)
    if not parts:
        raise refused[0]
    names = parts[0].evidence.keys()
    return Sample(
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.logits for p in parts if p.logits is not None]) if parts[0].logits is not None else None,
        np.concatenate([p.ratio for p in parts if p.ratio is not None]),
        np.concatenate([p.scan for p in parts if p.scan is not None]),
        {name: float(np.mean([p.evidence[name] for p in parts])) for name in names},
    )


def _of_scan(network: Network, scan: Scan, index: int) -> Sample:
    config = network.config
    probe = Probe([scan], [0], config).scans[0]
    rich = len(probe.corners)
    features, logits = network.read(probe.globals)
    evidence = {
        "local_to_global_mrr": _retrieval(network.read, probe.globals[:rich], probe.locals, config, index),
        "chance_mrr": float(np.mean(1 / np.arange(1, rich + 1))),
        "clipped_share": float(np.mean(np.abs(probe.globals[:rich]) >= 1)),
    }
    if network.untrained is not None:
        evidence["untrained_mrr"] = _retrieval(network.untrained, probe.globals[:rich], probe.locals, config, index)
    return Sample(features, logits, probe.ratio, np.full(len(features), index), evidence | _at_random(scan, config, index))


def _retrieval(
    read: Read, globals_: Float32[np.ndarray, "n 1 d h w"], locals_: Float32[np.ndarray, "n 1 l l l"], config: TrainerConfig, index: int
) -> float:
    said = []
    for kind, images in (("global", globals_), ("local", locals_)):
        noise = stream(config.measure.seed, 0, f"diagnose/{kind}", index).standard_normal(images.shape, dtype=np.float32)
        said.append(read(images + np.float32(NOISE) * noise)[0])
    return float(reciprocal_ranks(said[1], said[0]).mean())


def _at_random(scan: Scan, config: TrainerConfig, index: int) -> dict[str, float]:
    """What sampling without any constraint would give."""
    m, size = config.measure, config.crops.global_size_voxels
    room = np.array(scan.voxels.shape) - size + 1
    first, second = stream(m.seed, 0, "diagnose/positions", index).integers(room, size=(2, _POSITIONS, 3))
    body = scan_foreground(scan, "body", m.foreground_threshold)
    shared = np.clip(size - np.abs(first - second), 0, None).prod(axis=1) / size**3
    return {
        "air_share": float(np.mean(body.ratio(first, size) <= m.background_ratio)),
        "disjoint_share": float(np.mean(shared == 0)),
        "random_iou": float(np.mean(shared / (2 - shared))),
    }


def read_sample(path: Path) -> Sample:
    """Features that somebody has written: parquet with a list column `features`, npz with an array `features`, or npy of rows.

    Parquet and npz may also hold `logits`, `foreground_ratio` and `scan` (names or numbers), as `python -m trainer embed` writes them.

    Raises:
        SampleError: It is missing, unreadable, holds pickled objects, or its columns do not fit together.
    """
    if not path.is_file():
        raise SampleError(
            f"{path}: expected a file of features but there is none. Write one: python -m trainer embed CHECKPOINT DATA OUT.parquet."
        )
    try:
        found = _columns(path)
    except Exception as error:  # a torn or foreign file raises anything
        raise SampleError(
            f"{path}: expected features as {', '.join(FILES)} but they cannot be read ({error}). Write plain arrays of numbers."
        ) from error
    if "features" not in found:
        raise SampleError(f"{path}: expected `features` but it holds {', '.join(found) or 'nothing'}. Name the rows of features so.")
    scan = found.get("scan")
    codes = None if scan is None else np.unique(scan, return_inverse=True)[1].astype(np.int64)
    try:
        return Sample(found["features"], found.get("logits"), found.get("foreground_ratio"), codes)
    except SampleError as error:
        raise SampleError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def _columns(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npy":
        return {"features": np.load(path, allow_pickle=False)}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in _COLUMNS if name in arrays}
    import pyarrow.parquet as pq

    names = [name for name in _COLUMNS if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    return {name: _array(table[name].to_numpy()) for name in names}


def _array(column: np.ndarray) -> np.ndarray:
    return np.stack(list(column)) if column.dtype == object and len(column) and isinstance(column[0], np.ndarray) else column


def _problems(sample: Sample) -> list[str]:
    found = []
    for name, rows in (("features", sample.features), ("logits", sample.logits)):
        if rows is None:
            continue
        if rows.ndim != 2 or rows.shape[1] < 2 or not np.issubdtype(rows.dtype, np.number):
            found.append(
                f"{name}: expected rows of at least 2 numbers but got shape {rows.shape} of {rows.dtype}. Write one row for each crop."
            )
        elif not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows)).any(axis=1).sum())
            found.append(
                f"{name}: expected finite numbers but {bad} of {len(rows)} rows hold NaN or infinity. "
                "The network diverged: train it again with a lower learning rate."
            )
    n = len(sample.features)
    if n < 8:
        found.append(f"features: expected at least 8 crops but got {n}. Read more crops, of several scans.")
    for name, column in (("logits", sample.logits), ("foreground_ratio", sample.ratio), ("scan", sample.scan)):
        if column is not None and len(column) != n:
            found.append(f"{name}: expected {n} rows, as many as features, but got {len(column)}. Write one for each crop.")
    ratio = sample.ratio
    if ratio is not None and not (np.issubdtype(ratio.dtype, np.number) and ratio.ndim == 1 and np.all((ratio >= 0) & (ratio <= 1))):
        found.append("foreground_ratio: expected shares between 0 and 1 but got others. Divide by the crop's voxels.")
    return found
