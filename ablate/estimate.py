"""What a study will take: time and GPU-hours, from trials that ran here, with the uncertainty of that said."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ablate.errors import LedgerError, OverBudget, TrainerError
from ablate.execution.slots import Slots
from ablate.ledger import Used
from ablate.offers import Offers
from ablate.plan import Plan
from ablate.study import Study, Trainer
from ablate.trial import TrialFiles, TrialState, write_atomic

if TYPE_CHECKING:
    from ablate.ledger import Ledger

ENOUGH = 5
"""Trials of this study from which their own spread says how uncertain a time is."""

LOOKED_AT = 64
"""Latest trials of a study that are looked at."""

FACTOR_FEW, FACTOR_OTHER, FACTOR_PILOT, FACTOR_STATED = 1.5, 2.0, 2.0, 3.0
"""By how much a time may be wrong either way: from few trials, another study, a pilot, the trainer's own word. Set by judgement."""


@dataclass(frozen=True)
class TrialTime:
    """How long a trial of the study's baseline takes."""

    seconds: float | None
    low: float | None
    high: float | None
    source: str


def trial_time(study: Study, offers: Offers, root: Path, pilot_s: float | None = None) -> TrialTime:
    """From the trials of this study, else of another with the same trainer and code, else a pilot, else the trainer's word.

    Times are scaled from the arms that ran to the baseline where the trainer states what a configuration takes (`expected_seconds`).
    """
    own = _ratios(study, offers, root, study.study)
    stated = offers.expected_seconds(offers.config(study.baseline, 0))
    unit = stated or 1.0
    if own:
        times = sorted(unit * ratio for ratio in own)
        middle = median(times)
        count = f"{len(times)} trial{'s' if len(times) != 1 else ''} of this study"
        if len(times) >= ENOUGH:
            low, high = times[len(times) // 10], times[-1 - len(times) // 10]
            return TrialTime(middle, low, high, f"median of {count}")
        return _within(middle, FACTOR_FEW, f"median of {count}")
    pilot_s = pilot_s or kept_pilot(study, offers, root)
    if pilot_s is not None:
        return _within(pilot_s, FACTOR_PILOT, "a pilot of the baseline, extrapolated")
    for name in _others(study, offers, root):
        found = _ratios(study, offers, root, name)
        if found:
            scaled = "" if stated is not None else ", not scaled: the trainer states no time for a configuration"
            return _within(unit * median(found), FACTOR_OTHER, f"{len(found)} trials of study {name}{scaled}")
    if stated is not None:
        return _within(stated, FACTOR_STATED, "stated by the trainer, not measured here")
    return TrialTime(None, None, None, "unknown: run `ablate plan STUDY --pilot`")


def keep_pilot(study: Study, offers: Offers, root: Path, trial_s: float) -> None:
    """Remember what a pilot measured, for as long as code and baseline stay as they are."""
    path = root / study.study / "pilot.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({**_of_pilot(study, offers), "trial_s": trial_s}))


def kept_pilot(study: Study, offers: Offers, root: Path) -> float | None:
    """Seconds of a trial by an earlier pilot of the same code and baseline."""
    try:
        kept = json.loads((root / study.study / "pilot.json").read_text())
        return float(kept["trial_s"]) if {**kept, **_of_pilot(study, offers)} == kept else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_pilot(study: Study, offers: Offers) -> dict[str, object]:
    threads = study.threads_per_worker
    return {"code_version": offers.code_version(), "baseline": offers.identity(study.baseline), "threads_per_worker": threads}


def _within(seconds: float, factor: float, source: str) -> TrialTime:
    return TrialTime(seconds, seconds / factor, seconds * factor, f"{source}; may be wrong by a factor {factor:g}")


def _ratios(study: Study, offers: Offers, root: Path, name: str) -> list[float]:
    """Measured seconds of a study's trials over what the trainer expects of each, or the seconds where it states nothing."""
    path = root / name / "ledger.db"
    if not path.exists():
        return []
    found = []
    for seconds, config in _measured(path, root):
        try:
            expected = offers.expected_seconds(config)
        except TrainerError:
            continue
        if expected is None or expected > 0:
            found.append(seconds / (expected or 1.0))
    return found


def _measured(path: Path, root: Path) -> Iterator[tuple[float, dict[str, object]]]:
    from ablate.ledger import Ledger

    ledger = Ledger(path, read_only=True)
    try:
        done = [record for record in ledger.trials({TrialState.DONE}) if record.attempts > 0][-LOOKED_AT:]
        attempts = ledger.attempts_of([record.signature for record in done])
        for record in done:
            seconds = sum(attempt.seconds or 0.0 for attempt in attempts[record.signature])
            try:
                config = json.loads(TrialFiles(root, record.signature).spec.read_text())["config"]
            except (OSError, ValueError, KeyError):
                continue
            if seconds > 0:
                yield seconds, config
    finally:
        ledger.close()


def _others(study: Study, offers: Offers, root: Path) -> list[str]:
    """Other studies under the same `runs` with the same trainer and code, the latest first."""
    found = []
    for path in sorted(root.glob("*/ledger.db"), key=lambda one: one.stat().st_mtime, reverse=True):
        if path.parent.name == study.study:
            continue
        from ablate.ledger import Ledger

        try:
            ledger = Ledger(path, read_only=True)
            frozen = ledger.frozen()
            ledger.close()
        except LedgerError:
            continue
        if frozen is None or frozen.code_version != offers.code_version():
            continue
        if Trainer.model_validate(frozen.document["study"]["trainer"]).name == study.trainer.name:
            found.append(path.parent.name)
    return found


@dataclass(frozen=True)
class Estimate:
    """What is still to do, what that takes, and what the budget has left."""

    study: Study
    trials: int
    """At most, still to run."""
    time: TrialTime
    workers: int
    gpus_each: float
    used: Used

    def hours(self, seconds: float | None) -> float | None:
        """Wall time of the remaining trials, if each took so long."""
        return None if seconds is None else self.trials * seconds / self.workers / 3600

    def gpu_hours(self, seconds: float | None) -> float | None:
        return None if seconds is None else self.trials * seconds * self.gpus_each / 3600

    def over(self) -> list[str]:
        """Every part of the budget that is not enough: what is used, what is estimated, what to change."""
        budget, found = self.study.budget, []
        kinds: list[tuple[str, float | None, float, float | None, str]] = [
            ("trials", budget.trials, self.used.trials, float(self.trials), "trials"),
            ("hours", budget.hours, self.used.seconds / 3600, self.hours(self.time.seconds), "hours"),
            ("gpu_hours", budget.gpu_hours, self.used.gpu_seconds / 3600, self.gpu_hours(self.time.seconds), "GPU-hours"),
        ]
        for key, most, used, more, unit in kinds:
            if most is not None and more is not None and more > 0 and used + more > most:
                spent = f"{used:.3g} used and " if used else ""
                source = "" if key == "trials" else f" ({self.time.source})"
                found.append(
                    f"budget.{key}: {spent}at most {more:.3g} {unit} to come{source} do not fit into {most:g}. "
                    f"Set budget.{key} to {_enough(used + more, whole=key == 'trials')}, or ask for fewer arms or replicates."
                )
        return found

    def document(self) -> dict[str, Any]:
        """The `estimate` of `ablate plan --json`."""
        time, budget = self.time, self.study.budget
        return {
            "trials_to_come_at_most": self.trials,
            "trial_s": time.seconds,
            "trial_s_low": time.low,
            "trial_s_high": time.high,
            "source": time.source,
            "workers": self.workers,
            "gpus_each": self.gpus_each,
            "hours": self.hours(time.seconds),
            "hours_low": self.hours(time.low),
            "hours_high": self.hours(time.high),
            "gpu_hours": self.gpu_hours(time.seconds),
            "gpu_hours_low": self.gpu_hours(time.low),
            "gpu_hours_high": self.gpu_hours(time.high),
            "used": {"trials": self.used.trials, "hours": self.used.seconds / 3600, "gpu_hours": self.used.gpu_seconds / 3600},
            "budget": budget.model_dump(mode="json"),
            "over_budget": self.over(),
        }


def _enough(value: float, *, whole: bool) -> str:
    """Rounded up: what is named must be enough."""
    step = 1.0 if whole else 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step) * step:.{'0f' if whole else '6g'}}"


