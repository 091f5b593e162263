"""`python -m trainer data index|check|show|sample`: what a folder holds, before anything trains on it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.config import ConfigError, TrainerConfig, compose
from trainer.data.errors import DataError
from trainer.data.folder import too_small
from trainer.data.index import Entry, Index, StoredScans, build
from trainer.data.progress import shown
from trainer.data.sample import fetch
from trainer.data.show import describe, picture

EXIT_DONE, EXIT_PROBLEMS, EXIT_INVALID = 0, 1, 2

USAGE = """python -m trainer data index  PATH [--workers N] [--json] [preset=.. key=value ..]
       python -m trainer data check  PATH [--workers N] [--json] [preset=.. key=value ..]
       python -m trainer data show   PATH [--count N] [--json] [preset=.. key=value ..] [out=FILE.png]
       python -m trainer data sample DEST

index reads every scan below PATH (a folder, glob or file) once, several at a time; stopped, it goes on where it was. Training does the
same by itself. check lists all that is wrong with them, each with its mend. show draws slices of the first scans and prints their size,
spacing, HU and labels. sample brings one real chest CT with its labels (35 MB). Settings that matter here: data.labels, data.spacing_mm,
data.cache_dir, data.cache_limit_gb, crops.global_size_voxels."""


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 done, 1 `check` found problems (or no scan can be used), 2 invalid."""
    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument("action", choices=("index", "check", "show", "sample"))
    parser.add_argument("path")
    parser.add_argument("--workers", type=_at_least_one, help="processes that read; by default one a CPU, at most 8")
    parser.add_argument("--count", type=_at_least_one, default=4, help="scans that `show` draws")
    parser.add_argument("--json", action="store_true", help="the lines as JSON")
    asked, rest = parser.parse_known_args(list(arguments))
    action: Callable[[argparse.Namespace, Sequence[str]], int] = {"index": _index, "check": _check, "show": _show, "sample": _sample}[
        asked.action
    ]
    try:
        return action(asked, rest)
    except (ConfigError, DataError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_INVALID


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1 but got {text}.")
    return int(text)


def _built(asked: argparse.Namespace, overrides: Sequence[str]) -> tuple[TrainerConfig, Index]:
    config = compose(list(overrides))
    # Set after composing: a path may hold what Hydra's grammar would read as its own.
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=asked.path))
    with shown(f"index of {asked.path}") as progress:
        return config, build(config.data, asked.workers, progress)


def _index(asked: argparse.Namespace, overrides: Sequence[str]) -> int:
    began = time.monotonic()
    _, index = _built(asked, overrides)
    passed = time.monotonic() - began
    if asked.json:
        print(json.dumps({"scans": [_facts(entry) for entry in index.entries], "bad": index.problems, "read": index.read}, indent=1))
        return EXIT_DONE
    for problem in index.problems:
        print(f"bad: {problem}")
    print(f"{len(index.entries)} scans can be used, {len(index.problems)} problems; {index.read} read now, in {passed:.1f} s")
    return EXIT_DONE


def _check(asked: argparse.Namespace, overrides: Sequence[str]) -> int:
    try:
        config, index = _built(asked, overrides)
    except DataError as error:  # nothing there at all, or a label folder without labels: a finding as any other
        problems, notes, usable = error.problems, tuple[str, ...](), 0
    else:
        small = too_small(index, config.crops.global_size_voxels)
        problems, notes = (*index.problems, *small.values()), index.notes
        usable = len(index.entries) - len(small)
    if asked.json:
        print(json.dumps({"problems": problems, "notes": notes, "usable": usable}, indent=1))
    else:
        for kind, sentences in (("problem", problems), ("note", notes)):
            for sentence in sentences:
                print(f"{kind}: {sentence}")
        print(f"{usable} scans can be used, {len(problems)} problems, {len(notes)} notes")
    return EXIT_PROBLEMS if problems else EXIT_DONE


def _show(asked: argparse.Namespace, rest: Sequence[str]) -> int:
    outs = [Path(word.removeprefix("out=")) for word in rest if word.startswith("out=")]
    config, index = _built(asked, [word for word in rest if not word.startswith("out=")])
    for problem in index.problems:
        print(f"bad: {problem}", file=sys.stderr)
    chosen = index.entries[: asked.count]
    if not chosen:
        return EXIT_PROBLEMS
    scans = StoredScans(chosen, config.data)
    target = outs[-1] if outs else Path("scans.png")
    picture(target, scans, config.data)
    if asked.json:
        print(json.dumps([_facts(entry) for entry in chosen], indent=1))
    else:
        for entry, scan in zip(chosen, scans, strict=True):
            print("\n".join(describe(entry, scan)))
        if len(index.entries) > len(chosen):
            print(f"{len(index.entries) - len(chosen)} more scans; --count {len(index.entries)} shows all")
    print(f"picture: {target}", file=sys.stderr if asked.json else sys.stdout)
    return EXIT_DONE


def _facts(entry: Entry) -> dict[str, object]:
    record = entry.record.as_json()
    return {"name": entry.source.name, "files": [str(entry.source.files[0]), len(entry.source.files)]} | {
        name: record[name] for name in ("shape", "spacing_mm", "stored_shape", "stored_spacing_mm", "hu", "air_share", "labels", "warning")
    }


def _sample(asked: argparse.Namespace, rest: Sequence[str]) -> int:
    if rest:
        raise ConfigError(f"data sample: expected a folder alone but got {' '.join(rest)} too. Leave it out.")
    for line in fetch(Path(asked.path)):
        print(line)
    return EXIT_DONE
