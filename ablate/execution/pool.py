"""The queue that the runner uses: it completes trials, whatever dies meanwhile.

Life of a trial: queued -> running (an attempt's directory is claimed, the attempt recorded, then the order given to a
worker) -> done | queued again | failed. The ledger is behind the files by at most one turn, and each step may be repeated:
a controller that starts finds out from the files what its predecessor did not record.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType

from ablate.errors import BudgetSpent, Interrupted, LedgerError, Reopened
from ablate.execution import evidence, requests, sbatch
from ablate.execution.base import Executor, Order, QueueEvent, Timing, WorkerSettings
from ablate.execution.clock import SYSTEM, Clock
from ablate.execution.fleet import Fleet, Member, Patience
from ablate.execution.inline import Inline
from ablate.execution.lease import Renewal
from ablate.execution.local import Local
from ablate.execution.lock import ControllerLock, holder
from ablate.execution.requests import STOPS, What, request
from ablate.execution.slots import Slots, fitting
from ablate.execution.slurm import Slurm
from ablate.execution.watch import Limits, Running, exceeded, greedy, memory_is_low
from ablate.execution.worker import claim, under_way
from ablate.ledger import Ledger, TrialRecord
from ablate.study import Study
from ablate.trial import Cause, TrialFiles, TrialSpec, TrialState, accept, read_metrics, read_outcome, result_of, write_atomic
from ablate.words import counted

__all__ = ["Queue", "QueueEvent", "Timing", "holder", "request"]

LOOKED_AHEAD = 32
"""Trials that wait and are looked at for one that no other study trains: each look asks the file system."""

SESSION_S = 5.0
"""How often the controller's time is put on record."""

FEW, LONGEST_TURN_S = 10, 1.0
"""Beyond so many running trials the pause between two turns grows with them, up to this."""


@dataclass(frozen=True)
class Ended:
    """An attempt that is over."""

    order: Order
    cause: Cause | None
    message: str
    seconds: float


@dataclass
class _Work:
    """What is still to be done."""

    specs: dict[str, TrialSpec] = field(default_factory=dict)
    """The trials of the present call that are in no final state."""
    waiting: deque[str] = field(default_factory=deque)
    running: dict[tuple[str, int], Running] = field(default_factory=dict)


