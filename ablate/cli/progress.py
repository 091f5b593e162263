"""What one sees while a study runs: a live view in a terminal, else a plain line an event."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ablate.cli.tables import print_findings
from ablate.conclusion import Conclusion
from ablate.execution.pool import QueueEvent
from ablate.runner import Signed
from ablate.study import CONFIRMATION, Study
from ablate.trial import result_of

FINAL = ("done", "failed", "reused")


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class Progress:
    """The state behind both views; an observer of the runner."""

    study: Study
    root: Path
    trials_at_most: int
    started: float = field(default_factory=time.monotonic)
    phase_name: str = ""
    arms: dict[str, list[str]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Signature to arm and replicate, of all phases so far: who looks on may hear of a trial's end when the next phase has begun."""
    ran: int = 0

    def foretold(self, findings: Sequence[Mapping[str, object]]) -> None:
        """What was said before any training."""

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.phase_name, self.arms = name, {}

    def trials(self, phase: str, arms: Mapping[str, Sequence[Signed]]) -> None:
        """These arms' trials are about to be completed."""
        self.arms |= {name: [spec.signature for spec in specs] for name, specs in arms.items()}
        self.names |= {spec.signature: f"{name} r{spec.replicate}" for name, specs in arms.items() for spec in specs}
        for signatures in self.arms.values():
            for signature in signatures:
                self.states.setdefault(signature, "queued")

    def event(self, event: QueueEvent) -> None:
        """Something happened to a trial or a worker."""
        if event.signature is None:
            return
        if event.kind in ("started", "adopted"):
            self.states[event.signature] = "running"
        elif event.kind in FINAL:
            self.ran += event.kind != "reused"
            self.states[event.signature] = event.kind
        elif event.kind == "retry":
            self.states[event.signature] = "queued"

    def concluded(self, conclusion: Conclusion) -> None:
        """A phase was decided."""

    @property
    def done(self) -> int:
        return sum(state in FINAL for state in self.states.values())

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def remaining_s(self) -> float | None:
        """At most: every trial that the plan may still ask for, at the pace so far."""
        if self.ran < 2:
            return None
        return (max(self.trials_at_most, len(self.states)) - self.done) * self.elapsed_s / self.ran

    def arm_counts(self) -> dict[str, int]:
        """How many arms of the phase are done, running and queued."""
        counts = {"done": 0, "running": 0, "queued": 0}
        for signatures in self.arms.values():
            states = [self.states[s] for s in signatures]
            if all(state in FINAL for state in states):
                counts["done"] += 1
            elif any(state == "running" or state in FINAL for state in states):
                counts["running"] += 1
            else:
                counts["queued"] += 1
        return counts

    def best(self) -> tuple[str, float, int] | None:
        """Arm with the best mean objective so far, its mean and its finished replicates."""
        objective, rows = self.study.objective, []
        for name, signatures in self.arms.items():
            results = [result_of(self.root, s) for s in signatures if self.states[s] in FINAL]
            values = [r.metrics[objective.metric] for r in results if r is not None and objective.metric in r.metrics]
            if values:
                rows.append((name, sum(values) / len(values), len(values)))
        return max(rows, key=lambda row: objective.sign * row[1], default=None)

    def arm_of(self, signature: str) -> str:
        """`arm r2` of a trial, as the last phase that uses it calls it."""
        return self.names.get(signature, signature)


class PlainView:
    """A line an event; for logs and pipes."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self.progress, self.console = progress, console

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def foretold(self, findings: Sequence[Mapping[str, object]]) -> None:
        """What was said before any training."""
        print_findings(findings, self.console)

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.progress.phase(name)
        self._line(f"phase {name} begins")

    def trials(self, phase: str, arms: Mapping[str, Sequence[Signed]]) -> None:
        """These arms' trials are about to be completed."""
        self.progress.trials(phase, arms)
        signatures = {spec.signature for specs in arms.values() for spec in specs}
        self._line(f"phase {phase}: {len(arms)} arms, {len(signatures)} trials")

    def event(self, event: QueueEvent) -> None:
        """Something happened to a trial or a worker."""
        self.progress.event(event)
        if event.signature is None:
            self._line(f"{event.kind} {event.text}")
        elif event.kind in (*FINAL, "started", "adopted", "retry"):
            remaining = self.progress.remaining_s()
            left = f", at most {clock(remaining)} left" if remaining is not None and event.kind in FINAL else ""
            text = f" {event.text}" if event.text else ""
            self._line(f"{event.kind} {self.progress.arm_of(event.signature)}{text} ({self.progress.done} done{left})")

    def concluded(self, conclusion: Conclusion) -> None:
        """A phase was decided."""
        self._line(f"phase {conclusion.phase} decided: {conclusion.reason}")

    def _line(self, text: str) -> None:
        self.console.print(f"{clock(self.progress.elapsed_s):>8}  {text}", markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """One view that redraws itself in the terminal."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self.progress = progress
        self.last = ""
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self.render, transient=True)

    def __enter__(self) -> LiveView:
        self.live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.__exit__(kind, error, trace)

    def foretold(self, findings: Sequence[Mapping[str, object]]) -> None:
        """What was said before any training."""
        print_findings(findings, self.live.console)

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.progress.phase(name)

    def trials(self, phase: str, arms: Mapping[str, Sequence[Signed]]) -> None:
        """These arms' trials are about to be completed."""
        self.progress.trials(phase, arms)

    def event(self, event: QueueEvent) -> None:
        """Something happened to a trial or a worker."""
        self.progress.event(event)
        if event.text:
            name = self.progress.arm_of(event.signature) if event.signature else ""
            self.last = f"{event.kind} {name} {event.text}"

    def concluded(self, conclusion: Conclusion) -> None:
        """A phase was decided."""
        self.live.console.print(f"phase {conclusion.phase}: {conclusion.reason}", markup=False, highlight=False)

    def render(self) -> Group:
        """The view as it stands now."""
        progress = self.progress
        names = [*(phase.name for phase in progress.study.phases), *([CONFIRMATION] if progress.study.confirm else [])]
        place = f" ({names.index(progress.phase_name) + 1} of {len(names)})" if progress.phase_name in names else ""
        counts, best, remaining = progress.arm_counts(), progress.best(), progress.remaining_s()
        total = max(progress.trials_at_most, len(progress.states), 1)
        table = Table.grid(padding=(0, 2))
        table.add_row("study", Text(progress.study.study, style="bold"))
        table.add_row("phase", Text(f"{progress.phase_name}{place}"))
        table.add_row("arms", f"{counts['done']} done, {counts['running']} running, {counts['queued']} queued")
        if best is not None:
            metric = progress.study.objective.metric
            table.add_row("best so far", Text(f"{best[0]}: {metric} {best[1]:.4g} over {best[2]} replicates"))
        left = f"at most {clock(remaining)} left" if remaining is not None else "remaining time known after two trials"
        table.add_row("time", f"{clock(progress.elapsed_s)} elapsed, {left}")
        bar = ProgressBar(total=total, completed=progress.done, width=50)
        table.add_row("trials", Group(bar, Text(f"{progress.done} of at most {total}")))
        return Group(table, Text(self.last, style="dim", overflow="ellipsis", no_wrap=True))


def view(progress: Progress, console: Console) -> PlainView | LiveView:
    """The live view in a terminal, else plain lines."""
    return LiveView(progress, console) if console.is_terminal else PlainView(progress, console)
