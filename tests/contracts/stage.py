"""A study of the toy trainer in a folder of its own, and what its end must look like."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.execution.base import Identity
from ablate.execution.pool import Queue, QueueEvent, Timing
from ablate.ledger import Ledger, TrialRecord
from ablate.study import Objective, Phase, Study, Trainer
from ablate.trial import Cause, TrialFiles, TrialSpec, read_metrics, result_of, signature_of

TIMING = Timing(lease_s=3.0, renew_s=0.1, turn_s=0.02, idle_s=0.005, stop_s=10.0)


def expected_total(steps: int, seed: int) -> float:
    """What the toy trainer must return, step by step."""
    total = 0.0
    for step in range(steps):
        total += ((step + 1) * 7919 + seed * 104729) % 1009 / 1009
    return total


@dataclass
class Stage:
    """One study in one `runs` folder."""

    root: Path
    executor: str = "local"
    workers: int = 2
    attempts: int = 3
    timeout_min: float | None = None
    stall_min: float | None = None
    memory_per_trial_gib: float | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """Other keys of the study."""
    name: str = "toy"
    timing: Timing = TIMING
    events: list[QueueEvent] = field(default_factory=list)

    @property
    def counts(self) -> Path:
        folder = self.root.parent / "counts"
        folder.mkdir(exist_ok=True)
        return folder

    def study(self) -> Study:
        return Study(
            study=self.name,
            question="?",
            trainer=Trainer(callable="toy_trainer:train"),
            baseline={},
            objective=Objective(metric="probe/total", smallest_effect=0.1),
            phases=[Phase(name="p", design="path")],
            executor=self.executor,  # type: ignore[arg-type]
            workers=self.workers,
            attempts=self.attempts,
            timeout_min=self.timeout_min,
            stall_min=self.stall_min,
            **({"memory_per_trial_gib": self.memory_per_trial_gib} | self.more),
        )

    def spec(self, seed: int, steps: int = 5, **config: Any) -> TrialSpec:
        values = {"steps": steps, "seed": seed, "counts": str(self.counts), **config}
        return TrialSpec(signature_of(values, {}, "code", ""), seed, values, "toy_trainer:train", "code", "")

    @contextlib.contextmanager
    def queue(self, on_event: Callable[[QueueEvent], None] | None = None) -> Iterator[Queue]:
        ledger = Ledger(self.root / self.name / "ledger.db")

        def note(event: QueueEvent) -> None:
            self.events.append(event)
            if on_event is not None:
                on_event(event)

        try:
            with Queue(ledger, self.root, self.study(), on_event=note, timing=self.timing) as queue:
                yield queue
        finally:
            ledger.close()

    def complete(self, specs: Sequence[TrialSpec]) -> None:
        with self.queue() as queue:
            queue.complete(specs)

    def record(self, spec: TrialSpec) -> TrialRecord:
        ledger = Ledger(self.root / self.name / "ledger.db", read_only=True)
        return ledger.trial(spec.signature)

    def causes(self, spec: TrialSpec) -> list[Cause | None]:
        """How each attempt at a trial ended, in order; none: with a result."""
        ledger = Ledger(self.root / self.name / "ledger.db", read_only=True)
        return [attempt.cause for attempt in ledger.attempts(spec.signature)]

    def starts(self, seed: int) -> list[int]:
        """The step from which each execution of a trial started, in order of time."""
        found = [path.name.split("-from-")[1].split("-") for path in self.counts.glob(f"{seed}-from-*")]
        return [int(step) for step, _ in sorted(found, key=lambda parts: int(parts[1]))]

    def check_nothing_done_again(self, spec: TrialSpec) -> None:
        """Each attempt went on from the last checkpoint that an earlier one had left; only before the first is there none."""
        left = 0
        for directory in sorted((TrialFiles(self.root, spec.signature).directory / "attempts").iterdir()):
            if (started := directory / ".start").exists():
                assert int(started.read_text()) == left, directory
            if (checkpoint := directory / "checkpoint.json").exists():
                left = max(left, json.loads(checkpoint.read_text())[0])
        assert left == spec.config["steps"]

    def check_done(self, specs: Sequence[TrialSpec]) -> None:
        """Each trial done, with the result and the whole metric stream of an undisturbed run."""
        for spec in specs:
            steps, seed = spec.config["steps"], spec.config["seed"]
            assert isinstance(steps, int)
            assert isinstance(seed, int)
            result = result_of(self.root, spec.signature)
            assert result is not None, self.record(spec)
            assert result.metrics["probe/total"] == expected_total(steps, seed)
            assert result.summary == {"collapse": "none"}
            stream = read_metrics(TrialFiles(self.root, spec.signature).attempt(result.attempt))
            assert stream == [(step, {"train/total": expected_total(step + 1, seed)}) for step in range(steps)]
            assert self.record(spec).state == "done"

    def kinds(self, spec: TrialSpec) -> list[str]:
        """What happened to a trial, progress and starts left out."""
        return [e.kind for e in self.events if e.signature == spec.signature and e.kind not in ("progress", "started", "adopted")]

    def worker_identities(self) -> list[Identity]:
        found = [Identity.read(path) for path in (self.root / self.name / "workers").glob("*/worker.json")]
        return [identity for identity in found if identity is not None]

    def end_workers(self) -> None:
        """Whatever a test left behind is ended, each by its process."""
        for identity in self.worker_identities():
            if identity.pid != os.getpid():
                identity.kill()

    def start_controller(self, specs: Sequence[TrialSpec], plant: str = "") -> subprocess.Popen[str]:
        """The same in a process of its own group, which may be killed; `plant` says where it kills itself."""
        configs = [dict(spec.config) for spec in specs]
        values = {
            "root": str(self.root),
            "configs": configs,
            "plant": plant,
            "workers": self.workers,
            "executor": self.executor,
            "more": self.more,
        }
        here = Path(__file__).parent
        return subprocess.Popen(
            [sys.executable, str(here / "controller.py"), json.dumps(values)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
