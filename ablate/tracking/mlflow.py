"""MLflow, kept up to date from the truth under `runs/` by a process of its own. The one door to mlflow.

`python -m ablate.tracking.mlflow --root runs --study NAME [--follow PID]`

One run a signature, a summary run an arm, one run for the study, all flat: nested runs are collapsed in MLflow's table and their
curves missing from its charts (mlflow#1896). Everything is told with names and times that follow from the truth alone, so that a
telling that was killed anywhere is completed by the next one without doubles: MLflow keeps a metric value once where key, step, time
and value are equal.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ablate.errors import AblateError
from ablate.tracking.base import Entry, Synced, TrackerDown
from ablate.tracking.batches import LONGEST_EXPERIMENT_TAG, unsaid
from ablate.tracking.entries import StudyEntries, Told
from ablate.tracking.points import Writer, writer_of
from ablate.tracking.registry import register, winner_of
from ablate.tracking.sending import KEY, LOGGED, VERSION, Known, created, end, experiment_of, log_artifacts, log_data, runs_of, send
from ablate.tracking.store import (
    IMPATIENT,
    QUIET,
    artifact_root,
    is_remote,
    locked,
    sqlite_file,
    tracking_uri,
    ui_address,
    without_secrets,
)
from ablate.tracking.views import view_url

if TYPE_CHECKING:
    from mlflow import MlflowClient

INTERVAL_S, LONGEST_INTERVAL_S = 3.0, 60.0
"""Between two looks of a follower, at least and at most."""

SHARE = 0.01
"""Of a CPU core, what looks may take: the costlier the last one was, the later comes the next."""


class MlflowTracker:
    """One study's experiment in the store of a `runs` folder (a `Tracker`).

    While it lives it must be the only one of its study: it remembers what MLflow has. `locked` sees to that.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.root, self.study = root, study
        self.experiment: str | None = None
        self._client: MlflowClient | None = None
        self._write: Writer | None = None
        self._known: dict[str, Known] = {}
        self._about: dict[str, str] = {}

    def tell(self, entries: Iterable[Entry], about: Callable[[str], Mapping[str, str]] = lambda experiment: {}) -> Synced:
        """Bring the experiment up to date with these entries.

        Raises:
            TrackerDown: MLflow cannot be reached or refuses.
        """
        with self._reaching():
            client, write, experiment = self._opened()
            made = points = count = 0
            for entry in entries:
                count += 1
                made += entry.key not in self._known
                points += self._tell(client, write, experiment, entry)
            self._tell_about(client, experiment, about(experiment))
        return Synced(count, made, points, without_secrets(tracking_uri(self.root)), experiment)

    def register(self, found: StudyEntries, name: str) -> str:
        """Register the winner's backbone as a model of this name; told in a line.

        Raises:
            TrackerDown: MLflow cannot be reached or refuses.
            TrainerError: There is nothing to register, or the trainer cannot export it.
        """
        with self._reaching():
            client, _, _ = self._opened()
            chosen = winner_of(found)
            known = self._known.get(f"trial:{chosen.result.signature}")
            if known is None:
                raise TrackerDown(f"{found.name}: trial {chosen.result.signature} is not told yet. Run `ablate sync {found.name}` first.")
            return register(client, known.run_id, chosen, name)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Whatever MLflow, its server or its database raise is a `TrackerDown`: a run goes on without them."""
        try:
            yield
        except AblateError:
            raise
        except Exception as error:
            self._client = None
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise TrackerDown(without_secrets(f"{tracking_uri(self.root)}: {text[0][:300]}")) from error

    def _opened(self) -> tuple[MlflowClient, Writer, str]:
        if self._client is None or self._write is None or self.experiment is None:
            client = connected(self.root)
            self.experiment = experiment_of(client, self.study, artifact_root(self.root))
            self._known = {run.tags[KEY]: run for run in runs_of(client, self.experiment) if KEY in run.tags}
            self._about = dict(client.get_experiment(self.experiment).tags)
            self._client, self._write = client, writer_of(client)
        return self._client, self._write, self.experiment

    def _tell_about(self, client: MlflowClient, experiment: str, about: Mapping[str, str]) -> None:
        for name, text in about.items():
            said = text[:LONGEST_EXPERIMENT_TAG]
            if self._about.get(name) != said:
                client.set_experiment_tag(experiment, name, said)
                self._about[name] = said

    def _tell(self, client: MlflowClient, write: Writer, experiment: str, entry: Entry) -> int:
        """One entry: what changed of its tags, what is new of its params and points, its artifacts once a version."""
        known = self._known.get(entry.key)
        if known is None:
            known = self._known[entry.key] = created(client, experiment, entry)
        fresh = entry.version is None or known.tags.get(VERSION) != entry.version
        points = unsaid(entry.points(), known.tags.get(LOGGED), whole=entry.version is not None) if fresh else []
        sent = send(client, write, known, entry, points)
        if fresh and entry.version is not None:
            log_artifacts(client, known.run_id, entry.artifacts())
            log_data(client, known.run_id, entry.data())
        if known.status != entry.status:
            end(client, known, entry)
        if fresh and entry.version is not None:
            client.set_tag(known.run_id, VERSION, entry.version)
            known.tags[VERSION] = entry.version
        return sent


def connected(root: Path) -> MlflowClient:
    """A client of the right store; the default one is made where it is not there yet.

    Raises:
        TrackerDown: Another process is making the store and does not end.
    """
    for name, value in {**QUIET, **(IMPATIENT if is_remote(root) else {})}.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    path = sqlite_file(tracking_uri(root))
    if path is not None and not path.exists():
        _make_store(path)
    return MlflowClient(tracking_uri(root))


def _make_store(path: Path) -> None:
    """Several creators at once corrupt a SQLite store for good, and so does one killed half-way: one at a time, beside, then renamed."""
    from mlflow import MlflowClient

    with locked(path.with_name(f"{path.name}.lock"), timeout_s=120):
        if path.exists():
            return
        for left in path.parent.glob(f".{path.name}.making-*"):
            left.unlink()
        beside = path.with_name(f".{path.name}.making-{os.getpid()}")
        MlflowClient(f"sqlite:///{beside}").search_experiments(max_results=1)
        os.replace(beside, path)


def sync(root: Path, study: str, *, register: str | None = None) -> str:
    """Bring MLflow up to date with a study; what came of it, also where MLflow is down.

    Args:
        register: Register the winner's backbone as a model of this name.

    Returns:
        A line on what was told, with the address of the arms' table; another on the model.

    Raises:
        LedgerError: The study has not run here.
        TrainerError: The winner's backbone cannot be exported.
    """
    found = StudyEntries(root, study)
    try:
        with locked(root / study / "tracking.lock", timeout_s=30):
            tracker = MlflowTracker(root, study)
            lines = [_line(study, root, tracker.tell(found.all(), found.about))]
            if register is not None:
                lines.append(tracker.register(found, register))
    except (TrackerDown, OSError) as error:
        return _failure(study, error)
    return "\n".join(lines)


def _line(study: str, root: Path, done: Synced) -> str:
    new = f", {done.made} new" if done.made else ", nothing new" if not done.points else ""
    return f"experiment {study} in {done.where}: {done.entries} runs{new}; the arms: {view_url(ui_address(root), done.experiment, 'arms')}"


def _failure(study: str, error: Exception) -> str:
    return f"MLflow is not up to date ({without_secrets(str(error))}). Nothing is lost; later: ablate sync {study}"


def follow(root: Path, study: str, pid: int) -> None:
    """Keep MLflow up to date while the controller lives, then once more. What changes for the worse or better is said in a line."""
    os.nice(10)
    controller = _process(pid)
    said = ""
    with locked(root / study / "tracking.lock", timeout_s=600):
        tracker, told = MlflowTracker(root, study), Told()
        alive, pause_s = True, INTERVAL_S
        while alive:
            alive = _still_lives(controller, pause_s)
            opened, began = tracker.experiment is not None, time.process_time()
            line = _told(tracker, told if alive else Told())
            if opened:  # the first look imports mlflow
                pause_s = min(max((time.process_time() - began) / SHARE, INTERVAL_S), LONGEST_INTERVAL_S)
            if line != said and line:
                print(line, flush=True)
            said = line


def _told(tracker: MlflowTracker, told: Told) -> str:
    """One look of a follower, at what it has not told yet; what went wrong, or nothing."""
    if not (tracker.root / tracker.study / "ledger.db").exists():
        return ""
    try:
        found = StudyEntries(tracker.root, tracker.study)
        tracker.tell(found.all(told), found.about)
    except (AblateError, OSError, ValueError) as error:
        return _failure(tracker.study, error)
    return ""


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _still_lives(controller: psutil.Process | None, at_most_s: float) -> bool:
    """Wait for the controller's end, but not for longer than this."""
    if controller is None:
        return False
    try:
        controller.wait(at_most_s)
    except psutil.TimeoutExpired:
        return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """The process of its own."""
    parser = argparse.ArgumentParser(prog="python -m ablate.tracking.mlflow", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, required=True, help="the runs folder")
    parser.add_argument("--study", required=True)
    parser.add_argument("--register", metavar="NAME", help="register the winner's backbone as a model of this name")
    parser.add_argument("--follow", type=int, metavar="PID", help="stay while this process lives")
    given = parser.parse_args(arguments)
    try:
        if given.follow is not None:
            follow(given.root, given.study, given.follow)
        else:
            print(sync(given.root, given.study, register=given.register))
    except AblateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
