"""`ablate init`: a study file to begin with, commented and valid, with what the program's own config says of its settings."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from ablate.errors import StudyError
from ablate.loading import load
from ablate.loading.composing import settings_of
from ablate.loading.reading import load_mapping
from ablate.trial import flatten

ACTIVE = 8
"""Suggested factors that stand ready; the others are comments, or the first study would be too large to run."""

SKELETON = "my_trainer.py"

_NOT_FACTORS = re.compile(
    r"(?:^|[._-])(?:seed|workers?|threads?|port|device|gpus?|nodes?|rank|log\w*|save\w*|every|interval|dir|path|resume|debug|verbose|version"
    r"|print|wandb|project|tags?)(?:$|[._-])",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """Who trains."""

    COMMAND = "command"
    CALLABLE = "callable"
    BUILTIN = "builtin"


def init(path: Path, kind: Kind, from_config: Path | None, *, force: bool) -> list[str]:
    """Write a study that `ablate plan` loads.

    Args:
        path: The file, or the folder that gets a `study.yaml`.
        from_config: The program's own YAML or JSON config, whose settings become the base and suggested factors.
        force: Write over what is there.

    Returns:
        What was written and what to do next, line by line.

    Raises:
        StudyError: Something is in the way, the config cannot be read, or no valid study comes of it.
    """
    path = path / "study.yaml" if path.is_dir() or path.suffix not in (".yaml", ".yml") else path
    if from_config is not None and kind is Kind.BUILTIN:
        raise StudyError(
            "ablate init", ["--from-config: the built-in trainer knows its settings. Leave it out, or use --trainer command or callable."]
        )
    if path.exists() and not force:
        raise StudyError(str(path), ["is there already. Choose another path, or write over it with --force."])
    settings = settings_of(from_config) if from_config is not None else None
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem if path.stem != "study" else path.resolve().parent.name).strip("_.-")[:64] or "study"
    said = []
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind is Kind.CALLABLE and not Path(SKELETON).exists():
        Path(SKELETON).write_text(_SKELETON, encoding="utf-8")
        said.append(f"wrote {SKELETON}: the smallest trainer; put yours in its place")
    text = _study(name, path, kind, settings, from_config)
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    try:
        load(beside)
    except StudyError as error:
        raise StudyError(f"the study made of {from_config or 'nothing'}", error.problems) from error
    else:
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return [*said, f"wrote {path}: read its comments, then `ablate plan {shlex.quote(str(path))}`"]


def _study(name: str, path: Path, kind: Kind, settings: Mapping[str, object] | None, from_config: Path | None) -> str:
    head = [
        "# Question  What should this study answer?",
        f"# Command   ablate run {shlex.quote(str(path))}     (paths are from the folder where you call it)",
        "# Cost      ablate plan says how many trials; their length is yours",
        f"study: {_plain(name)}",
        "question: Which change helps, and by how much?",
    ]
    if kind is Kind.BUILTIN:
        return "\n".join([*head, _BUILTIN])
    if settings is None:
        flat: dict[str, object] = {"lr": 0.001, "augment": False, "name": "first"}
    else:
        flat = dict(flatten(settings))
    if kind is Kind.CALLABLE:
        trainer = [*_CALLABLE.splitlines(), "  set:                              # settings of every arm", *_indented(_set(flat), 4)]
    else:
        trainer = _command(settings, from_config)
    return "\n".join([*head, *trainer, _DECISION, *_indented(list(_factors(flat)), 6)]) + "\n"


def _command(settings: Mapping[str, object] | None, from_config: Path | None) -> list[str]:
    if settings is None or from_config is None:
        return (
            _COMMAND.replace(
                "BASE", "  base: {lr: 0.001, augment: false, name: first}   # what arms change: values, or your own file: base.yaml"
            )
            .replace("COMMAND", '["{python}", train.py, --out, "{directory}"]')
            .replace("STYLE", "flags ")
            .splitlines()
        )
    style = "hydra" if "defaults" in load_mapping(from_config) else "json " if from_config.suffix == ".json" else "yaml "
    command = (
        '["{python}", app.py, "hydra.run.dir={directory}"]'
        if style == "hydra"
        else '["{python}", train.py, --config, "{config}", --out, "{directory}"]'
    )
    base = f"  base: {_scalar(str(from_config))}   # your own file; a misspelled path in this study is an error before anything runs"
    return _COMMAND.replace("BASE", base).replace("COMMAND", command).replace("STYLE", style).splitlines()


def _factors(flat: Mapping[str, object]) -> Iterator[str]:
    """A line for each setting: levels where they can be guessed, for the first few; the others as comments."""
    lines, active = [], 0
    for path, value in flat.items():
        levels = _levels(value)
        if levels is None:
            lines.append(
                (False, f"{_plain(path)}: [{_scalar(value)}, ...]" if not isinstance(value, (list, dict)) else f"{_plain(path)}: ...")
            )
            continue
        ready = active < ACTIVE and not _NOT_FACTORS.search(path)
        active += ready
        lines.append((ready, f"{_plain(path)}: [{', '.join(map(_scalar, levels))}]"))
    if not active:
        first = next(((i, p, v) for i, (p, v) in enumerate(flat.items()) if not isinstance(v, (list, dict))), None)
        if first is None:
            raise StudyError("ablate init", ["the config has no setting that could be varied: no number, no true or false, no text."])
        index, path, value = first
        levels = _levels(value) or [value, "ANOTHER"]
        lines[index] = (True, f"{_plain(path)}: [{', '.join(map(_scalar, levels))}]")
    for ready, line in lines:
        yield line if ready else f"# {line}"


def _levels(value: object) -> list[object] | None:
    """Levels around a value; none where nothing can be guessed."""
    if isinstance(value, bool):
        return [value, not value]
    if isinstance(value, int):
        return [value, value + 1] if value in (0, 1) else [*sorted({value // 2, value, value * 2})]
    if isinstance(value, float) and math.isfinite(value):
        if value == 0:
            return [0.0, 0.1]
        if 0.1 < value < 1:
            step = min(value, 1 - value) / 2
            return [_rounded(value - step), value, _rounded(value + step)]
        factor = 3 if 0 < value <= 0.1 else 2
        return [*sorted({_rounded(value / factor), value, _rounded(value * factor)})]
    return None


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _set(flat: Mapping[str, object]) -> list[str]:
    """Settings as they stand; what the study cannot set, the seed and nested lists, as comments."""
    lines = []
    for path, value in flat.items():
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(inner, (list, dict)) for inner in value))
        lines.append(f"{'# ' if nested or path == 'seed' else ''}{_plain(path)}: {_scalar(value)}")
    return lines


def _indented(lines: list[str], spaces: int) -> list[str]:
    return [" " * spaces + line for line in lines]


def _plain(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) and text.lower() not in ("null", "true", "false") else json.dumps(text)


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return _plain(value)
    return repr(value) if isinstance(value, float) else json.dumps(value)


_COMMAND = """\
trainer:
  # Any program in any environment, as an argument vector; no shell runs it. {python} is the Python that runs ablate; write the path
  # of another one for another environment. {directory} is a folder of the trial's own, {seed} the replicate's seed.
  command: COMMAND
  # cwd: .                          # where it runs, and where its paths are from
  # environment: {OMP_NUM_THREADS: 1}
  config: STYLE                     # flags: --a.b c | hydra: a.b=c | yaml, json: a file whose path is {config}
