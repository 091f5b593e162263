"""MLflow, kept up to date from the truth under `runs/` by a process of its own. The one door to mlflow.

`python -m ablate.tracking.mlflow --root runs --study NAME [--follow PID]`

One run a signature, a summary run an arm, one run for the study, all flat: nested runs are collapsed in MLflow's table and their
curves missing from its charts (mlflow#1896). Everything is told with names and times that follow from the truth alone, so that a
telling that was killed anywhere is completed by the next one without doubles: MLflow keeps a metric value once where key, step, time
and value are equal.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ablate.errors import AblateError
from ablate.tracking.base import Artifact, DataSet, Entry, Points, Synced, TrackerDown
from ablate.tracking.batches import ITEMS_A_BATCH, LONGEST_EXPERIMENT_TAG, LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG, batches, key_of, unsaid
from ablate.tracking.entries import StudyEntries
from ablate.tracking.registry import register, winner_of
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

INTERVAL_S = 3.0
"""Between two looks of a follower."""

KEY, LOGGED, VERSION = "ablate.key", "ablate.logged_step", "ablate.version"
"""Tags by which a later telling knows what an earlier one did."""


@dataclass
class _Known:
    """A run as MLflow has it."""

    run_id: str
    started_ms: int
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)


class MlflowTracker:
    """One study's experiment in the store of a `runs` folder (a `Tracker`).

    While it lives it must be the only one of its study: it remembers what MLflow has. `locked` sees to that.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.root, self.study = root, study
        self.experiment: str | None = None
        self._client: MlflowClient | None = None
        self._known: dict[str, _Known] = {}
        self._about: dict[str, str] = {}

    def tell(self, entries: Iterable[Entry], about: Callable[[str], Mapping[str, str]] = lambda experiment: {}) -> Synced:
        """Bring the experiment up to date with these entries.

        Raises:
            TrackerDown: MLflow cannot be reached or refuses.
        """
        with self._reaching():
            client, experiment = self._opened()
            made = points = count = 0
            for entry in entries:
                count += 1
                made += entry.key not in self._known
                points += self._tell(client, experiment, entry)
            self._tell_about(client, experiment, about(experiment))
        return Synced(count, made, points, without_secrets(tracking_uri(self.root)), experiment)

    def register(self, found: StudyEntries, name: str) -> str:
        """Register the winner's backbone as a model of this name; told in a line.

        Raises:
            TrackerDown: MLflow cannot be reached or refuses.
            TrainerError: There is nothing to register, or the trainer cannot export it.
        """
        with self._reaching():
            client, _ = self._opened()
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

    def _opened(self) -> tuple[MlflowClient, str]:
        if self._client is None or self.experiment is None:
            client = connected(self.root)
            self.experiment = _experiment(client, self.study, artifact_root(self.root))
            self._known = {run.tags[KEY]: run for run in _runs(client, self.experiment) if KEY in run.tags}
            self._about = dict(client.get_experiment(self.experiment).tags)
            self._client = client
        return self._client, self.experiment

    def _tell_about(self, client: MlflowClient, experiment: str, about: Mapping[str, str]) -> None:
        for name, text in about.items():
            said = text[:LONGEST_EXPERIMENT_TAG]
            if self._about.get(name) != said:
                client.set_experiment_tag(experiment, name, said)
                self._about[name] = said

    def _tell(self, client: MlflowClient, experiment: str, entry: Entry) -> int:
        """One entry: what changed of its tags, what is new of its params and points, its artifacts once a version."""
        known = self._known.get(entry.key)
        if known is None:
            known = self._known[entry.key] = _created(client, experiment, entry)
        fresh = entry.version is None or known.tags.get(VERSION) != entry.version
        points = unsaid(entry.points(), known.tags.get(LOGGED), whole=entry.version is not None) if fresh else []
        sent = _send(client, known, entry, points)
        if fresh and entry.version is not None:
            _log_artifacts(client, known.run_id, entry.artifacts())
            _log_data(client, known.run_id, entry.data())
        if known.status != entry.status:
            _end(client, known, entry)
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


def _experiment(client: MlflowClient, study: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(study)
    if found is None:
        return str(client.create_experiment(study, artifact_location=artifacts and f"{artifacts}/{study}"))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _runs(client: MlflowClient, experiment: str) -> Iterator[_Known]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=500, page_token=token)
        for run in page:
            yield _Known(run.info.run_id, run.info.start_time, run.info.status, dict(run.data.tags), set(run.data.params))
        token = page.token
        if not token:
            return


