"""`python -m trainer crops`: the very crops of a step, drawn again. Step n's batch depends on the settings and n alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trainer.checkpoint import trained
from trainer.config import ConfigError, TrainerConfig, compose
from trainer.data import Batch, DataError, Scan, batches, load_scans, places, split_scans
from trainer.viewer import gallery

EXIT_DONE, EXIT_DIFFERS, EXIT_INVALID = 0, 1, 2

USAGE = """python -m trainer crops [--step N] [--index N] [--run DIR] [--json] [preset=.. key=value ..] [out=FILE.png]

Draws the crops of a training step again: where they lay, what the network saw, foreground ratios and overlaps, as a picture and a
line a crop. With --run the settings are those of that run's checkpoint, and the crops are compared with its crops.parquet.
Without --index the gallery of the step's first four scans, for any data and sampler settings."""


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 done, 1 the run's record says something else, 2 invalid."""
    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument("--step", type=int, default=0, help="optimizer step, from 0")
    parser.add_argument("--index", type=int, help="place in the batch, from 0")
    parser.add_argument("--run", type=Path, help="directory of a trial")
    parser.add_argument("--json", action="store_true", help="the lines as JSON")
    asked, rest = parser.parse_known_args(list(arguments))
    outs = [Path(word.removeprefix("out=")) for word in rest if word.startswith("out=")]
    try:
        config = settings_of(asked.run, [word for word in rest if not word.startswith("out=")])
        scans, batch = drawn(config, asked.step, asked.index)
        problems = [] if asked.run is None else differences(asked.run, scans, batch, asked.index)
    except (ConfigError, DataError, ValueError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_INVALID
    target = outs[-1] if outs else Path(f"crops-step{asked.step}{'' if asked.index is None else f'-{asked.index}'}.png")
    gallery(target, scans, batch, config)
    rows = list(lines(scans, batch, config))
    print(json.dumps(rows, indent=1) if asked.json else "\n".join(text(row) for row in rows))
    print(f"picture: {target}", file=sys.stderr if asked.json else sys.stdout)
    for problem in problems:
        print(f"trainer: {problem}", file=sys.stderr)
    return EXIT_DIFFERS if problems else EXIT_DONE


def settings_of(run: Path | None, overrides: Sequence[str]) -> TrainerConfig:
    """Of a trial's checkpoint, or as the words say.

    Raises:
        ConfigError: Both are given, or the words are not valid.
    """
    if run is None:
        return compose(list(overrides))
    if overrides:
        raise ConfigError(f"--run: the settings are those of {run} but {' '.join(overrides)} came too. Give one of the two.")
    return trained(run).config


def drawn(config: TrainerConfig, step: int, index: int | None) -> tuple[Sequence[Scan], Batch]:
    """All scans, and the batch of a step or one place of it.

    Raises:
        ConfigError: There is no such step or place.
    """
    if step < 0:
        raise ConfigError(f"--step: expected at least 0 but got {step}. The first step is 0.")
    if index is not None and not 0 <= index < config.loop.batch_size:
        raise ConfigError(
            f"--index: expected 0 to {config.loop.batch_size - 1} (loop.batch_size is {config.loop.batch_size}) but got {index}."
        )
    config.data.prefetch_batches = 0
    scans = load_scans(config)
    batch = next(batches(scans, split_scans(config, len(scans)).train, config, step))
    return scans, batch if index is None else places(batch, [index])


def lines(scans: Sequence[Scan], batch: Batch, config: TrainerConfig) -> Iterator[dict[str, object]]:
    """What is known of each crop; lengths in voxels of the scan and mm, shares in [0, 1]."""
    for row, scan in enumerate(batch.scan.tolist()):
        corners = np.concatenate([batch.global_corners[row], batch.local_corners[row]])
        edges = [*batch.global_edges[row].tolist(), *batch.local_edges[row].tolist()]
        for view, (corner, edge) in enumerate(zip(corners.tolist(), edges, strict=True)):
            kind = "global" if view < 2 else "local"
            yield {
                "step": batch.step,
                "scan": scans[scan].name,
                "view": view,
                "kind": kind,
                "corner": corner,
                "edge_voxels": edge,
                "edge_mm": round(edge * scans[scan].spacing_mm[0], 2),
                "window_hu": [config.data.window_low_hu, config.data.window_high_hu],
                "body_ratio": round(float(batch.ratio[row, view]), 4),
                "own_ratio": round(float(batch.ratio_own[row, view]), 4),
                "below_ratio": bool(batch.violations[row, view]),
                **({"global_iou": round(float(batch.global_iou[row]), 4)} if view < 2 else {}),
                **({"inside_a_global": round(float(batch.local_containment[row, view - 2]), 4)} if view >= 2 else {}),
            }


def text(row: dict[str, object]) -> str:
    """One line."""
    place = f"globals share IoU {row['global_iou']}" if "global_iou" in row else f"inside a global {row['inside_a_global']}"
    below = "  BELOW RATIO" if row["below_ratio"] else ""
    return (
        f"step {row['step']}  {row['scan']}  {row['kind']} {row['view']}  corner {row['corner']}  edge {row['edge_voxels']} voxels, "
        f"{row['edge_mm']} mm  body {row['body_ratio']}  own {row['own_ratio']}  {place}{below}"
    )


def differences(run: Path, scans: Sequence[Scan], batch: Batch, index: int | None) -> list[str]:
    """Where the run's record says something else; nothing where the record left this step out.

    Raises:
        OSError: The run has no record.
    """
    import pyarrow.parquet as pq

    path = run / "crops.parquet"
    rows = pq.read_table(path, filters=[("step", "=", batch.step)]).to_pylist()
    views = batch.ratio.shape[1]
    if not rows:
        return [f"{path}: no crops of step {batch.step} on record. Long runs keep every few steps; the picture is right all the same."]
    first = 0 if index is None else index * views
    found = []
    for n, row in enumerate(rows[first : first + batch.ratio.size]):
        place, view = divmod(n, views)
        corners = np.concatenate([batch.global_corners[place], batch.local_corners[place]])
        expected = (scans[int(batch.scan[place])].name, corners[view].tolist())
        recorded = (row["scan"], [row[f"corner_{axis}"] for axis in ("depth", "height", "width")])
        if expected != recorded or abs(row["ratio"] - float(batch.ratio[place, view])) > 1e-6:
            where = f"{path}: step {batch.step}, place {place}, view {view}"
            found.append(f"{where}: drawn again {expected} but on record is {recorded}. Are code and data the same?")
    return found
