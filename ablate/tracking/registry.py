"""The winner's backbone as a model in MLflow's registry."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.conclusion import ArmVerdict, Conclusion
from ablate.errors import TrainerError
from ablate.offers import Offers
from ablate.study import BASELINE, CONFIRMATION, Study
from ablate.tracking.entries import StudyEntries
from ablate.tracking.notes import arm_note
from ablate.trial import TrialResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "model"
"""Among the artifacts of the trial that the model comes from."""

SIGNATURE = "ablate.signature"
"""Tag of a version: the trial that it comes from. So a second registering of the same trial adds nothing."""

ALIAS = "winner"


@dataclass(frozen=True)
class Winner:
    """The trial whose backbone stands for a study's winner."""

    study: Study
    conclusion: Conclusion
    arm: ArmVerdict
    result: TrialResult
    directory: Path
    replicate: int
    replicates: int


def winner_of(found: StudyEntries) -> Winner:
    """The arm that was adopted last, of its replicates the best by the objective; the first of equals.

    Raises:
        TrainerError: No arm was adopted, or no replicate of it has a result with the objective.
    """
    study = found.study
    adopted = [conclusion for conclusion in found.conclusions if conclusion.winner != BASELINE]
    if any(conclusion.phase == CONFIRMATION and conclusion.winner == BASELINE for conclusion in found.conclusions):
        raise TrainerError(
            f"{found.name}: the winner was not confirmed on fresh replicates, so the baseline stays and nothing is registered."
        )
    if study is None or not adopted:
        raise TrainerError(f"{found.name}: expected an adopted arm but there is none. A baseline is no winner, so nothing is registered.")
    conclusion = adopted[-1]
    metric, sign = study.objective.metric, study.objective.sign
    results = [result for result in found.results_of(conclusion.phase, conclusion.winner) if metric in result.metrics]
    if not results:
        raise TrainerError(f"{found.name}: no replicate of {conclusion.phase}/{conclusion.winner} has a result with {metric}.")
    best = max(results, key=lambda result: sign * result.metrics[metric])
    replicate = next(record.replicate for record in found.records if record.signature == best.signature)
    directory = found.attempt_of(best).directory
    return Winner(study, conclusion, conclusion.arm(conclusion.winner), best, directory, replicate, len(results))


def register(client: MlflowClient, run_id: str, winner: Winner, name: str) -> str:
    """Export the winner's backbone, attach it to its trial's run and register it; what was done, in a line.

    The newest version carries the alias `winner`: `models:/NAME@winner`.

    Raises:
        TrainerError: The trainer offers no export, or it failed.
    """
    from mlflow.exceptions import MlflowException

    study, signature = winner.study, winner.result.signature
    try:
        client.create_registered_model(name, description=f"{study.question} Winners of study `{study.study}`, each with its verdict.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(SIGNATURE) == signature:
            client.set_registered_model_alias(name, ALIAS, version.version)
            return f"model {name}: version {version.version} is this winner already"
    with tempfile.TemporaryDirectory(prefix="ablate-model-") as scratch:
        file = Offers(study.trainer).export(winner.directory, Path(scratch))
        client.log_artifact(run_id, str(file), FOLDER)
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    made = client.create_model_version(name, source, run_id, tags=_tags(winner), description=_described(winner, file.name))
    client.set_registered_model_alias(name, ALIAS, made.version)
    return f"model {name}: version {made.version}, {file.name} of {winner.conclusion.phase}/{winner.arm.name} replicate {winner.replicate}"


def _tags(winner: Winner) -> dict[str, str]:
    return {
        SIGNATURE: winner.result.signature,
        "study": winner.study.study,
        "phase": winner.conclusion.phase,
        "arm": winner.arm.name,
        "verdict": winner.arm.verdict,
        "replicate": str(winner.replicate),
    }


def _described(winner: Winner, file: str) -> str:
    metric = winner.study.objective.metric
    lines = [
        f"`{file}`: the backbone of `{winner.conclusion.phase}/{winner.arm.name}` in study `{winner.study.study}`.",
        arm_note(winner.study, winner.arm, carried_on=False),
        f"Of {winner.replicates} replicates this is {winner.replicate}, the best by `{metric}` ({winner.result.metrics[metric]:.4g}): "
        "its own value flatters; the arm's mean is what the verdict rests on.",
    ]
    return "\n\n".join(lines)