def _created(client: MlflowClient, experiment: str, entry: Entry) -> _Known:
    started_ms = int(entry.started * 1000)
    tags = {KEY: entry.key, "kind": entry.tags.get("kind", "")}
    run = client.create_run(experiment, start_time=started_ms, run_name=entry.name[:LONGEST_NAME], tags=tags)
    return _Known(run.info.run_id, started_ms, run.info.status, {KEY: entry.key})


def _send(client: MlflowClient, known: _Known, entry: Entry, points: Points) -> int:
    """Everything that fits a batch; the step up to which points are logged is written with the batch that holds it."""
    from mlflow.entities import Metric, Param, RunTag

    changed = {key_of(k): v[:LONGEST_TAG] for k, v in entry.tags.items()}
    tags = [RunTag(k, v) for k, v in changed.items() if known.tags.get(k) != v]
    new = {key_of(k): v[:LONGEST_PARAM] for k, v in entry.params.items()}
    params = [Param(k, v) for k, v in new.items() if k not in known.params]
    for start in range(0, max(len(params), len(tags)), ITEMS_A_BATCH):
        some = slice(start, start + ITEMS_A_BATCH)
        client.log_batch(known.run_id, params=params[some], tags=tags[some])
    known.tags |= changed
    known.params |= new.keys()
    sent = 0
    for batch, upto in batches(points):
        # The time follows from the step alone, so that a value that is told again is the same value.
        metrics = [Metric(key_of(name), value, known.started_ms + step, step) for step, name, value in batch]
        client.log_batch(known.run_id, metrics=metrics, tags=[] if upto is None else [RunTag(LOGGED, str(upto))])
        sent += len(metrics)
        if upto is not None:
            known.tags[LOGGED] = str(upto)
    return sent


def _log_artifacts(client: MlflowClient, run_id: str, artifacts: Sequence[Artifact]) -> None:
    with tempfile.TemporaryDirectory(prefix="ablate-mlflow-") as scratch:
        for number, artifact in enumerate(artifacts):
            folder, _, name = artifact.name.rpartition("/")
            source = artifact.source
            if isinstance(source, str) or source.name != name:
                path = Path(scratch) / str(number) / name
                path.parent.mkdir()
                if isinstance(source, str):
                    path.write_text(source, encoding="utf-8")
                else:
                    path.symlink_to(source.absolute())
            else:
                path = source
            client.log_artifact(run_id, str(path), folder or None)


def _log_data(client: MlflowClient, run_id: str, found: Sequence[DataSet]) -> None:
    """MLflow keeps a data set once a run, so that telling it again makes no double."""
    if not found:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def input_of(data: DataSet) -> DatasetInput:
        source = json.dumps({"uri": data.source})
        profile = None if data.items is None else json.dumps({"items": data.items})
        whole = Dataset(name=data.name, digest=data.digest, source_type="local", source=source, profile=profile)
        return DatasetInput(whole, [InputTag("mlflow.data.context", data.context)])

    client.log_inputs(run_id, [input_of(data) for data in found])


def _end(client: MlflowClient, known: _Known, entry: Entry) -> None:
    if entry.status in ("FINISHED", "FAILED"):
        client.set_terminated(known.run_id, entry.status, known.started_ms + int((entry.seconds or 0.0) * 1000))
    else:
        client.update_run(known.run_id, entry.status)
    known.status = entry.status


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
        tracker = MlflowTracker(root, study)
        alive = True
        while alive:
            alive = _still_lives(controller)
            line = _told(tracker)
            if line != said and line:
                print(line, flush=True)
            said = line


def _told(tracker: MlflowTracker) -> str:
    """One look of a follower; what went wrong, or nothing."""
    if not (tracker.root / tracker.study / "ledger.db").exists():
        return ""
    try:
        found = StudyEntries(tracker.root, tracker.study)
        tracker.tell(found.all(), found.about)
    except (AblateError, OSError, ValueError) as error:
        return _failure(tracker.study, error)
    return ""


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _still_lives(controller: psutil.Process | None) -> bool:
    """Wait for the controller's end, but not for longer than one interval."""
    if controller is None:
        return False
    try:
        controller.wait(INTERVAL_S)
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
