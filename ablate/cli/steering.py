"""What is asked of a study from any shell: stop it, let trials run again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.cli.finding import SHOWN_NAMES, opened, place, the_study, the_trial
from ablate.errors import StudyError
from ablate.execution.detached import Detached
from ablate.execution.lock import holder
from ablate.execution.requests import What, request
from ablate.study import REFERENCES
from ablate.trial import TrialState

POLL_S = 0.05
STOP_PATIENCE_S = 120.0


def stop(runs: Path, study: str, *, now: bool, wait: bool, patience_s: float = STOP_PATIENCE_S) -> dict[str, Any]:
    """Ask a study to end and wait for it.

    Returns:
        `study`, `stopped` (nothing runs any more), `said` (a sentence).
    """
    detached = Detached(runs / study)
    starting = detached.starting()
    if starting is not None and detached.end_before_it_began():
        return {"study": study, "stopped": True, "said": f"{study}: it did not run yet ({starting}), and is ended."}
    ledger, controller = opened(runs, study), holder(runs, study)
    if controller is None:
        return {"study": study, "stopped": True, "said": f"{study} is not running. Nothing to stop."}
    request(runs, study, What.STOP_NOW if now else What.STOP)
    who = f"process {controller['pid']} on {controller['host']}"
    how = "running trials are ended at once" if now else "running trials save a checkpoint first"
    asked = f"{study}: asked {who} to stop; {how}."
    until = time.monotonic() + patience_s
    while wait and (found := holder(runs, study)) is not None and found == controller:
        if time.monotonic() > until:
            return {
                "study": study,
                "stopped": False,
                "said": f"{asked} After {patience_s:g} s it is still at it; `ablate stop {study} --now` does not wait.",
            }
        time.sleep(POLL_S)
    if not wait:
        return {"study": study, "stopped": False, "said": asked}
    detached.end_before_it_began()  # a job that was at its time limit just then stands in the queue again
    states = [record.state for record in ledger.trials()]
    open_ = sum(state in (TrialState.QUEUED, TrialState.RUNNING) for state in states)
    said = f"{asked} It ended: {states.count(TrialState.DONE)} trials are done, {open_} are to do. `ablate run` goes on."
    return {"study": study, "stopped": True, "said": said}


def retry(runs: Path, trial: str | None, study: str | None, *, failed: bool, reopen: bool) -> dict[str, Any]:
    """Ask for a fresh row of attempts at failed trials; at once where the study runs, else at its next run.

    Returns:
        `study`, `trials` (signatures), `kept` (concluded phases whose decision stays), `reopened`, `running`, `said`.

    Raises:
        StudyError: No such trial, or one that has not failed.
    """
    if failed == (trial is not None):
        raise StudyError(
            "ablate retry", ["expected a trial or --failed, and not both: `ablate retry TRIAL [STUDY]`, `ablate retry --failed [STUDY]`."]
        )
    if trial is not None:
        study, signature = the_trial(runs, trial, study)
        signatures: Sequence[str] = [signature]
    study = study or the_study(runs, alone=True)
    ledger = opened(runs, study)
    records = {record.signature: record for record in ledger.trials()}
    if failed:
        signatures = [s for s, record in records.items() if record.state is TrialState.FAILED]
    elif (state := records[signatures[0]].state) is not TrialState.FAILED:
        raise StudyError(study, [f"{trial}: expected a trial that failed for good but it is {state}. Only those are run again."])
    running = holder(runs, study) is not None
    document: dict[str, Any] = {"study": study, "trials": list(signatures), "kept": [], "reopened": [], "running": running}
    if not signatures:
        return document | {"said": f"{study}: no trial has failed for good. Nothing to run again."}
    wanted = set(signatures)
    uses = [use for use in ledger.uses() if use.signature in wanted]
    served = {use.phase for use in uses}
    concluded = list(ledger.conclusions())
    first = next((index for index, name in enumerate(concluded) if name in served or REFERENCES in served), None)
    if reopen and first is not None:
        document["reopened"] = concluded[first:]
    else:
        document["kept"] = [name for name in concluded if name in served or REFERENCES in served]
    request(runs, study, What.RETRY, trials=tuple(signatures), reopen=reopen)
    first_place = {use.signature: place(use) for use in reversed(uses)}
    places = [first_place.get(s, s) for s in signatures]
    more = f" and {len(places) - SHOWN_NAMES} more" if len(places) > SHOWN_NAMES else ""
    when = "the running controller takes it up" if running else f"`ablate run` of {study} takes it up"
    said = [f"{study}: a fresh row of attempts for {', '.join(places[:SHOWN_NAMES])}{more}; {when}."]
    if document["kept"]:
        said.append(
            f"Concluded, and kept as decided: {', '.join(document['kept'])}. With --reopen they are decided anew, and what follows them."
        )
    if document["reopened"]:
        said.append(f"Decided anew once the trials are done: {', '.join(document['reopened'])}.")
    return document | {"said": " ".join(said)}
