"""What earlier runs of a study concluded, and what changed since: a line for each in `runs/history.jsonl`, which outlives their folders."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.conclusion import Conclusion
from ablate.study import BASELINE, CONFIRMATION, Study, asked_of
from ablate.words import between, listed, number

TIME = "ended_s"
"""When the run ended, in seconds since 1970."""

KEYS = frozenset({"asks", "code_version", "data_hash", "metric", "winners", "verdicts", "effect", TIME})
"""What a line must hold."""


def entry(study: Study, conclusions: Sequence[Conclusion], code_version: str, data_hash: str) -> dict[str, Any]:
    """What is kept of a finished run; equal runs have equal entries."""
    last = conclusions[-1]
    effect = last.arm(last.winner).total_effect
    return {
        "study": study.study,
        "asks": hashlib.sha256(asked_of(study).encode()).hexdigest()[:12],
        "code_version": code_version,
        "data_hash": data_hash,
        "metric": study.objective.metric,
        "winners": {one.phase: one.winner for one in conclusions},
        "verdicts": {f"{one.phase}/{arm.name}": arm.verdict for one in conclusions for arm in one.arms if arm.name != BASELINE},
        "effect": None if effect is None else {"mean": effect.mean, "low": effect.low, "high": effect.high},
    }


def record(root: Path, found: Mapping[str, Any]) -> None:
    """Append a finished run, unless the last one of its study was the same."""
    known = read(root, str(found["study"]))
    if known and same(known[-1], found):
        return
    line = json.dumps({**found, TIME: round(time.time(), 3)}, sort_keys=True) + "\n"
    handle = os.open(root / "history.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())  # one write: two studies that end together leave two lines
        os.fsync(handle)
    finally:
        os.close(handle)


def read(root: Path, study: str) -> list[dict[str, Any]]:
    """The runs of a study, oldest first; a line that cannot be read is left out."""
    try:
        lines = (root / "history.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if isinstance(one, dict) and one.get("study") == study and one.keys() >= KEYS:
            found.append(one)
    return found


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two entries say the same of the same."""
    return {k: v for k, v in one.items() if k != TIME} == {k: v for k, v in json.loads(json.dumps(other)).items() if k != TIME}


def earlier(root: Path, now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Runs before the present one, each with the sentences that say what changed from it to now; the latest first."""
    known = read(root, str(now["study"]))
    if known and same(known[-1], now):
        known = known[:-1]
    return [{**one, "changed": changed(one, now)} for one in reversed(known)]


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, cause first."""
    what = {"asks": "the study file", "code_version": "the trainer's code", "data_hash": "the data"}
    causes = [name for key, name in what.items() if before.get(key) != now.get(key)]
    said = [f"Changed since: {listed(causes)}."] if causes else ["Nothing changed in study, code or data."]
    said.append(f"It concluded: {_concluded(before)}. Now: {_concluded(now)}.")
    was = before["verdicts"]
    flipped = [f"{arm} {was[arm]} -> {verdict}" for arm, verdict in now["verdicts"].items() if was.get(arm, verdict) != verdict]
    return [*said, f"Verdicts that differ: {'; '.join(flipped)}." if flipped else "No verdict of a common arm differs."]


def _concluded(one: Mapping[str, Any]) -> str:
    winners = [f"{winner} ({phase})" for phase, winner in one["winners"].items() if winner != BASELINE and phase != CONFIRMATION]
    effect = one["effect"]
    if not winners:
        return "nothing adopted"
    figures = "" if effect is None else f", {one['metric']} {number(effect['mean'], signed=True)}{between(effect['low'], effect['high'])}"
    return f"{listed(winners)}{figures}"
