"""`python -m trainer crops`: the very crops of a step, drawn again. Step n's batch depends on the settings and n alone."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.augment import windows_hu
from trainer.checkpoint import trained
from trainer.config import ConfigError, TrainerConfig, compose
from trainer.data import Batch, DataError, Scan, batches, load_scans, places, split_scans
from trainer.explorer import Drawn, write
from trainer.measure.record import CropRecord
from trainer.viewer import gallery, in_mm

EXIT_DONE, EXIT_DIFFERS, EXIT_INVALID = 0, 1, 2

USAGE = """python -m trainer crops [--step N] [--index N | --gallery [SCANS]] [run=DIR | preset=NAME key=value ...] [out=FILE] [--json]
       python -m trainer crops --view [PATH.html] [--step N ...] [--scan NAME] [--index N] [run=DIR | preset=NAME key=value ...]

Draws the crops of a training step again: where they lay, what the network saw, foreground ratios and overlaps, as a picture and a
line a crop. With run=DIR the settings are those of that run's checkpoint, and the crops are compared with its crops.parquet.
With --view one page to look around in: the scan in three planes, the crops of these steps as boxes, and sliders that show which
positions are feasible at any threshold and ratio. It needs no network and can be passed on.

  python -m trainer crops --step 120 --index 3                   one place of a step's batch
  python -m trainer crops --step 120                             the whole batch; the picture shows its first four scans
  python -m trainer crops run=runs/ct --step 120                 as that run drew them
  python -m trainer crops --gallery data.source=/data/ct crops.min_global_overlap=0.3    over the data set, one row a scan
  python -m trainer crops --view crops.html crops.foreground_threshold=500           look around before a run
  python -m trainer crops --view crops.html --step 0 50 99 run=runs/ct               a run's own crops"""

