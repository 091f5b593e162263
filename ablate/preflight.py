"""What the trainer says of a study's arms before any training, gathered from all of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablate import design
from ablate.errors import StudyError
from ablate.offers import Offers
from ablate.study import BASELINE, Finding, Levels, Study, Tune, asked_of
from ablate.trial import write_atomic

Asked = list[tuple[str, Levels]]
"""Where an arm stands in the study file, and its levels."""


def asked(study: Study) -> Asked:
    """Every statically known arm.

    What a later phase carries is not known yet: its arms come once for each winner that may be carried.
    """
    found: Asked = [("baseline", dict(study.baseline))]
    found += [(f"references.{name}", {**study.baseline, **levels}) for name, levels in study.references.items()]
    for index, phase in enumerate(study.phases):
        if isinstance(phase.design, Tune):
            continue
        carries, complete = ([study.baseline], True) if index == 0 else design.possible_carries(study, index)
        for carried in carries if complete else []:
            expanded = design.expand(phase, carried)
            found += [(f"phases[{index}] arm {arm.name!r}", dict(arm.levels)) for arm in expanded if arm.name != BASELINE]
    return found


def check(study: Study, arms: Asked, offers: Offers, root: Path) -> list[list[Finding]]:
    """Ask the trainer whether each arm can work on this data.

    Returns:
        All that it says, arm by arm.

    Raises:
        StudyError: Every level that cannot work on top of anything that may be carried, with its measured reason.
    """
    findings = offers.preflight([offers.config(levels, 0) for _, levels in arms], root)
    asked_of = Counter(where for where, _ in arms)
    failed: Counter[str] = Counter()
    problems: dict[str, list[str]] = {}
    for (where, _), found in zip(arms, findings, strict=True):
        errors = [f"{finding.path}: {finding.what} {finding.mend}" for finding in found if finding.level == "error"]
        failed[where] += bool(errors)
        for error in errors:
            problems.setdefault(error, []).append(where)
    lines = []
    for problem, places in problems.items():
        certain = [where for where in dict.fromkeys(places) if failed[where] == asked_of[where]]
        if certain:
            lines.append(f"{problem} (in {certain[0]}{f' and {len(certain) - 1} more' if len(certain) > 1 else ''})")
    if lines:
        raise StudyError(study.study, lines)
    return findings


def summary(arms: Asked, findings: Sequence[Sequence[Finding]]) -> list[dict[str, object]]:
    """Findings about the same setting once, errors first, with the places of the study that they are about.

    What was measured is that of the first place; it differs a little where arms draw other crops. An arm of a later phase stands on
    whatever may win before it: a place says on how many of these, where it is not on all.
    """
    asked_of = Counter(where for where, _ in arms)
    places: dict[tuple[str, str, str], tuple[Finding, Counter[str]]] = {}
    for (where, _), found in zip(arms, findings, strict=True):
        for key in dict.fromkeys((one.level, one.path, one.mend) for one in found):
            finding = next(one for one in found if (one.level, one.path, one.mend) == key)
            places.setdefault(key, (finding, Counter()))[1][where] += 1
    order = ("error", "warning", "info")
    told = sorted(places.values(), key=lambda entry: order.index(entry[0].level))

    def named(where: str, times: int) -> str:
        return where if times == asked_of[where] else f"{where} (on {times} of {asked_of[where]} possible winners)"

    return [{**finding.model_dump(mode="json"), "arms": [named(*one) for one in wheres.items()]} for finding, wheres in told]


def keep(root: Path, study: Study, code_version: str, findings: Sequence[Mapping[str, object]]) -> None:
    """For the plan and the report of this study under this trainer's code.

    Args:
        root: The `runs` folder.
    """
    path = _place(root, study, code_version)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(findings, indent=1))


def kept(root: Path, study: Study, code_version: str) -> list[dict[str, object]] | None:
    """What `keep` was given; None: this study was not looked at yet."""
    path = _place(root, study, code_version)
    if not path.exists():
        return None
    found: list[dict[str, object]] = json.loads(path.read_text())
    return found


def _place(root: Path, study: Study, code_version: str) -> Path:
    """The same whatever the order of keys, how the study runs, and which keys are left at their defaults: a ledger gives it back sorted,
    and later versions have more keys."""
    said = asked_of(study) + code_version
    return root / "preflight" / f"study-{hashlib.sha256(said.encode()).hexdigest()[:32]}.json"