BASE
  seed_key: seed                    # the setting that holds the replicate's seed
  metrics: {file: metrics.jsonl}    # JSON lines in {directory}, each with a `step`; or matched in what it prints:
  # metrics: {pattern: 'step (?P<step>\\d+) loss (?P<loss>\\S+)'}
  # rename: {loss: train/loss}      # your name of a metric: the study's
  final: last                       # a trial's metric: its last value; mean_5: the mean of its last five
  # result: result.json             # or final metrics from a JSON file in {directory}
  # checkpoint: {file: checkpoint.pt, argument: [--resume, "{checkpoint}"]}   # so that a killed trial goes on
  stop: {signal: SIGTERM, wait_s: 15}   # how it is asked to end; then it is killed
  # code: [src]                     # what else decides the result; default: the script and the versioned sources beside it
  # data: [data/train.csv]          # or {version: NAME}
"""

_CALLABLE = """\
trainer:
  callable: "my_trainer:train"      # package.module:name, a function train(config, run) -> final metrics
  seed_key: seed                    # the setting that holds the replicate's seed
"""

_DECISION = """\
baseline: {}                        # the settings that arms are compared with; what is not named is as the trainer has it
objective: {metric: loss, direction: minimize, smallest_effect: 0.01}   # the metric that decides, and the least that would matter
# guards:                           # what an adopted arm must respect
#   - {metric: accuracy, at_least: 0.5}
replicates: {start: 3, at_most: 6}  # paired by seed
budget: {trials: 200}
workers: 1                          # trials at a time
phases:
  - name: first
    design: one_at_a_time           # factorial | one_at_a_time | add_one_in | leave_one_out | path | {tune: 12}
    factors:                        # keep the few that you want to know about"""

_BUILTIN = """\
trainer:
  callable: "trainer.train:train"   # DINO-3D for CT
  schema: "trainer.config:schema"
  preset: phantom_cpu
  # set: {data.source: /path/to/scans, data.labels: null}   # your own CT
baseline:                           # the settings under which you saw the collapse
  crops.foreground_threshold: 500
  crops.foreground_crop_prob: 0.0
  crops.min_global_overlap: 0.0
  crops.localcrops_subset_of_globalcrops: false
references: {untrained: {loop.steps: 0}}   # in every table, not competing; adoption requires beating it
objective: {metric: probe/local_to_global_mrr, direction: maximize, smallest_effect: 0.02}
guards:
  - {metric: probe/foreground_mutual_information, at_least: 0.2}   # nats: not uniform
  - {metric: probe/marginal_entropy, at_least: 0.5}                # share of ln K: not one prototype
  - {metric: loop/updates_applied, at_least: 0.95}                 # it trained at all
replicates: {start: 4, at_most: 6}
budget: {trials: 160, hours: 2}
phases:
  - name: flags
    design: factorial
    set: {crops.foreground_threshold: -500, crops.min_foreground_ratio: 0.5}   # of every arm but the baseline
    factors:
      crops.foreground_crop_prob: [0.0, 1.0]
      crops.localcrops_subset_of_globalcrops: [false, true]
      crops.min_global_overlap: [0.0, 0.3]
"""

_SKELETON = '''\
"""The smallest trainer: fits a line, reports its loss, goes on from a checkpoint. Put yours in its place."""

import json
import random


def train(config, run):
    checkpoint = run.directory / "checkpoint.json"
    first, slope = json.loads(checkpoint.read_text()) if checkpoint.exists() else (1, 0.0)
    dice = random.Random(config["seed"])
    points = [(x / 10, 2 * x / 10 + dice.gauss(0, 0.1)) for x in range(10)]
    loss = 0.0
    for step in range(first, 51):
        slope -= config.get("lr", 0.1) * sum(2 * x * (slope * x - y) for x, y in points) / len(points)
        loss = sum((slope * x - y) ** 2 for x, y in points) / len(points)
        checkpoint.write_text(json.dumps([step + 1, slope]))
        if not run.report(step, {"loss": loss}):
            return {}
    return {"loss": loss}
'''