Row = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 done, 1 the run's record says something else, 2 invalid."""
    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument("--step", type=int, action="append", help="optimizer step, from 0; several with --view")
    parser.add_argument("--view", nargs="?", const="", metavar="PATH.html", help="an interactive page (crops.html)")
    parser.add_argument("--scan", help="with --view: the scan's name or number; otherwise the first one of the first step")
    parser.add_argument("--index", type=int, help="place in the batch, from 0")
    parser.add_argument("--gallery", type=int, nargs="?", const=8, metavar="SCANS", help="this many scans spread over the data set (8)")
    parser.add_argument("--json", action="store_true", help="the lines as JSON, with the columns of crops.parquet")
    asked, rest = parser.parse_known_args([word for word in arguments if not word.startswith(("out=", "run="))])
    out, run = (next((Path(w[4:]) for w in reversed(arguments) if w.startswith(name)), None) for name in ("out=", "run="))
    steps = [*(asked.step or []), *(int(word) for word in rest if _is_number(word))] or [0]
    try:
        _check(asked, steps, out)
        config = settings_of(run, [word for word in rest if not _is_number(word)])
        if asked.view is not None:
            target = Path(asked.view) if asked.view else out or Path("crops.html")
            rows, problems = view(target, config, steps, asked.index, asked.scan, run)
        else:
            scans, batch = drawn(config, steps[0], asked.index, asked.gallery)
            rows = lines(scans, batch, config)
            problems = [] if run is None or asked.gallery else differences(run, rows, batch, asked.index)
            target = out or Path(f"crops-step{steps[0]}{'' if asked.index is None else f'-{asked.index}'}.png")
            gallery(target, scans, batch, config, at_most=asked.gallery or 4)
    except (ConfigError, DataError, ValueError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_INVALID
    print(json.dumps(rows, indent=1) if asked.json else "\n".join([*map(text, rows), *summary(rows)]))
    print(f"{'picture' if asked.view is None else 'page'}: {target}", file=sys.stderr if asked.json else sys.stdout)
    for problem in problems:
        print(f"trainer: {problem}", file=sys.stderr)
    return EXIT_DIFFERS if problems else EXIT_DONE


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def _check(asked: argparse.Namespace, steps: Sequence[int], out: Path | None) -> None:
    """Words that do not go together, all at once.

    Raises:
        ConfigError: There are any.
    """
    problems = []
    if asked.view is None:
        if len(steps) > 1:
            problems.append(f"--step: expected one step for a picture but got {', '.join(map(str, steps))}. Add --view PATH.html.")
        if asked.scan is not None:
            problems.append("--scan: belongs to --view. Add --view PATH.html, or leave it out.")
    else:
        if asked.view and not asked.view.endswith((".html", ".htm")):
            problems.append(f"--view: expected a path that ends in .html but got {asked.view}. Settings come after it: --view crops.html.")
        if asked.gallery is not None:
            problems.append("--gallery: is a picture over the data set and --view a page of one scan. Leave one out.")
        if asked.view and out is not None:
            problems.append(f"out: expected one place to write to but got {asked.view} and {out}. Leave one out.")
    if problems:
        raise ConfigError("\n".join(problems))


def settings_of(run: Path | None, overrides: Sequence[str]) -> TrainerConfig:
    """Of a trial's checkpoint, or as the words say; batches are not prepared ahead.

    Raises:
        ConfigError: Both are given, or the words are not valid.
    """
    if run is not None and overrides:
        raise ConfigError(f"run: the settings are those of {run} but {' '.join(overrides)} came too. Give one of the two.")
    config = compose(list(overrides)) if run is None else trained(run).config
    config.data.prefetch_batches = 0
    return config


def drawn(config: TrainerConfig, step: int, index: int | None, over: int | None) -> tuple[Sequence[Scan], Batch]:
    """All scans, and the batch of a step, one place of it, or one place for each of `over` scans spread over the data set.

    Raises:
        ConfigError: There is no such step or place.
    """
    size = config.loop.batch_size
    problems = []
    if step < 0:
        problems.append(f"--step: expected at least 0 but got {step}. The first step is 0.")
    if index is not None and not 0 <= index < size:
        problems.append(f"--index: expected 0 to {size - 1} (loop.batch_size is {size}) but got {index}.")
    if over is not None and over < 1:
        problems.append(f"--gallery: expected at least 1 scan but got {over}.")
    if over is not None and index is not None:
        problems.append("--gallery: shows scans of the whole data set, so there is no place in a batch. Leave --index out.")
    if problems:
        raise ConfigError("\n".join(problems))
    scans = load_scans(config)
    if over is None:
        batch = next(batches(scans, split_scans(config, len(scans)).train, config, step))
        return scans, batch if index is None else places(batch, [index])
    spread = np.linspace(0, len(scans) - 1, min(over, len(scans))).round().astype(int)
    config.loop.batch_size, config.data.draws_per_scan = len(spread), 1
    batch = next(batches(scans, spread.tolist(), config, step))
    return scans, places(batch, np.argsort(batch.scan).tolist())


def view(
    path: Path, config: TrainerConfig, steps: Sequence[int], index: int | None, scan: str | None, run: Path | None
) -> tuple[list[Row], list[str]]:
    """Write the page of one scan with its crops in these steps: the lines of its crops, and where a run's record says something else.

    Raises:
        ConfigError: There is no such step, place or scan, or none of the steps drew the scan.
    """
    chosen, taken, rows, problems, notes = None, list[Drawn](), list[Row](), list[str](), list[str]()
    scans: Sequence[Scan] = ()
    for step in dict.fromkeys(steps):
        scans, batch = drawn(config, step, index, None)
        if chosen is None:
            chosen = int(batch.scan[0]) if scan is None else _named(scans, scan)
        own = lines(scans, batch, config)
        problems += [] if run is None else differences(run, own, batch, index)
        views = batch.ratio.shape[1]
        found = np.flatnonzero(batch.scan == chosen).tolist()
        if not found:
            others = ", ".join(sorted({scans[int(n)].name for n in batch.scan}))
            notes.append(f"Step {step} did not draw {scans[chosen].name} but {others}.")
        for n in found:
            crops = own[n * views : (n + 1) * views]
            taken.append(Drawn(step, n if index is None else index, crops))
            rows += crops
    assert chosen is not None
    if not rows:
        raise ConfigError(f"--scan: {' '.join(notes)} Name one of these, or other steps.")
    write(path, scans[chosen], taken, config, notes=notes, tell=_progress)
    return rows, problems


def _named(scans: Sequence[Scan], asked: str) -> int:
    names = [scan.name for scan in scans]
    if asked in names:
        return names.index(asked)
    if asked.isdecimal() and int(asked) < len(names):
        return int(asked)
    some = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    raise ConfigError(f"--scan: expected a name or 0 to {len(names) - 1} but got {asked!r}. There are {some}.")


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\rthreshold {done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)


def lines(scans: Sequence[Scan], batch: Batch, config: TrainerConfig) -> list[Row]:
    """What is known of each crop: the columns of `crops.parquet`, its edges in mm (depth, height, width), the HU window it is seen in."""
    record = CropRecord(scans)
    record.add(batch, None)
    spacing = {scans[int(n)].name: scans[int(n)].spacing_mm for n in np.unique(batch.scan)}
    windows = np.concatenate([windows_hu(changes, config) for changes in (batch.global_changes, batch.local_changes)], axis=1)
    rows = record.table().drop_columns(["loss"]).to_pylist()
    return [
        {**row, "edges_mm": [round(row["size"] * mm, 2) for mm in spacing[row["scan"]]], "window_hu": window}
        for row, window in zip(rows, windows.reshape(-1, 2).round(1).tolist(), strict=True)
    ]


def text(row: Row) -> str:
    """One line."""
    place = f"globals share IoU {row['iou']:.4f}" if row["iou"] is not None else f"inside a global {row['containment']:.4f}"
    corner = [row[f"corner_{axis}"] for axis in ("depth", "height", "width")]
    below = "  BELOW RATIO" if row["violation"] else ""
    low, high = row["window_hu"]
    return (
        f"step {row['step']}  {row['scan']}  {row['kind']} {row['view']}  corner {corner}  edge {row['size']} voxels, "
        f"{in_mm(row['edges_mm'])}  body {row['ratio']:.4f}  own {row['ratio_own']:.4f}  {place}  window {low:g} to {high:g} HU{below}"
    )


def summary(rows: Sequence[Row]) -> list[str]:
    """What the crops have in common: the HU window, means, and how many miss their ratio."""

    def mean(name: str) -> str:
        values = [row[name] for row in rows if row[name] is not None]
        return f"{np.mean(values):.3f}" if values else "none"

    ends = {tuple(row["window_hu"]) for row in rows}
    window = "window {:g} to {:g} HU".format(*ends.pop()) if len(ends) == 1 else f"{len(ends)} windows"
    return [
        f"{len(rows)} crops, {window}: body {mean('ratio')}, own {mean('ratio_own')}, IoU of globals {mean('iou')}, "
        f"locals inside a global {mean('containment')}, below ratio {sum(row['violation'] for row in rows)}"
    ]


def differences(run: Path, rows: Sequence[Row], batch: Batch, index: int | None) -> list[str]:
    """Where the run's record says something else; a step that is not on record is said and compared with nothing."""
    import pyarrow.parquet as pq

    path, views = run / "crops.parquet", batch.ratio.shape[1]
    recorded = pq.read_table(path, filters=[("step", "=", batch.step)]).to_pylist() if path.exists() else []
    if not recorded:
        print(f"trainer: {path}: no crops of step {batch.step} on record, so they are compared with nothing.", file=sys.stderr)
        return []
    first = 0 if index is None else index * views
    found = []
    for n, row in enumerate(rows):
        kept = recorded[first + n] if first + n < len(recorded) else dict.fromkeys(recorded[0])
        other = [f"{name} {row[name]}, on record {kept[name]}" for name in row.keys() & kept.keys() if not _same(row[name], kept[name])]
        if other:
            where = f"{path}: step {batch.step}, place {(first + n) // views}, view {n % views}"
            found.append(f"{where}: drawn again {'; '.join(sorted(other))}. Are code and data the same?")
    return found


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=1e-6)
    return one == other
