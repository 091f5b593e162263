"""A machine park in one process, with a clock of its own: real queue, real ledger, real files, real `run_attempt`; no real time.

Workers are threads that run only while the world waits for them, so a schedule is the same every time. What a seed's dice decide:
when the controller is killed (in the middle of any write of the ledger, any claim, any order, any wait), when workers are killed,
when they are cut off (declared dead, and back later), how late their death and their outcomes are seen, which never start, when the user
stops the run, and which trials crash, overflow, run out of memory or fail on every attempt.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ablate.execution.attempt as attempt
import ablate.execution.pool as pool
from ablate.errors import AblateError, Interrupted
from ablate.execution.attempt import carry_over
from ablate.execution.base import Identity, Order, QueueEvent, Timing, WorkerFiles, WorkerSettings
from ablate.execution.fleet import Fleet
from ablate.execution.pool import Queue
from ablate.execution.requests import request
from ablate.execution.worker import Worker
from ablate.ledger import Ledger
from ablate.study import Objective, Phase, Study, Trainer
from ablate.trial import AttemptFiles, Cause, Outcome, TrialFiles, TrialSpec, TrialState, read_metrics, result_of, signature_of

TIMING = Timing(lease_s=15, renew_s=1, turn_s=0.5, idle_s=0.25, stop_s=5, birth_s=60)
STEP_S = 1.0
LONGEST_S = 20_000.0
PLACES: tuple[tuple[Any, str], ...] = (
    (pool, "claim"),
    (pool, "accept"),
    (Ledger, "start_attempt"),
    (Ledger, "finish_attempt"),
    (Fleet, "give"),
    (Fleet, "take_back"),
    (Queue, "_turn"),
)


class Killed(BaseException):
    """SIGKILL: nothing that comes after it runs."""


@dataclass
class Faults:
    """How often what happens; shares of a chance, or mean seconds between."""

    controller_s: float = 15.0
    worker_s: float = 20.0
    cut_off: float = 0.3
    """Share of the workers struck that live on, unseen."""
    late_death_s: float = 5.0
    late_outcome: float = 0.1
    """Share of the outcomes that are seen late, by a few seconds."""
    never_starts: float = 0.05
    stop_s: float = 60.0
    until_s: float = 120.0
    """Nothing happens by chance after this."""


@dataclass
class SimWorker:
    """A worker process: a thread that has the baton, or waits for it."""

    world: World
    files: WorkerFiles
    worker: Worker
    baton: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None
    dead: bool = False
    seen_dead_at: float | None = None
    cut_off: bool = False
    order: Order | None = None

    def tick(self) -> None:
        """One look at the inbox, or one step of the trial."""
        if self.dead:
            return
        if self.thread is not None:
            self._go_on()
        elif self.files.leave.exists() or self.world.now - self.world.sign > TIMING.lease_s:
            self.die()
            return
        else:
            with suppress(FileNotFoundError):  # its folder was cleared away: it was given up
                self.order = self.worker.take()
            if self.order is not None:
                self.world.excused[self.order.signature] += self.cut_off
                self.thread = threading.Thread(target=self._run, args=(self.order,), daemon=True)
                self.thread.start()
                self.world.turn.acquire()
                self._collect()
        if not self.dead:
            self.world.at(self.world.now + (STEP_S if self.thread else TIMING.idle_s), self.tick)

    def _go_on(self) -> None:
        self.baton.release()
        self.world.turn.acquire()
        self._collect()

    def _collect(self) -> None:
        assert self.thread is not None
        if not self.thread.is_alive() or self.over:
            self.thread.join()
            self.thread, self.over = None, False
            if not self.dead:
                self.files.current.unlink(missing_ok=True)

    over: bool = False

    def _run(self, order: Order) -> None:
        here.worker = self
        try:
            with suppress(Killed, FileNotFoundError):
                attempt.run_attempt(order, lambda: None)
        finally:
            self.over = True
            self.world.turn.release()

    def pause(self) -> None:
        """Called by the trial: the world goes on."""
        self.world.turn.release()
        self.baton.acquire()
        if self.dead:
            raise Killed

    def die(self) -> None:
        """End the process, whatever it does."""
        self.dead = True
        if self.thread is not None:
            self._go_on()


here = threading.local()


def train(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    """What simulated trials train: a sum over the steps, with a checkpoint now and then."""
    worker: SimWorker = here.worker
    world = worker.world
    checkpoint = run.directory / "checkpoint.json"
    start, total = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, 0)
    for step in range(start, config["steps"]):
        worker.pause()
        world.strike(config, step)
        total += (step + 1) * (config["seed"] + 1)
        go_on = run.report(step, {"train/total": float(total)})
        if (step + 1) % config["checkpoint_every"] == 0 or not go_on:
            beside = run.directory / ".checkpoint"
            beside.write_text(json.dumps([step + 1, total]))
            os.replace(beside, checkpoint)
        if not go_on:
            return {}
    world.completed[config["seed"]] += 1
    return {"probe/total": float(total)}


class World:
    """Clock, executor and fate of one schedule."""

    def __init__(self, seed: int, root: Path, patch: pytest.MonkeyPatch, faults: Faults, trials: int = 8, workers: int = 3) -> None:
        self.dice, self.root, self.faults = random.Random(seed), root, faults
        self.now, self.sign, self.jobs = 0.0, 0.0, itertools.count()
        self.turn = threading.Semaphore(0)
        self.queue: Queue | None = None
        self.completed: Counter[int] = Counter()
        self.excused: Counter[str] = Counter()
        """Attempts that a fault made the platform doubt although they ran on."""
        self.struck: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._workers: dict[str, SimWorker] = {}
        self._lost: dict[str, str] = {}
        self._kill_in: int | None = None
        self.study = Study(
            study="simulated",
            question="?",
            trainer=Trainer(callable="simulated:train"),
            baseline={},
            objective=Objective(metric="probe/total", smallest_effect=0.1),
            phases=[Phase(name="p", design="path")],
            workers=workers,
            attempts=3,
        )
        self.specs = [self._spec(n) for n in range(trials)]
        patch.setattr(attempt, "trainer", lambda name: train)
        patch.setattr(attempt, "write_atomic", self._written)
        patch.setattr(attempt, "carry_over", self._carried_over)
        patch.setattr("ablate.execution.evidence.disk_full", lambda root: False)
        patch.setattr("ablate.execution.evidence.oom_kills", lambda: 0)
        for owner, name in PLACES:
            patch.setattr(owner, name, self._dangerous(getattr(owner, name)))

    def _spec(self, seed: int) -> TrialSpec:
        fault = self.dice.choices([None, "crash", "memory", "nan", "always"], [10, 2, 1, 1, 1])[0]
        steps = self.dice.randint(1, 6)
        config = {
            "seed": seed,
            "steps": steps,
            "checkpoint_every": self.dice.randint(1, 3),
            "fault": fault,
            "at": self.dice.randrange(steps),
        }
        return TrialSpec(signature_of(config, {}, "code", ""), seed, config, "simulated:train", "code", "")

    # what strikes

    def strike(self, config: Mapping[str, Any], step: int) -> None:
        """The trial's own fault, if it is time: once, or at every attempt."""
        fault, mark = config["fault"], self.root.parent / f"struck-{config['seed']}"
        if fault is None or step != config["at"] or (fault in ("crash", "memory") and mark.exists()):
            return
        mark.touch()
        self.struck[fault] += 1
        raise {"memory": MemoryError("planted"), "nan": FloatingPointError("planted")}.get(fault, RuntimeError("planted"))

    def _dangerous(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._maybe_kill()
            value = original(*args, **kwargs)
            self._maybe_kill()
            return value

        return wrapped

    def _maybe_kill(self) -> None:
        """In the controller's thread only."""
        if self._kill_in is not None and threading.current_thread() is threading.main_thread():
            self._kill_in -= 1
            if self._kill_in < 0:
                self._kill_in = None
                self.struck["controller"] += 1
                raise Killed

    def _plan_controller_kill(self) -> None:
        self._kill_in = self.dice.randrange(12)

    def _strike_worker(self) -> None:
        alive = [worker for worker in self._workers.values() if not worker.dead and not worker.cut_off]
        if not alive:
            return
        worker = self.dice.choice(alive)
        if self.dice.random() < self.faults.cut_off:
            self.struck["cut off"] += 1
            worker.cut_off = True
            if worker.order is not None:
                self.excused[worker.order.signature] += 1
            self.at(self.now + self.dice.expovariate(1 / 10), lambda: setattr(worker, "cut_off", False))
        else:
            self.struck["worker"] += 1
            worker.seen_dead_at = self.now + self.dice.expovariate(1 / self.faults.late_death_s)
            worker.die()

    def _stop(self) -> None:
        self.struck["stop"] += 1
        request(self.root, "simulated", "stop")

    def by_chance(self, mean_s: float, what: Callable[[], None]) -> None:
        """Again and again, until it is quiet."""

        def strike() -> None:
            what()
            self.by_chance(mean_s, what)

        when = self.now + self.dice.expovariate(1 / mean_s)
        if when < self.faults.until_s:
            self.at(when, strike)

    def _written(self, path: Path, text: str, *, durable: bool = True) -> None:
        """Outcomes are seen late, as on a slow shared file system."""
        from ablate.trial import write_atomic

        if path.name == "outcome.json" and self.dice.random() < self.faults.late_outcome:
            self.struck["late outcome"] += 1
            self.at(self.now + self.dice.expovariate(1 / 4), lambda: write_atomic(path, text, durable=False))
            self.excused[Outcome.from_json(text).signature] += 1  # its worker may leave before anybody sees what it did
        else:
            write_atomic(path, text, durable=False)

    def _carried_over(self, earlier: AttemptFiles, files: AttemptFiles) -> None:
        """Slowly: a worker may be killed when a part is there."""
        (files.directory / "checkpoint.json").write_text("[0, 0]")
        here.worker.pause()
        carry_over(earlier, files)

    # the clock

    def now_s(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.sign = self.now
        until = self.now + max(seconds, 0.01)
        self.advance(until)
        self._maybe_kill()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self.jobs), what))

    def advance(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until
        assert self.now < LONGEST_S, "it does not end"

    # the executor

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        self._maybe_kill()
        for files in workers:
            if self.dice.random() < self.faults.never_starts and self.now < self.faults.until_s:
                self.struck["never started"] += 1
                self._lost[files.id] = "its node is down"
                continue
            self.at(self.now + self.dice.expovariate(1 / 3), lambda files=files: self._born(files))  # type: ignore[misc]
        self._maybe_kill()

    def _born(self, files: WorkerFiles) -> None:
        if files.leave.exists() or not files.directory.exists():
            return
        worker = SimWorker(self, files, Worker(files, WorkerSettings.read(files), lambda: None))
        Identity(1, 0.0, "simulated").write(files.identity)
        self._workers[files.id] = worker
        self.at(self.now, worker.tick)

    def poll(self) -> None:
        pass

    def close(self) -> None:
        pass

    def pending(self, worker: WorkerFiles) -> str | None:
        return None

    def coming(self, worker: WorkerFiles) -> bool:
        return False

    def failure(self, worker: WorkerFiles) -> str | None:
        return self._lost.get(worker.id)

    def alive(self, worker: WorkerFiles) -> bool:
        found = self._workers.get(worker.id)
        if found is None or found.cut_off:
            return False
        return not found.dead or (found.seen_dead_at is not None and self.now < found.seen_dead_at)

    def cancel(self, worker: WorkerFiles) -> None:
        found = self._workers.get(worker.id)
        if found is not None:
            found.die()

    # a schedule

    def run(self) -> None:
        """Start controllers until one comes to the end."""
        f = self.faults
        for mean_s, what in ((f.controller_s, self._plan_controller_kill), (f.worker_s, self._strike_worker), (f.stop_s, self._stop)):
            if mean_s:
                self.by_chance(mean_s, what)
        try:
            while not self._controller():
                self._kill_in = None
                self.advance(self.now + self.dice.expovariate(1 / 5))
        finally:
            self._kill_in = None
            for worker in self._workers.values():
                worker.die()

    def _controller(self) -> bool:
        ledger = Ledger(self.root / "simulated" / "ledger.db")
        queue = Queue(ledger, self.root, self.study, on_event=self._note, timing=TIMING, executor=self, clock=self)
        try:
            queue.__enter__()
            try:
                queue.complete(self.specs)
            except (Interrupted, AblateError) as error:
                queue.__exit__(type(error), error, None)
                return False
            queue.__exit__(None, None, None)
            return True
        except Killed:
            queue._renewal.stop()  # what the kernel does for a process that is gone
            queue._lock.release()
            return False
        finally:
            ledger.close()

    def _note(self, event: QueueEvent) -> None:
        pass

    # what must hold

    def check(self) -> None:
        ledger = Ledger(self.root / "simulated" / "ledger.db", read_only=True)
        records = {record.signature: record for record in ledger.trials()}
        assert len(records) == len(self.specs)
        for spec in self.specs:
            record, config = records[spec.signature], spec.config
            result, attempts = result_of(self.root, spec.signature), ledger.attempts(spec.signature)
            numbers = [one.number for one in attempts]
            assert numbers == sorted(set(numbers)), "an attempt was started twice"
            assert all(one.ended is not None for one in attempts), "an attempt was forgotten"
            if record.state is TrialState.FAILED:
                assert config["fault"] in ("nan", "always"), record
                assert record.cause is (Cause.NAN if config["fault"] == "nan" else Cause.CRASH), record
                assert result is None
                continue
            assert record.state is TrialState.DONE, record
            assert config["fault"] not in ("nan", "always")
            steps, seed = config["steps"], config["seed"]
            assert isinstance(steps, int)
            assert isinstance(seed, int)
            totals = [float(sum(range(1, step + 2)) * (seed + 1)) for step in range(steps)]
            assert result is not None
            assert result.attempt == record.attempt
            assert result.metrics == {"probe/total": totals[-1]}
            stream = read_metrics(TrialFiles(self.root, spec.signature).attempt(result.attempt))
            assert stream == [(step, {"train/total": total}) for step, total in enumerate(totals)], "a gap, or a step twice"
            assert [one.cause for one in attempts if one.number == record.attempt] == [None]
            if not self.excused[spec.signature]:
                assert self.completed[seed] == 1, "it was trained to its end more than once"
        ledger.close()