def estimate(study: Study, offers: Offers, plan: Plan, root: Path, pilot_s: float | None = None) -> Estimate:
    """What the study takes from where it stands now.

    Raises:
        LedgerError: Its ledger cannot be read.
        StudyError: It names GPUs that this machine does not show.
    """
    slots = Slots.of(study)
    trials, used = plan.trials_at_most, Used(0, 0.0, frozenset())
    path = root / study.study / "ledger.db"
    if path.exists():
        from ablate.ledger import Ledger

        ledger = Ledger(path, read_only=True)
        try:
            used, trials = ledger.used(), _to_come(plan, ledger)
        finally:
            ledger.close()
    return Estimate(study, trials, trial_time(study, offers, root, pilot_s), slots.workers(study), slots.gpus_each, used)


def _to_come(plan: Plan, ledger: Ledger) -> int:
    """The plan's bound less what is done: nothing where the study ended, only the open phases else."""
    if any(event.kind == "done" for event in ledger.events()[-1:]):
        return 0
    concluded = ledger.conclusions()
    final = {record.signature for record in ledger.trials({TrialState.DONE, TrialState.FAILED})}
    left = 0
    for phase in plan.phases:
        if phase.name not in concluded:
            done = {use.signature for use in ledger.uses(phase.name)} & final
            left += max(0, phase.trials - len(done))
    return left


def check(estimated: Estimate) -> None:
    """Refuse a study that its budget will not carry to the end.

    Raises:
        OverBudget: With the estimate, the budget, and what to change.
    """
    over = estimated.over()
    if over:
        raise OverBudget(estimated.study.study, [*over, "Or run it with --yes: it stops, resumable, where the budget ends."])
