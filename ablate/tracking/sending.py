"""What MLflow is told of one run: tags, params, points in batches, files, data sets, its end. Each can be told again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.tracking.base import Artifact, DataSet, Entry, Points
from ablate.tracking.batches import ITEMS_A_BATCH, LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG, key_of, portions
from ablate.tracking.points import Writer

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY, LOGGED, VERSION = "ablate.key", "ablate.logged_step", "ablate.version"
"""Tags by which a later telling knows what an earlier one did."""


@dataclass
class Known:
    """A run as MLflow has it."""

    run_id: str
    started_ms: int
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    params: set[str] = field(default_factory=set)


def experiment_of(client: MlflowClient, study: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(study)
    if found is None:
        return str(client.create_experiment(study, artifact_location=artifacts and f"{artifacts}/{study}"))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def runs_of(client: MlflowClient, experiment: str) -> Iterator[Known]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=500, page_token=token)
        for run in page:
            yield Known(run.info.run_id, run.info.start_time, run.info.status, dict(run.data.tags), set(run.data.params))
        token = page.token
        if not token:
            return


def created(client: MlflowClient, experiment: str, entry: Entry) -> Known:
    started_ms = int(entry.started * 1000)
    tags = dict(list({KEY: entry.key, **_tags(entry)}.items())[:ITEMS_A_BATCH])
    run = client.create_run(experiment, start_time=started_ms, run_name=entry.name[:LONGEST_NAME], tags=tags)
    return Known(run.info.run_id, started_ms, run.info.status, dict(tags))


def send(client: MlflowClient, write: Writer, known: Known, entry: Entry, points: Points) -> int:
    """Everything that fits a portion; after each the step up to which points are logged: after a kill the rest is told again, which makes
    no doubles."""
    from mlflow.entities import Param, RunTag

    changed = _tags(entry)
    tags = [RunTag(k, v) for k, v in changed.items() if known.tags.get(k) != v]
    new = {key_of(k): v[:LONGEST_PARAM] for k, v in entry.params.items()}
    params = [Param(k, v) for k, v in new.items() if k not in known.params]
    for start in range(0, max(len(params), len(tags)), ITEMS_A_BATCH):
        some = slice(start, start + ITEMS_A_BATCH)
        client.log_batch(known.run_id, params=params[some], tags=tags[some])
    known.tags |= changed
    known.params |= new.keys()
    sent = 0
    for portion, upto in portions(points):
        noted = {} if upto is None else {LOGGED: str(upto)}
        # The time follows from the step alone, so that a value that is told again is the same value.
        write(known.run_id, [(key_of(name), value, known.started_ms + step, step) for step, name, value in portion], noted)
        sent += len(portion)
        known.tags |= noted
    return sent


def _tags(entry: Entry) -> dict[str, str]:
    return {key_of(k): v[:LONGEST_TAG] for k, v in entry.tags.items()}


def log_artifacts(client: MlflowClient, run_id: str, artifacts: Sequence[Artifact]) -> None:
    """All of them in one go, from a folder of links."""
    if not artifacts:
        return
    with tempfile.TemporaryDirectory(prefix="ablate-mlflow-") as scratch:
        for artifact in artifacts:
            path = Path(scratch, artifact.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # of two of a name the last one; never through a link
            if isinstance(artifact.source, str):
                path.write_text(artifact.source, encoding="utf-8")
            else:
                path.symlink_to(artifact.source.absolute())
        client.log_artifacts(run_id, scratch)


def log_data(client: MlflowClient, run_id: str, found: Sequence[DataSet]) -> None:
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


def end(client: MlflowClient, known: Known, entry: Entry) -> None:
    if entry.status in ("FINISHED", "FAILED"):
        client.set_terminated(known.run_id, entry.status, known.started_ms + int((entry.seconds or 0.0) * 1000))
    else:
        client.update_run(known.run_id, entry.status)
    known.status = entry.status