class Queue:
    """Completes trials on this study's workers; as a context it is the one controller of the study.

    Args:
        ledger: Written by this controller only.
        root: The `runs` folder.
        on_event: Called from this thread with all that happens.
        executor: Another one than the study names, and `clock` its time: simulations.

    Raises:
        StudyBusy: On entering: another controller runs the study.
    """

    def __init__(
        self,
        ledger: Ledger,
        root: Path,
        study: Study,
        *,
        on_event: Callable[[QueueEvent], None],
        timing: Timing | None = None,
        executor: Executor | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.ledger, self.root, self.study = ledger, root.resolve(), study
        self.timing = timing or Timing()
        self._on_event, self._events = on_event, list[QueueEvent]()
        self._work = _Work()
        self._until: int | None = None
        self._asked_to_stop = 0
        self._others: dict[str, tuple[float, bool]] = {}
        self._awaited: set[str] = set()
        self._spent = ""
        """Which of the study's times is used up."""
        self._completing = False
        self._ending_now = False
        directory = self.root / study.study
        self._lock = ControllerLock(directory)
        self._renewal = Renewal(directory / "lease", self.timing.renew_s)
        self._clock = clock
        self._executor = executor or self._make_executor()
        self._slots = Slots.of(study)
        self._workers = self._slots.workers(study)
        settings = WorkerSettings(
            str(directory / "lease"),
            self.timing.lease_s,
            self.timing.idle_s,
            [os.getcwd(), *(entry for entry in sys.path if entry)],
            # Submitit sets it, to nothing where no GPU was asked of it.
            {} if study.executor == "slurm" else {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")},
            stay_s=60 * study.slurm.time_min - sbatch.warn_s(study.slurm.time_min) if study.executor == "slurm" else None,
            tasks=study.tasks_per_trial,
            trainer=None if study.trainer.callable is None else study.trainer.callable.partition(":")[0],
        )
        self._fleet = Fleet(
            directory / "workers", self._executor, self.timing, settings, self._emit, clock, self._slots, Patience.of(study)
        )
        self._handlers: dict[signal.Signals, signal._HANDLER] = {}
        self._session, self._entered, self._touched, self._read = 0, 0.0, 0.0, 0.0
        self._oom_kills = evidence.oom_kills()
        self._limits = Limits.of(study, self.timing.stop_s)

    def _make_executor(self) -> Executor:
        silence_s = 4 * self.timing.lease_s
        if self.study.executor == "inline":
            return Inline(self.study.threads_per_worker, silence_s, self._why_stop, self._starting_inline)
        if self.study.executor == "slurm":
            sbatch.check(self.study)
            return Slurm(self.study, silence_s)
        return Local(self.study.threads_per_worker, silence_s, self.study.tasks_per_trial)

    def __enter__(self) -> Queue:
        self._lock.acquire()
        try:
            self._entered = self._clock.now_s()
            self._session = self.ledger.begin_session()
            self._renewal.start()
            self._adopt()
            self._fit_workers()
            self._listen(entering=True)
        except BaseException:
            self._renewal.stop()
            self._lock.release()
            raise
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _fit_workers(self) -> None:
        """No more workers than there is memory for; those that run already have theirs."""
        if self.study.executor == "slurm":
            return  # each job has its own memory
        present = len(self._fleet.members)
        more, said = fitting(max(0, self._workers - present), self.study.memory_per_trial_gib)
        if said:
            self._workers = present + more
            self.ledger.event("workers", said)
            self._emit(QueueEvent("worker", text=said))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        try:
            self._fleet.let_go()
            self._executor.close()
            self.ledger.touch_session(self._session, self._clock.now_s() - self._entered)
        except LedgerError:
            if error is None:
                raise
        finally:
            self._flush_events()
            self._renewal.stop()
            self._lock.release()

    def prepare(self, trials: int) -> None:
        """Start workers for so many trials to come, so that they import the trainer while something else is looked at.

        A job in a cluster's queue would be taken for a study that may yet prove wrong, so there it does nothing.
        """
        if self.study.executor == "local":
            self._fleet.grow(min(self._workers, trials))

    def complete(self, specs: Sequence[TrialSpec], until: int | None = None) -> None:
        """Return when each trial is done or failed for good; accepted results, also another study's, are used as they are.

        Args:
            until: A rung: trials that reached this step have paused there with a checkpoint, and count as complete for now.

        Raises:
            Interrupted: On Ctrl-C, SIGTERM or a stop request; running trials saved their checkpoints, the same call goes on.
            BudgetSpent: The study's time is used up; the same holds.
            LedgerError: The disk is full, or the ledger cannot be written.
            Reopened: A retry opened phases again.
            AblateError: No worker can be started.
        """
        self._completing, self._until = True, until
        pause_s = self.timing.turn_s
        try:
            self._open(specs)
            while self._work.specs:
                self._listen()
                if self._asked_to_stop or self._spent:
                    self._stop()
                happened = self._turn(assign=True)
                # Workers have their next order by them, so that a large fleet may be looked at less often: each look asks the file system.
                longest_s = min(self.timing.turn_s * max(1.0, len(self._work.running) / FEW), max(self.timing.turn_s, LONGEST_TURN_S))
                pause_s = longest_s / 10 if happened else min(2 * pause_s, longest_s)
                self._clock.wait(pause_s)
        finally:
            self._completing = False
            self._flush_events()

    def _open(self, specs: Sequence[TrialSpec]) -> None:
        """Sort the trials into finished and open ones."""
        wanted = {spec.signature: spec for spec in specs}
        with self.ledger.transaction():
            self.ledger.know(list(wanted.values()))
            records = {record.signature: record for record in self.ledger.trials()}
            self._work.specs = {s: spec for s, spec in wanted.items() if not self._finished(records[s])}
            # A worker may still hold an attempt that the ledger gave up: that one does not stand for its trial.
            active = {
                s
                for s, number in self._work.running
                if s in records and records[s].state is TrialState.RUNNING and records[s].attempt == number
            }
            self._work.waiting = deque(s for s in self._work.specs if s not in active)
        self._flush_events()

    def _finished(self, record: TrialRecord) -> bool:
        result = result_of(self.root, record.signature)
        if record.state is TrialState.FAILED:
            self._emit(QueueEvent("failed", record.signature, attempt=record.attempt, text=record.message))
            return True
        if result is not None:
            if record.state is TrialState.QUEUED:
                self.ledger.reuse(record.signature, result.attempt, result.seconds)
            if record.state is not TrialState.RUNNING:  # a running one is recorded when its attempt ends
                self._emit(QueueEvent("reused", record.signature, attempt=result.attempt))
                return True
        if record.state is TrialState.DONE:
            self.ledger.requeue(record.signature)
        return self._paused(record)

    def _paused(self, record: TrialRecord) -> bool:
        """Whether a trial that waits has come as far as it should for now."""
        if self._until is None or record.state is not TrialState.QUEUED or record.attempt is None or record.cause is not Cause.STOPPED:
            return False
        trial = TrialFiles(self.root, record.signature)
        number = evidence.checkpoint(trial, self.ledger.attempts(record.signature))
        rows = read_metrics(trial.attempt(number)) if number is not None else []
        return bool(rows) and rows[-1][0] >= self._until

    # one turn

    def _turn(self, *, assign: bool) -> bool:
        """Record what ended, give out what waits, look after what runs; whether anything happened."""
        if assign:
            self._fleet.grow(min(self._workers, len(self._work.waiting) + len(self._work.running)))
        self._executor.poll()
        ended = self._ended()
        given: list[tuple[Member, Order]] = []
        if ended or (assign and self._work.waiting and self._fleet.next_free()):
            with self.ledger.transaction():
                self._settle(ended)
                given = self._assign() if assign else []
        for member, order in given:
            self._fleet.give(member, order)
        if assign and not self._work.waiting:
            self._fleet.rebalance()
        self._watch()
        self._flush_events()
        if any(one.cause is Cause.STOPPED and one.message.startswith(evidence.DISK_FULL) for one in ended):
            raise LedgerError(f"{self.root}: {evidence.DISK_FULL} Nothing is lost: free some space and run the same command again.")
        return bool(ended or given)

    def _ended(self) -> list[Ended]:
        found = [one for running in self._work.running.values() if (one := self._outcome(running)) is not None]
        settled = {one.order.key for one in found}
        for member in self._fleet.look():
            held = dict(member.held)
            for order in self._fleet.take_back([member]):
                held.pop(order.key, None)
                found.append(Ended(order, Cause.STOPPED, "Its worker ended before the attempt began.", 0.0))
            for key in held:
                if key not in settled and key in self._work.running:
                    running = self._work.running[key]
                    found.append(self._outcome(running) or self._death(running))
            self._emit(QueueEvent("worker", worker=member.files.id, text="ended"))
        return found

    def _outcome(self, running: Running) -> Ended | None:
        outcome = read_outcome(running.files)
        if outcome is None:
            return None
        if outcome.cause in (Cause.CRASH, Cause.LOST) and evidence.disk_full(self.root):
            return Ended(running.order, Cause.STOPPED, evidence.DISK_FULL, outcome.seconds)
        return Ended(running.order, outcome.cause, outcome.message, outcome.seconds)

    def _death(self, running: Running) -> Ended:
        """What can be said of an attempt whose worker is gone without an outcome."""
        seconds = self._lasted_s(running)
        if not running.files.began.exists():
            return Ended(running.order, Cause.STOPPED, "Its worker ended before the attempt began.", 0.0)
        if running.ended is not None:
            return Ended(running.order, *running.ended, seconds)
        kills, self._oom_kills = self._oom_kills, evidence.oom_kills()
        cause, message = evidence.of_death(running.files, self.root, oom=self._oom_kills > kills)
        return Ended(running.order, cause, message, seconds)

    def _lasted_s(self, running: Running) -> float:
        """As long as the controller saw it run, and at least as long as its files tell: an earlier controller may have seen the rest."""
        seen_s = 0.0 if running.began is None else self._clock.now_s() - running.began
        return round(max(seen_s, evidence.lasted_s(running.files)), 3)

    def _settle(self, ended: Sequence[Ended]) -> None:
        """Accept results and record how attempts ended; one that the ledger gave up does not count, whatever it says."""
        for one in ended:
            self._work.running.pop(one.order.key, None)
            self._fleet.release(one.order.key)
            if one.cause is not None:  # a killed worker wrote no outcome: others should not await one
                with contextlib.suppress(OSError):
                    TrialFiles(self.root, one.order.signature).attempt(one.order.attempt).claimed.unlink()
        records = {record.signature: record for record in self.ledger.trials(signatures={one.order.signature for one in ended})}
        current = [
            one
            for one in ended
            if (before := records[one.order.signature]).state is TrialState.RUNNING and before.attempt == one.order.attempt
        ]
        accept(self.root, {one.order.signature: one.order.attempt for one in current if one.cause is None})
        for one in current:
            self._record(one)

    def _record(self, ended: Ended) -> None:
        signature, number = ended.order.key
        message = ended.message if ended.cause in (None, Cause.STOPPED) else self._failure(ended)
        record = self.ledger.finish_attempt(
            signature, number, cause=ended.cause, message=message, seconds=ended.seconds, attempts=self.study.attempts
        )
        if self._paused(record):
            self._work.specs.pop(signature, None)
            self._emit(QueueEvent("paused", signature, attempt=number, text=message))
            return
        if record.state is TrialState.QUEUED:
            self._emit(QueueEvent("stopped" if ended.cause is Cause.STOPPED else "retry", signature, attempt=number, text=message))
            if signature in self._work.specs:
                self._work.waiting.append(signature)
            return
        self._work.specs.pop(signature, None)
        if record.state is TrialState.DONE:
            self._emit(QueueEvent("done", signature, attempt=number, text=f"{ended.seconds:.1f} s"))
        else:
            self.ledger.event("failed", message)
            self._emit(QueueEvent("failed", signature, attempt=number, text=message))

    def _failure(self, ended: Ended) -> str:
        """Arm, replicate, attempt, cause, log file, and the command that runs the trial alone."""
        signature, number = ended.order.key
        trial = TrialFiles(self.root, signature)
        uses = self.ledger.uses(signature=signature)
        where = f"{uses[0].phase}/{uses[0].arm} r{uses[0].replicate}" if uses else f"trial {signature}"
        return (
            f"{where}, attempt {number}: {ended.cause}: {ended.message.rstrip('.')}. Log: {trial.attempt(number).log}. "
            f"To run it alone: {sys.executable} -m ablate.execution.worker {trial.directory}"
        )

    def _assign(self) -> list[tuple[Member, Order]]:
        given = []
        while self._work.waiting and (member := self._fleet.next_free()) is not None:
            record = self._next(idle=not member.held)
            if record is None:
                break
            signature = record.signature
            if self._finished(record):  # another study completed it meanwhile
                self._work.specs.pop(signature, None)
                continue
            trial = TrialFiles(self.root, signature)
            number = claim(trial, above=record.attempt or 0, study=self.study.study)
            other = under_way(trial, above=record.attempt or 0, below=number)
            if other not in (None, self.study.study) and self._lives(str(other)):  # both looked, then both claimed: the first one has it
                trial.attempt(number).claimed.unlink()
                self._work.waiting.append(signature)
                continue
            if not trial.spec.exists():
                write_atomic(trial.spec, self._work.specs[signature].to_json())
            timeout_s = None if self.study.timeout_min is None else 60 * self.study.timeout_min
            earlier = self.ledger.attempts(signature) if record.attempts else []
            order = Order(str(self.root), signature, number, evidence.checkpoint(trial, earlier), timeout_s, self._until)
            self.ledger.start_attempt(signature, member.files.id, number, gpus=member.gpus)
            self._work.running[order.key] = Running(order, trial.attempt(number))
            member.held[order.key] = order
            given.append((member, order))
        return given

    def _next(self, *, idle: bool) -> TrialRecord | None:
        """The next trial that waits and that no other study trains just now: such a result is awaited, as long as that study lives.

        Args:
            idle: Whether a worker has nothing to do; else what a study that seems dead had claimed comes after all others.
        """
        awaited = set()
        for _ in range(min(len(self._work.waiting), LOOKED_AHEAD)):
            signature = self._work.waiting.popleft()
            record = self.ledger.trial(signature)
            other = under_way(TrialFiles(self.root, signature), above=record.attempt or 0)
            if other in (None, self.study.study) or (idle and not self._lives(str(other))):
                return record
            awaited.add(str(other))
            self._work.waiting.append(signature)
        for study in sorted(awaited - self._awaited if idle else set()):
            self._awaited.add(study)
            self._emit(QueueEvent("worker", text=f"waits for trials that the study {study} runs just now"))
        return None

    def _lives(self, study: str) -> bool:
        """Whether another study has a controller; asked now and then, since whoever asks holds its lock for an instant."""
        now = self._clock.now_s()
        asked, lives = self._others.get(study, (-math.inf, False))
        if now - asked >= self.timing.renew_s:
            lives = study != "" and holder(self.root, study) is not None
            self._others[study] = now, lives
        return lives

    def _watch(self) -> None:
        """See which attempts began, how far they are, and which are over their time without reporting."""
        now = self._clock.now_s()
        read = now - self._read >= self.timing.renew_s
        for running in self._work.running.values():
            signature, number = running.order.key
            if running.began is None and running.files.began.exists():
                running.began = now
                member = self._fleet.holding(running.order.key)
                self._emit(QueueEvent("started", signature, member.files.id if member else None, number))
            if running.began is not None and read:
                self._emit_progress(running)
                if (found := exceeded(running, self._limits, now)) is not None and running.ended is None:
                    self._end(running, *found)
        if read:
            self._read = now
            self._save_memory()
        if now - self._touched > SESSION_S:
            self._touched = now
            self.ledger.touch_session(self._session, now - self._entered)
            self._spent = self._budget_spent(now)

    def _budget_spent(self, now: float) -> str:
        """Which of the study's times is used up, what still runs counted in."""
        if self.study.budget.hours is None and self.study.budget.gpu_hours is None:
            return ""
        used = self.ledger.used()
        running_s = sum(
            (now - running.began) * member.gpus
            for running in self._work.running.values()
            if running.began is not None and (member := self._fleet.holding(running.order.key)) is not None
        )
        return replace(used, gpu_seconds=used.gpu_seconds + running_s).spent(self.study.budget)

    def _end(self, running: Running, cause: Cause, text: str) -> None:
        """Kill its worker; the attempt is settled when that is gone."""
        running.ended = cause, text
        member = self._fleet.holding(running.order.key)
        if member is not None:
            self._executor.cancel(member.files)

    def _save_memory(self) -> None:
        held = {one.order.key: one for one in self._work.running.values() if one.began is not None and one.ended is None}
        pairs = [(held[key], member.files) for member in self._fleet.members for key in member.held if key in held]
        for running, _, text in greedy(pairs, self._limits, low=memory_is_low()):
            self._end(running, Cause.OUT_OF_MEMORY, text)

    def _starting_inline(self, order: Order) -> None:
        running = self._work.running.get(order.key)
        if running is not None:
            running.began = self._clock.now_s()
            self._emit(QueueEvent("started", order.signature, "inline", order.attempt))
            self._flush_events()

    def _emit_progress(self, running: Running) -> None:
        latest = evidence.latest_metrics(running.files, running.stream_bytes)
        if latest is not None:
            running.stream_bytes, step, metrics = latest
            running.progressed = self._clock.now_s()
            signature, number = running.order.key
            self._emit(QueueEvent("progress", signature, attempt=number, step=step, metrics=metrics))

    # beginning and end

    def _adopt(self) -> None:
        """Take over from an earlier controller: what runs goes on, what ended is recorded, what vanished is queued again."""
        held = {order.key: order for order in self._fleet.adopt()}
        for key, order in held.items():
            self._work.running[key] = Running(order, TrialFiles(self.root, key[0]).attempt(key[1]))
            self._emit(QueueEvent("adopted", key[0], attempt=key[1]))
        with self.ledger.transaction():
            recorded = [(record.signature, record.attempt or 0) for record in self.ledger.trials({TrialState.RUNNING})]
            gone = [key for key in recorded if key not in held]
            lost = [Running(Order(str(self.root), *key, None, None), TrialFiles(self.root, key[0]).attempt(key[1])) for key in gone]
            # Ended together with its controller, so nothing speaks against the trial.
            self._settle([self._outcome(running) or self._with_its_controller(running) for running in lost])
        self._flush_events()

    def _with_its_controller(self, running: Running) -> Ended:
        return Ended(running.order, Cause.STOPPED, "It ended with an earlier controller.", evidence.lasted_s(running.files))

    def _stop(self) -> None:
        """Ask what runs to save a checkpoint, wait a moment, and leave.

        Raises:
            BudgetSpent: Because of that.
            Interrupted: Otherwise.
        """
        asked = self._asked_to_stop
        text = f"{'The budget is spent. ' if self._spent else ''}Running trials save a checkpoint first (Ctrl-C again: without waiting)."
        self._emit(QueueEvent("stopping", text="Running trials are ended now." if self._ending_now else text))
        back = self._fleet.take_back(self._fleet.members)
        with self.ledger.transaction():
            self._settle([Ended(order, Cause.STOPPED, "The run was stopped before the attempt began.", 0.0) for order in back])
        for running in self._work.running.values():
            write_atomic(running.files.stop, json.dumps({"cause": Cause.STOPPED}), durable=False)
        self._flush_events()
        until = self._clock.now_s() + self.timing.stop_s
        while self._work.running and self._clock.now_s() < until and self._asked_to_stop <= max(asked, 1):
            self._clock.wait(self.timing.turn_s / 5)
            self._turn(assign=False)
            self._listen()
            if self._ending_now:
                self._end_running()
        total = len(self._work.specs)
        still = f"; {len(self._work.running)} still at work end by themselves" if self._work.running else ""
        if self._spent:
            raise BudgetSpent(f"{self._spent} {counted(total, 'trial')} of this step to do{still}.")
        raise Interrupted(f"{self.study.study}: stopped with {total} trials of this step to do{still}. Nothing is lost.")

    def _end_running(self) -> None:
        """End every attempt now; the next one goes on from the last checkpoint."""
        for running in list(self._work.running.values()):
            member = self._fleet.holding(running.order.key)
            if member is not None:
                self._executor.cancel(member.files)
            ended = self._outcome(running) or Ended(running.order, Cause.STOPPED, "The run was ended at once.", self._lasted_s(running))
            with self.ledger.transaction():
                self._settle([ended])

    def _why_stop(self) -> Cause | None:
        return Cause.STOPPED if self._asked_to_stop or requests.stop_wanted(self.root, self.study.study) else None

    def _listen(self, *, entering: bool = False) -> None:
        """Take up what users asked for, once each, on record.

        Raises:
            Reopened: A retry opened phases again, and trials are being completed.
        """
        reopened: list[str] = []
        for asked in requests.waiting(self.root, self.study.study):
            if requests.taken_up(self.ledger, asked):
                asked.put_away()
                continue
            with self.ledger.transaction():
                said = asked.problem
                if asked.what in STOPS:
                    said = "it came while nothing ran, and is void" if entering else "taken up"
                    self._asked_to_stop = max(self._asked_to_stop, 0 if entering else 1)
                    self._ending_now = self._ending_now or (asked.what is What.STOP_NOW and not entering)
                elif asked.what is What.RETRY:
                    done = requests.retry(self.ledger, self.study, asked)
                    said, reopened = done.said, [*reopened, *done.reopened]
                    self._queue_again(done.signatures)
                self.ledger.event("request", f"{asked.path.name}: {asked.what or 'not understood'}: {said}")
            asked.put_away()
            self._emit(QueueEvent("request", text=f"{asked.what or asked.path.name}: {said}"))
        if reopened and not entering and not self._asked_to_stop:
            raise Reopened(f"{self.study.study}: phases opened again: {', '.join(dict.fromkeys(reopened))}")

    def _queue_again(self, signatures: Sequence[str]) -> None:
        """Retried trials join the present step, also where it is another's: whoever waits for them finds them done."""
        for signature in signatures if self._completing else ():
            try:
                self._work.specs[signature] = TrialSpec.from_json(TrialFiles(self.root, signature).spec.read_text())
            except (OSError, ValueError, TypeError):
                continue  # its folder is gone: the next run of its phase makes it anew
            if signature not in self._work.waiting:
                self._work.waiting.append(signature)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_stop += 1
        if not self._completing:
            raise Interrupted(f"{self.study.study}: stopped between two trials. Nothing is lost.")
        if self._asked_to_stop > 2:
            raise KeyboardInterrupt

    def _emit(self, event: QueueEvent) -> None:
        """Keep for after the commit: what people see is recorded already."""
        self._events.append(event)

    def _flush_events(self) -> None:
        events, self._events = self._events, []
        for event in events:
            self._on_event(event)
