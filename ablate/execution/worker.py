"""The loop of a worker: take an order, run it, write its outcome, look for the next.

`python -m ablate.execution.worker runs/trials/SIGNATURE` runs one trial alone, here, for debugging.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ablate.execution.attempt import run_attempt
from ablate.execution.base import Identity, Order, WorkerFiles, WorkerSettings
from ablate.execution.lease import Sign
from ablate.execution.output import output_to
from ablate.execution.tasks import Leader, follow, place
from ablate.trial import Cause, TrialFiles, read_outcome

WHOLE = 0.8
"""An attempt that took this share of its worker's stay would come no further in another one."""


class Worker:
    """Runs the orders in its inbox, one after the other.

    Args:
        asked: Why the running trial should stop, beside its own stop file; none: when the machine asks this process to end.
        leader: Where several tasks train a trial together; none: this process alone does.
    """

    def __init__(
        self,
        files: WorkerFiles,
        settings: WorkerSettings,
        asked: Callable[[], Cause | None] | None = None,
        leader: Leader | None = None,
    ) -> None:
        self.leader = leader
        self.files, self.settings = files, settings
        self.lease = Sign(Path(settings.lease))
        self._said = False
        self.told_to_end = False
        self.leaves_at = math.inf if settings.stay_s is None else time.monotonic() + settings.stay_s
        self.asked = asked or (lambda: Cause.STOPPED if self.must_leave else None)

    @property
    def must_leave(self) -> bool:
        """The machine asked the process to end, or its time here is nearly up; the controller is told, and looks for another."""
        if not self.told_to_end and time.monotonic() < self.leaves_at:
            return False
        if not self._said:
            with contextlib.suppress(OSError):
                self.files.leave.touch()
            self._said = True
        return True

    def take(self) -> Order | None:
        """The next order, now this worker's alone."""
        for path in self.files.orders():
            with contextlib.suppress(FileNotFoundError):  # taken back by the controller
                os.rename(path, self.files.current)
                return Order.read(self.files.current)
        return None

    def finish(self, order: Order) -> None:
        """Run an order to its outcome; one that has its outcome already is only put away."""
        files = TrialFiles(Path(order.root), order.signature).attempt(order.attempt)
        if read_outcome(files) is None:
            run_attempt(order, self.asked, None if self.leader is None else self.leader.beside(order), self._whole_stay)
        self.files.current.unlink(missing_ok=True)

    def _whole_stay(self, seconds: float) -> bool:
        stay_s = self.settings.stay_s
        return stay_s is not None and time.monotonic() >= self.leaves_at and seconds > WHOLE * stay_s

    def work(self) -> None:
        """Work until told to leave, or until the controller is gone."""
        with self._beating():
            self._import_trainer()
            while not (self.must_leave or self.lease.silence_s > self.settings.lease_s or self.files.leave.exists()):
                order = self.take()
                if order is None:
                    time.sleep(self.settings.idle_s)
                    continue
                with output_to(TrialFiles(Path(order.root), order.signature).attempt(order.attempt).log):
                    self.finish(order)
                if self.leader is not None and self.leader.broken:
                    self.files.leave.touch()

    def _import_trainer(self) -> None:
        """Seconds of imports, now rather than in the first trial; one that fails fails again there, where it is reported."""
        if self.settings.trainer is not None:
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(self.settings.trainer)

    def end(self, *_: object) -> None:
        """The machine asks the process to end: the trial saves a checkpoint and another worker goes on."""
        self.told_to_end = True

    @contextlib.contextmanager
    def _beating(self) -> Iterator[None]:
        stop = threading.Event()

        def beat() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    self.files.heartbeat.touch()
                self.lease.look()
                stop.wait(min(1.0, self.settings.lease_s / 5))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def worker_main(directory: str) -> None:
    """What a started process does: report who it is, then work. Submitit calls it, so it is found by name."""
    files = WorkerFiles(Path(directory))
    if files.identity.exists():
        return  # a scheduler started the job again: its trial went on elsewhere
    settings = WorkerSettings.read(files)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the controller's to answer
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name, value in settings.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    sys.path += [entry for entry in settings.path if entry not in sys.path]
    leader = None
    if settings.tasks > 1:
        here = place()
        if here.rank > 0:
            follow(files, settings, here.rank)
            return
        leader = Leader(files, here.count)
    worker = Worker(files, settings, leader=leader)
    signal.signal(signal.SIGTERM, worker.end)
    signal.signal(signal.SIGUSR2, worker.end)
    try:
        if leader is not None:
            leader.gather()
        Identity.own().write(files.identity)
        worker.work()
    finally:
        if leader is not None:
            leader.dismiss()


def run_alone(trial: TrialFiles) -> int:
    """Run one trial in this process, from the start, in a new attempt that no ledger takes; 0 where it has a result."""
    number = claim(trial)
    sys.path.insert(0, os.getcwd())
    outcome = run_attempt(Order(str(trial.root), trial.signature, number, None, None))
    files = trial.attempt(number)
    if outcome.cause is None:
        print(f"{trial.signature}: done in {outcome.seconds:g} s. Files: {files.directory}")
        return 0
    print(f"{trial.signature}: {outcome.cause}: {outcome.message}\nTraceback: {files.log}", file=sys.stderr)
    return 1


def under_way(trial: TrialFiles, above: int, below: float = math.inf) -> str | None:
    """The study whose is the latest claimed attempt of a number between these, where its result may yet come; none: nobody's.

    An attempt whose claim was taken back, or is being written, is passed over.
    """
    attempts = trial.attempt(0).directory.parent
    numbers = [int(entry.name) for entry in attempts.iterdir() if entry.name.isdigit()] if attempts.exists() else []
    for number in sorted(numbers, reverse=True):
        files = trial.attempt(number)
        if not above < number < below or not files.claimed.exists():
            continue
        outcome = read_outcome(files)
        if outcome is not None and (outcome.cause is not None or trial.accepted.exists()):
            return None
        with contextlib.suppress(FileNotFoundError):
            return files.claimed.read_text(encoding="utf-8")
    return None


def claim(trial: TrialFiles, above: int = 0, study: str = "") -> int:
    """The number of a new attempt, whose directory is now the caller's; studies that share the trial never get the same.

    Args:
        study: Who claims it, for others to see.
    """
    attempts = trial.attempt(0).directory.parent
    attempts.mkdir(parents=True, exist_ok=True)
    number = max([above, *(int(entry.name) for entry in attempts.iterdir() if entry.name.isdigit())])
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            files = trial.attempt(number)
            files.directory.mkdir()
            files.claimed.write_text(study, encoding="utf-8")
            return number


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "trial.json").exists():
        sys.exit(f"expected the folder of one trial (runs/trials/SIGNATURE) but got {sys.argv[1:]}.")
    folder = Path(sys.argv[1]).resolve()
    sys.exit(run_alone(TrialFiles(folder.parent.parent, folder.name)))
