"""`python -m trainer diagnose CHECKPOINT DATA`, or of a file of features: what kind of collapse, and what to change."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import BACKBONE
from trainer.config import leaves, schema
from trainer.data import load_scans
from trainer.diagnose import Diagnosis, diagnose, read_sample, sample_scans
from trainer.diagnose.causes import RESCUE, RESCUE_REFERENCE, RESCUE_SETS, RESCUE_WITHOUT
from trainer.diagnose.kinds import MEANING
from trainer.diagnose.sample import FILES
from trainer.trained.arguments import network, parser, split, with_factory
from trainer.trained.network import Network

SCANS = 16
LAPTOP = "ct_cpu"
"""The preset in which a study of scans on disk takes minutes."""
READING = ("data.spacing_mm", "data.window_low_hu", "data.window_high_hu")
"""How scans are read: a study that starts from a network reads them as it does."""
_SHOWN = {
    "prototype_entropy_foreground": "mean entropy of body crops over ln K; near 1 is uniform",
    "marginal_entropy": "entropy of the mean over ln K; near 0 is one prototype",
    "foreground_mutual_information": "nats by which a prototype tells body crops apart; below 0.2 it does not",
    "prototype_usage": "prototypes that are some crop's first choice",
    "feature_std": "spread of features; 0 all equal, 1 isotropic",
    "mean_cosine": "between two crops; 1 all equal",
    "rankme": "effective directions of features",
    "directions": "effective directions in which crops differ",
    "one_direction_share": "share of the variance along one direction",
    "ratio_share": "share of the variance that body share explains",
    "scan_share": "share of the variance that the scan explains (body crops)",
    "lidar": "effective directions that tell scans apart",
    "local_to_global_mrr": "a local crop finds its global one (reciprocal rank)",
    "untrained_mrr": "the same by this network before training",
    "chance_mrr": "the same by chance",
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 done, whatever is found; 2 invalid."""
    made = with_factory(parser("diagnose", "Says which kind of collapse a network has and what likely led to it.", "student"))
    made.add_argument(
        "checkpoint", help=f"checkpoint.pt, a run's folder, .safetensors, anything with --factory; or features ({', '.join(FILES)})"
    )
    made.add_argument("data", nargs="?", help="a folder or glob of scans, or phantom; not needed for features")
    made.add_argument("--scans", type=int, default=SCANS, metavar="N", help=f"scans to read, evenly from the folder (default {SCANS})")
    made.add_argument("--json", action="store_true", help="everything as JSON")
    try:
        words, changes = split(arguments)
        given = made.parse_args(words)
        opened, found = _diagnosed(given, changes)
    except (ValueError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2
    name = given.checkpoint if opened is None else opened.name
    print(json.dumps({"network": name, **dataclasses.asdict(found)}, indent=1) if given.json else told(name, found, given, opened))
    return 0


def _diagnosed(given: argparse.Namespace, changes: dict[str, object]) -> tuple[Network | None, Diagnosis]:
    if given.scans < 1:
        raise ValueError(f"--scans: expected at least 1 but got {given.scans}. Leave it out for {SCANS}.")
    if Path(given.checkpoint).suffix in FILES:
        return None, diagnose(read_sample(Path(given.checkpoint)))
    if given.data is None:
        raise ValueError(f"{given.checkpoint}: expected scans to read it on. Give a folder, a glob or phantom after it.")
    opened = network(given, changes, given.data)
    scans = load_scans(opened.config)
    step = max(1, -(-len(scans) // given.scans))
    sample = sample_scans(opened, scans[::step])
    return opened, diagnose(sample, opened.config if opened.settings_known else None)


def told(name: str, found: Diagnosis, given: argparse.Namespace, opened: Network | None = None) -> str:
    """The diagnosis as text."""
    m = found.measures
    lines = [f"{name}: {m['crops']:.0f} crops", "", f"{found.kind}: {MEANING[found.kind]}."]
    lines += [f"  prototypes  {found.prototypes}", f"  features    {found.features}"]
    if found.learned is not None:
        verdict = "is better than" if found.learned else "is no better than"
        lines.append(
            f"  learning    retrieval {verdict} that of the untrained network ({m['local_to_global_mrr']:.3f}, {m['untrained_mrr']:.3f})"
        )
    lines += ["", *(f"  {key:30s} {m[key]:8.3f}  {text}" for key, text in _SHOWN.items() if key in m)]
    lines += _causes(found)
    if found.undecidable:
        lines += ["", "Not decided:", *(f"  {sentence}" for sentence in found.undecidable)]
    return "\n".join([*lines, "", _next(found, given, opened)])


def _causes(found: Diagnosis) -> list[str]:
    heads = {
        "likely": "Likely causes, by its own settings:",
        "to check": "Causes to check (its settings are not known here):",
        "unlikely": "Unlikely, by its settings:",
    }
    lines = []
    for state, head in heads.items():
        some = [cause for cause in found.causes if cause.state == state]
        if not some:
            continue
        if state == "unlikely":
            lines += ["", f"{head} " + ", ".join(f"{cause.setting}={cause.is_now}" for cause in some)]
            continue
        lines += ["", head]
        for cause in some:
            was = "" if cause.is_now is None else f" (is {cause.is_now})"
            lines += [f"  {cause.setting}: {cause.becomes}{was}   {cause.study}", f"    {cause.what}"]
    return lines


def _next(found: Diagnosis, given: argparse.Namespace, opened: Network | None) -> str:
    if found.kind in ("none", "undecided"):
        return "No collapse is seen. Whether the features serve your task, only that task tells."
    studies = dict.fromkeys(cause.study for cause in found.causes if cause.state != "unlikely") or {RESCUE: None}
    where, laptop = "", ""
    if given.data not in (None, "phantom"):
        where, laptop = " " + shlex.quote(f"data.source={given.data}"), f" trainer.preset={LAPTOP}"
    said = ["Find out which change helps, from new weights:"]
    said += [f"  ablate run {study} study=my_{Path(study).stem}{where}{laptop}" for study in studies]
    if opened is not None and opened.checkpoint is not None:
        said += ["Whether it un-collapses this very network:"]
        said += [f"  ablate run {study} study=cure_{Path(study).stem}{where}{_from(opened, study)}" for study in studies]
    return "\n".join(said)


def _from(opened: Network, study: str) -> str:
    """What makes every arm of a study start from this checkpoint: its path, and its backbone where the study would take another."""
    preset, own = leaves(schema(opened.config.preset)), leaves(opened.config)
    settings = {name: own[name] for name in BACKBONE if own[name] != preset[name] or (study == RESCUE and name in RESCUE_SETS)}
    words = [f"{name}={_plain(own[name])}" for name in READING if own[name] != preset[name]]
    words += [f"trainer.preset={opened.config.preset}", shlex.quote(f"loop.start_from={opened.checkpoint}")]
    if study == RESCUE:
        words += [RESCUE_WITHOUT, f"{RESCUE_REFERENCE}={_plain(own['model.layer_scale'])}"]
    words += [f"baseline.{name}={_plain(value)}" for name, value in settings.items()]
    return " ".join(["", *words])


def _plain(value: object) -> str:
    return "null" if value is None else str(value)
