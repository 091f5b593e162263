"""`python -m trainer embed CHECKPOINT DATA OUT.parquet`: what a network says of crops of every scan of a folder.

One row a crop: `scan` (name), `corner` (depth, height, width; low corner in voxels of the scan as read), `foreground_ratio` (share of
body by the yardstick `measure.foreground_threshold`, in [0, 1]), `features`, and `logits` (before temperature) where there is a head.
The file's metadata say which network, crop edge and spacing.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from trainer.checkpoint import replacing
from trainer.config import TrainerConfig
from trainer.data import Scan, cut, load_scans, scan_foreground, stream
from trainer.trained.arguments import network, parser, split, with_factory
from trainer.trained.network import CHUNK, Network


def sliding_corners(shape: Sequence[int], size: int, stride: int) -> Int[np.ndarray, "n 3"]:
    """Low corners that cover a scan, `stride` voxels apart along each axis; the last along an axis ends with the scan."""
    along = [sorted({*range(0, edge - size + 1, stride), edge - size}) for edge in shape]
    return np.array(list(itertools.product(*along)), np.int64)


def random_corners(shape: Sequence[int], size: int, count: int, seed: int, index: int) -> Int[np.ndarray, "n 3"]:
    """`count` uniform low corners of scan number `index`; the same for the same seed."""
    room = np.array(shape) - size + 1
    return stream(seed, 0, "embed", index).integers(room, size=(count, 3))


def write_features(
    network: Network, scans: Sequence[Scan], destination: Path, stride: int | None = None, per_scan: int | None = None
) -> int:
    """Write the features of all scans; memory holds some crops of one scan at a time. Returns the number of crops.

    Args:
        stride: Voxels between sliding crops; None: their edge, so that they tile the scan.
        per_scan: So many random crops of each scan instead of sliding ones.
    """
    config, size = network.config, network.config.crops.global_size_voxels
    written, writer = 0, None
    with replacing(destination) as beside:
        try:
            for index, scan in enumerate(scans):
                shape = scan.voxels.shape
                if per_scan is None:
                    corners = sliding_corners(shape, size, stride or size)
                else:
                    corners = random_corners(shape, size, per_scan, config.measure.seed, index)
                for table in _tables(network, scan, corners, config):
                    writer = writer or pq.ParquetWriter(beside, table.schema.with_metadata(_metadata(network)))
                    writer.write_table(table)
                    written += len(table)
        finally:
            if writer is not None:
                writer.close()
    return written


def _tables(network: Network, scan: Scan, corners: Int[np.ndarray, "n 3"], config: TrainerConfig) -> Iterator[pa.Table]:
    size = config.crops.global_size_voxels
    body = scan_foreground(scan, "body", config.measure.foreground_threshold)
    for start in range(0, len(corners), CHUNK):
        some = corners[start : start + CHUNK]
        features, logits = network.read(cut(scan, some, size, config.data))
        columns = {
            "scan": pa.array([scan.name] * len(some)),
            "corner": _lists(some.astype(np.int32)),
            "foreground_ratio": pa.array(body.ratio(some, size).astype(np.float32)),
            "features": _lists(features),
        }
        yield pa.table(columns if logits is None else {**columns, "logits": _lists(logits)})


def _lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _metadata(network: Network) -> dict[str, str]:
    data = network.config.data
    window = [data.window_low_hu, data.window_high_hu]
    return {
        "network": network.name,
        "reading": json.dumps({"edge_voxels": network.config.crops.global_size_voxels, "spacing_mm": data.spacing_mm, "window_hu": window}),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 done, 2 invalid."""
    made = with_factory(parser("embed", "Writes features of every scan of a folder to parquet.", "teacher"))
    made.add_argument("checkpoint", help="checkpoint.pt, the folder of a run, an exported .safetensors, or with --factory anything")
    made.add_argument("data", help="a folder or glob of scans, or phantom")
    made.add_argument("out", type=Path, help="a .parquet file")
    crops = made.add_mutually_exclusive_group()
    crops.add_argument("--stride", type=int, metavar="VOXELS", help="between sliding crops (default: their edge)")
    crops.add_argument("--per-scan", type=int, metavar="N", help="N random crops of each scan instead of sliding ones")
    try:
        words, settings = split(arguments)
        given = made.parse_args(words)
        if any(number is not None and number < 1 for number in (given.stride, given.per_scan)):
            raise ValueError("--stride, --per-scan: expected at least 1. Leave them out for crops that tile each scan.")
        opened = network(given, settings, given.data)
        scans = load_scans(opened.config)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        written = write_features(opened, scans, given.out, given.stride, given.per_scan)
    except (ValueError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: {written} crops of {len(scans)} scans, by {opened.name}")
    return 0
