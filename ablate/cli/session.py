"""A run as the user types it: the loop, then the report, then MLflow."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from ablate import estimate
from ablate.cli.finding import begun, opened, studies
from ablate.cli.printing import print_json
from ablate.cli.progress import Progress, view
from ablate.cli.reading import chosen_arms
from ablate.cli.watching import note_plan
from ablate.errors import BaselineFailed, BudgetSpent, Interrupted, StudyBusy, StudyError
from ablate.execution.detached import Detached
from ablate.execution.handover import hydra_value
from ablate.execution.lock import ControllerLock
from ablate.further import further
from ablate.loading import again, load
from ablate.offers import Offers
from ablate.plan import plan
from ablate.results import Results
from ablate.study import BASELINE, Budget, Study, Tune, asked_of
from ablate.trial import write_atomic


def loaded_study(runs: Path, study: str, changes: Sequence[str]) -> Study:
    """The study of a file, or the one of that name as it was run here, under the settings asked for.

    Raises:
        StudyError: There is neither, or something of it is wrong.
    """
    if Path(study).suffix not in (".yaml", ".yml") and study in studies(runs):
        return again(Results(runs, study).study, changes)
    return load(Path(study), changes)


def check_budget(study: Study, runs: Path) -> None:
    """See that the budget will carry the study to its end; trials that other studies left here are none of its cost.

    Raises:
        OverBudget: It will not, by the best estimate that there is.
    """
    if study.budget == Budget():
        return
    offers = Offers(study.trainer)
    estimated = estimate.estimate(study, offers, plan(study, offers), runs)
    if estimated.over():
        finished = [path.parent.name for path in runs.glob("trials/*/accepted.json")]
        estimate.check(estimate.estimate(study, offers, plan(study, offers, finished=finished), runs) if finished else estimated)


def run_study(study: Study, runs: Path, command: str, *, mlflow: bool = True, as_json: bool = False) -> int:
    """Run, report, and say what came of it.

    Args:
        as_json: Print one JSON document at the end, the report's; all else goes to standard error.

    Returns:
        0 done, 1 trials failed for good, 3 interrupted and resumable.
    """
    from ablate import runner

    console = Console(stderr=as_json)
    progress = Progress(study, runs, plan(study, Offers(study.trainer)).trials_at_most)
    note_plan(runs, study.study, progress.trials_at_most)
    try:
        with followed(study, runs) if mlflow else nullcontext(), view(progress, console) as observer:
            runner.run(study, runs, observer)
    except (Interrupted, BudgetSpent) as stopped:
        console.print(f"{stopped}\nTo go on: {command}", markup=False, highlight=False, soft_wrap=True)
        if as_json:
            print_json({"study": study.study, "said": str(stopped), "to_go_on": command})
        return stopped.exit_code
    except BaselineFailed:
        finish(
            study, runs, console, mlflow=mlflow, as_json=as_json
        )  # what is known all the same, before the message that says why it ended
        raise
    return finish(study, runs, console, mlflow=mlflow, as_json=as_json)


def detach(study: Study, runs: Path, arguments: Sequence[str]) -> str:
    """Run `ablate ARGUMENTS` in the background, where it outlives this shell.

    Returns:
        What runs it, in words: a process or a job.

    Raises:
        StudyBusy: The study runs already.
        StudyError: Slurm does not take the job.
    """
    lock = ControllerLock(runs / study.study)
    lock.acquire()
    lock.release()
    background = Detached(runs / study.study)
    starting = background.starting()
    if starting:
        watching = f"Watch it with `ablate watch {study.study}`, end it with `ablate stop {study.study}`."
        raise StudyBusy(f"{study.study}: expected no other controller but one is starting ({starting}). {watching}")
    return background.start(study, arguments)


def finish(study: Study, runs: Path, console: Console, *, mlflow: bool, as_json: bool = False) -> int:
    """Write the report, bring MLflow up to date, print the answer."""
    from ablate.cli.tables import print_answer
    from ablate.tracking.store import ui_hint
    from dashboards.report import write

    results = Results(runs, study.study)
    page = write(results, runs / study.study / "report.html")
    document = results.document()
    if not as_json:
        print_answer(results)
    said = sync_apart(study, runs) if mlflow else f"left alone; later: ablate sync {study.study}"
    console.print(f"\nreport: {page}\nMLflow: {said}\nto open MLflow: {ui_hint(runs)}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(document | {"report": str(page), "mlflow": said})
    return 1 if document["failed_trials"] else 0


@contextmanager
def followed(study: Study, runs: Path) -> Iterator[None]:
    """MLflow follows the run from a process of its own, which may lag and may fail without harm."""
    directory = runs / study.study
    directory.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, "-m", "ablate.tracking.mlflow", "--root", str(runs), "--study", study.study, "--follow", str(os.getpid())]
    with (directory / "tracking.log").open("a") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sync_apart(study: Study, runs: Path, timeout_s: float = 300) -> str:
    """One complete sync in its own process; what it says in one line."""
    arguments = [sys.executable, "-m", "ablate.tracking.mlflow", "--root", str(runs), "--study", study.study]
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"not up to date after {timeout_s:.0f} s. The run is whole; later: ablate sync {study.study}"
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[-1] if lines else "up to date"


def tuning_study(study: Study, runs: Path, points: int | None = None) -> Study:
    """The study's tuning phases alone, as a study of their own that starts from the last carried winner.

    Its trials are found by signature, so whatever the main study ran already is not run again. A call that adds points makes a study of
    its own too, `NAME.tune-1` and on, whose sampler goes on where the one before ended.

    Args:
        points: So many more points than all calls before had; none: the last call as it was.

    Raises:
        StudyError: The study has no tuning phase, or the call before has not ended.
    """
    tuning = [phase for phase in study.phases if isinstance(phase.design, Tune)]
    if not tuning:
        raise StudyError(study.study, ["phases: expected a phase with `design: {tune: N}` but found none. Add one, or use `ablate run`."])
    before = [phase.name for phase in study.phases[: study.phases.index(tuning[0])]]
    carried = dict(study.baseline)
    if begun(runs, study.study):
        for conclusion in Results(runs, study.study).conclusions:
            if conclusion.phase in before:
                carried = dict(conclusion.winner_levels)
    more = _added(study.study, runs, points)
    name = f"{study.study}.tune-{len(more)}" if more else f"{study.study}.tune"
    phases = [
        phase.model_copy(update={"design": phase.design.model_copy(update={"more": more})})
        for phase in tuning
        if isinstance(phase.design, Tune)
    ]
    return study.model_copy(update={"study": name, "baseline": carried, "phases": phases, "confirm": False})


def further_study(runs: Path, study: str, arm: str, replicates: int | None = None) -> Study:
    """A study of its own, `NAME.more-1` and on, that gives an arm and its baseline fresh replicates; the last one, where it has not ended.

    Args:
        arm: As `ARM` or `PHASE/ARM`.

    Raises:
        StudyError: There is no such arm, or several are named so, or the call before, for another arm or count, has not ended.
    """
    opened(runs, study).close()  # a name that is not there is told with the nearest
    found = Results(runs, study)
    document = found.document()
    chosen = chosen_arms(document, study, [arm])
    if len(chosen) != 1:
        names = ", ".join(f"{one['phase']}/{one['name']}" for one in chosen) or "none"
        raise StudyError(study, [f"{arm}: expected one arm but got {names}. Name it as PHASE/ARM."])
    beside = next(one for one in document["phases"] if one["name"] == chosen[0]["phase"])["arms"]
    calls, before = list[int](), None
    while begun(runs, f"{study}.more-{len(calls) + 1}"):
        before = Results(runs, f"{study}.more-{len(calls) + 1}")
        calls.append(before.study.replicates.start)
    own = next(one for one in beside if one["name"] == BASELINE)
    if before is not None and not before.conclusions:
        same = further(found.study, chosen[0], own, calls[:-1], replicates or calls[-1])
        if asked_of(same) != asked_of(before.study):
            asked = f"{before.study.study} ({before.study.question}) to end first"
            raise StudyError(study, [f"{arm}: expected {asked} but it has not. Ask for the same arm again, and it goes on."])
        return same
    return further(found.study, chosen[0], own, calls, replicates)


def _added(study: str, runs: Path, points: int | None) -> list[int]:
    """The points that each call added, this one among them."""
    calls = 0
    while begun(runs, f"{study}.tune-{calls + 1}"):
        calls += 1
    name = f"{study}.tune-{calls}" if calls else f"{study}.tune"
    if not begun(runs, name):
        return [] if points is None else [points]
    last = Results(runs, name)
    designs = [phase.design for phase in last.study.phases]
    before = [*designs[0].more] if isinstance(designs[0], Tune) else []
    if points is None:
        return before
    if last.conclusions and last.conclusions[-1].next is None:
        return [*before, points]
    if before and before[-1] == points:
        return before
    asked = f" --points {before[-1]}" if before else ""
    raise StudyError(
        study, [f"--points: {name} has not ended, so no points are added to it yet. Let it end first: ablate tune {study}{asked}"]
    )


def write_settings(runs: Path, study: str, path: Path) -> str:
    """Put the winner's settings, tuned thresholds included, into a YAML config; other keys and comments stay.

    Returns:
        The same as words of a command line, `path=value`, quoted for a shell: what a Hydra application takes.

    Raises:
        StudyError: The file exists and is not a YAML mapping.
    """
    from ablate.loading.editing import with_settings
    from ablate.loading.reading import load_mapping

    results = Results(runs, study)
    levels = dict(results.conclusions[-1].winner_levels)
    levels |= {threshold: row["recommended"] for threshold, row in results.document()["thresholds"].items()}
    there = path.exists() and bool(load_mapping(path))
    write_atomic(path, with_settings(path.read_text(encoding="utf-8-sig") if there else "", levels))
    return shlex.join(f"{setting}={hydra_value(level)}" for setting, level in levels.items())
