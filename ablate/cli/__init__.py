"""The commands: parse, call, exit code. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ablate.cli import completing
from ablate.cli.printing import print_json
from ablate.errors import AblateError, Interrupted, StudyError, of_the_disk

app = typer.Typer(
    name="ablate",
    help="Which change helps, by how much, and with which thresholds? Phased ablations with paired verdicts.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

STUDY_HELP = "A study file (studies/collapse.yaml) or the name of a study that has run."
StudyFile = Annotated[str, typer.Argument(help=STUDY_HELP, metavar="STUDY", autocompletion=completing.study_file)]
Study = Annotated[str, typer.Argument(help=STUDY_HELP, metavar="STUDY", autocompletion=completing.study)]
LatestStudy = Annotated[
    str | None,
    typer.Argument(help="A study; none: the one that runs, or ran last.", metavar="[STUDY]", autocompletion=completing.study_name),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value for any value of the study file.", metavar="[KEY=VALUE]...")]
Root = Annotated[Path, typer.Option("--runs", help="Folder that holds all that is made.")]
NoMlflow = Annotated[bool, typer.Option("--no-mlflow", help="Leave MLflow alone; `ablate sync` fills it later.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EndAsJson = Annotated[
    bool, typer.Option("--json", help="Print what `ablate report --json` prints, at the end; what happens goes to standard error.")
]


@app.command()
def run(
    study: StudyFile,
    overrides: Overrides = None,
    no_mlflow: NoMlflow = False,
    detach: Annotated[bool, typer.Option("--detach", help="In the background: `ablate watch` attaches, `ablate stop` ends it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start also where the budget is estimated not to be enough.")] = False,
    as_json: EndAsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Run a study; the same command goes on where it stopped."""
    from ablate.cli.session import check_budget, loaded_study, run_study
    from ablate.cli.session import detach as start_in_background

    words = [study, *(overrides or [])]
    loaded = loaded_study(runs, study, overrides or [])
    if not yes:
        check_budget(loaded, runs)
    if detach:
        who = start_in_background(loaded, runs, ["run", *words, "--yes", "--runs", str(runs), *(["--no-mlflow"] if no_mlflow else [])])
        _print_started(loaded.study, who, runs, as_json)
        return
    raise typer.Exit(run_study(loaded, runs, f"ablate run {' '.join(words)}", mlflow=not no_mlflow, as_json=as_json))


@app.command()
def tune(
    study: StudyFile,
    overrides: Overrides = None,
    points: Annotated[
        int | None, typer.Option("--points", help="So many points more than all calls before had; none: as the last call.", min=1)
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Put the winner's settings, thresholds included, into this YAML config.")
    ] = None,
    no_mlflow: NoMlflow = False,
    as_json: EndAsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Run the tuning phases alone, from the last carried winner; with --points it goes on where the last call ended."""
    from ablate.cli.session import loaded_study, run_study, tuning_study, write_settings

    alone = tuning_study(loaded_study(runs, study, overrides or []), runs, points)
    words = [study, *(overrides or []), *([] if points is None else ["--points", str(points)])]
    code = run_study(alone, runs, f"ablate tune {' '.join(words)}", mlflow=not no_mlflow, as_json=as_json)
    if write is not None and code in (0, 1):
        typer.echo(f"{write} has the settings. In one line: {write_settings(runs, alone.study, write)}", err=as_json)
    raise typer.Exit(code)


@app.command()
def more(
    study: Study,
    arm: Annotated[str, typer.Argument(help="ARM or PHASE/ARM.", autocompletion=completing.arm)],
    replicates: Annotated[int | None, typer.Option("--replicates", help="So many; none: as many as its phase allows.", min=3)] = None,
    no_mlflow: NoMlflow = False,
    detach: Annotated[bool, typer.Option("--detach", help="In the background: `ablate watch` attaches, `ablate stop` ends it.")] = False,
    as_json: EndAsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """More replicates of an arm and its baseline: fresh ones, in a study of their own, so that asking again flatters nobody."""
    from ablate.cli.session import detach as start_in_background
    from ablate.cli.session import further_study, run_study

    alone = further_study(runs, _name(study), arm, replicates)
    words = ["more", study, arm, *([] if replicates is None else ["--replicates", str(replicates)])]
    if detach:
        who = start_in_background(alone, runs, [*words, "--runs", str(runs), *(["--no-mlflow"] if no_mlflow else [])])
        _print_started(alone.study, who, runs, as_json)
        return
    raise typer.Exit(run_study(alone, runs, f"ablate {shlex.join(words)}", mlflow=not no_mlflow, as_json=as_json))


@app.command()
def confirm(
    study: StudyFile,
    overrides: Overrides = None,
    no_mlflow: NoMlflow = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start also where the budget is estimated not to be enough.")] = False,
    as_json: EndAsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Run the winner against the baseline again, at real length and size: does the short answer hold?"""
    from ablate.cli.session import check_budget, loaded_study, run_study
    from ablate.results import Results
    from ablate.transfer import confirming

    asked = overrides or []
    loaded = loaded_study(runs, study, asked)
    found = Results(runs, loaded.study)
    alone = confirming(found.study, found.conclusions, loaded, asked)
    if not yes:
        check_budget(alone, runs)
    command = f"ablate confirm {' '.join([study, *asked])}"
    raise typer.Exit(run_study(alone, runs, command, mlflow=not no_mlflow, as_json=as_json))


@app.command()
def plan(
    study: StudyFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
    with_pilot: Annotated[bool, typer.Option("--pilot", help="Time some steps of the baseline now (seconds; the time is kept).")] = False,
    pilot_steps: Annotated[
        str | None, typer.Option("--pilot-steps", help="The setting that says how many steps a trial has; none: found by its name.")
    ] = None,
    look: Annotated[bool, typer.Option("--preflight", help="Look at the data and the crops of every arm now (seconds; kept).")] = False,
    runs: Root = Path("runs"),
) -> None:
    """What would run, what it would cost, and what speaks against it; starts nothing."""
    from dataclasses import asdict

    from ablate import preflight
    from ablate.cli.session import loaded_study
    from ablate.cli.tables import print_plan
    from ablate.estimate import estimate, keep_pilot
    from ablate.foresight import foresight
    from ablate.offers import Offers
    from ablate.plan import plan as plan_study

    loaded = loaded_study(runs, study, overrides or [])
    offers = Offers(loaded.trainer)
    planned = plan_study(loaded, offers)
    timed = None
    if with_pilot:
        from ablate.execution.pilot import pilot

        timed = pilot(loaded, offers, setting=pilot_steps)
        keep_pilot(loaded, offers, runs, timed.trial_s)
    document = planned.document() | {"estimate": estimate(loaded, offers, planned, runs).document()}
    document["pilot"] = None if timed is None else {**asdict(timed), "said": timed.said}
    if look:
        arms = preflight.asked(loaded)
        found = offers.preflight([offers.config(levels, 0) for _, levels in arms], runs)
        preflight.keep(runs, loaded, offers.code_version(), preflight.summary(arms, found))
    document["preflight"] = preflight.kept(runs, loaded, offers.code_version())
    document["power"] = foresight(loaded, offers, planned, runs)
    if as_json:
        print_json(document)
    else:
        print_plan(document, study)


@app.command()
def status(
    study: LatestStudy = None,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Where a study stands, from any shell, while it runs or after. docs/STATUS.md says what the JSON holds."""
    from ablate.cli.finding import the_study
    from ablate.cli.status import status_of
    from ablate.cli.tables import print_status

    found = status_of(runs, _name(study) if study else the_study(runs)).model_dump(mode="json")
    if as_json:
        print_json(found)
    else:
        print_status(found)


@app.command()
def watch(
    study: LatestStudy = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each event.")] = False,
    runs: Root = Path("runs"),
) -> None:
    """The view of `run`, from any shell; ends with the study. Ctrl-C leaves the study running."""
    from ablate.cli.finding import the_study
    from ablate.cli.watching import watch as watch_study

    raise typer.Exit(watch_study(runs, _name(study) if study else the_study(runs), as_json=as_json))


@app.command()
def trials(
    study: LatestStudy = None,
    state: Annotated[str | None, typer.Option("--state", help="queued, running, done or failed.", autocompletion=completing.state)] = None,
    phase: Annotated[str | None, typer.Option("--phase", help="Of this phase alone.", autocompletion=completing.phase)] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="Of this arm alone.", autocompletion=completing.arm_name)] = None,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Every trial with its state, and with the cause in a line where it has no result."""
    from ablate.cli.finding import the_study
    from ablate.cli.trials import print_trials, trials_of

    found = trials_of(runs, _name(study) if study else the_study(runs), state=state, phase=phase, arm=arm)
    if as_json:
        print_json(found)
    else:
        print_trials(found)


@app.command()
def logs(
    trial: Annotated[
        str, typer.Argument(help="A signature's beginning or phase/arm/r0.", metavar="TRIAL", autocompletion=completing.trial)
    ],
    study: Annotated[
        str | None, typer.Argument(help="Its study; none: the one that has it.", metavar="[STUDY]", autocompletion=completing.study_name)
    ] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Its number; none: the latest.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the attempt ends.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", help="The last lines alone.", min=0)] = None,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """What a trial printed, its traceback included."""
    from ablate.cli.trials import follow as follow_log
    from ablate.cli.trials import log_of, log_text

    document, files = log_of(runs, trial, _name(study) if study else None, attempt)
    if as_json:
        print_json(document | {"text": log_text(files, tail)})
        return
    typer.echo(f"{document['log']} (attempt {document['attempt']}, the trial is {document['state']})", err=True)
    if follow:
        follow_log(runs, document["study"], files, tail, lambda text: typer.echo(text, nl=False))
    elif files.log.exists():
        typer.echo(log_text(files, tail), nl=False)
    else:
        typer.echo("Nothing was printed: with executor=inline it goes to the run's own output.", err=True)


@app.command()
def stop(
    study: Annotated[
        str | None, typer.Argument(help="A study; none: the one that runs.", metavar="[STUDY]", autocompletion=completing.study_name)
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Without waiting for checkpoints: trials go on from their last one.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return once it is asked.")] = False,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """End a running study cleanly and wait for its end; `ablate run` goes on later."""
    from ablate.cli.finding import the_study
    from ablate.cli.steering import stop as stop_study

    found = stop_study(runs, _name(study) if study else the_study(runs), now=now, wait=not no_wait)
    _print_said(found, as_json)


@app.command()
def retry(
    trial: Annotated[
        str | None, typer.Argument(help="A signature's beginning or phase/arm/r0.", metavar="[TRIAL]", autocompletion=completing.trial)
    ] = None,
    study: Annotated[
        str | None,
        typer.Argument(help="Its study; none: the only one that has it.", metavar="[STUDY]", autocompletion=completing.study_name),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All trials of the study that failed for good.")] = False,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Decide concluded phases that they belong to anew, and all that follow.")
    ] = False,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Give failed trials a fresh row of attempts, while the study runs or at its next run."""
    from ablate.cli.steering import retry as retry_trials

    if failed and study is None:
        trial, study = None, trial
    _print_said(retry_trials(runs, trial, _name(study) if study else None, failed=failed, reopen=reopen), as_json)


@app.command()
def compare(
    study: Study,
    arms: Annotated[list[str] | None, typer.Argument(help="Arms as PHASE/ARM or ARM; none: all.", autocompletion=completing.arm)] = None,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Arms side by side: settings that differ, metrics, verdicts."""
    from ablate.cli.reading import comparison
    from ablate.cli.tables import print_comparison

    found = comparison(runs, _name(study), arms or [])
    if as_json:
        print_json(found)
    else:
        print_comparison(found)


@app.command()
def explain(
    study: Study,
    arm: Annotated[str, typer.Argument(help="ARM or PHASE/ARM.", autocompletion=completing.arm)],
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Why an arm has its verdict, with its numbers."""
    from ablate.cli.explaining import explain as explain_arm

    found = explain_arm(runs, _name(study), arm)
    if as_json:
        print_json({"study": _name(study), "arms": found})
    else:
        typer.echo("\n\n".join("\n".join(one["explained"]) for one in found))


@app.command()
def history(study: Study, as_json: AsJson = False, runs: Root = Path("runs")) -> None:
    """What earlier runs of a study concluded, and what changed since."""
    from datetime import datetime

    from ablate.history import TIME
    from ablate.results import Results

    found = Results(runs, _name(study)).history
    if as_json:
        print_json({"study": _name(study), "history": found})
        return
    for one in found:
        typer.echo(f"{datetime.fromtimestamp(one[TIME]).astimezone():%Y-%m-%d %H:%M}  {' '.join(one['changed'])}")
    if not found:
        typer.echo(f"{_name(study)}: no earlier run is on record here.")


@app.command()
def export(
    study: Study,
    csv: Annotated[Path | None, typer.Option("--csv", help="Folder for arms.csv, trials.csv and curves.csv.")] = None,
    latex: Annotated[Path | None, typer.Option("--latex", help="Folder for arms.tex.")] = None,
    optuna: Annotated[
        str | None, typer.Option("--optuna", help="Storage (sqlite:///x.db) for the tuning phases; optuna-dashboard opens it.")
    ] = None,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Tables as CSV and LaTeX, tuning phases as Optuna studies."""
    from ablate.cli.exporting import optuna_studies, tables

    if csv is None and latex is None and optuna is None:
        raise StudyError("ablate export", ["expected --csv DIR, --latex DIR or --optuna STORAGE but got none of them."])
    files = tables(runs, _name(study), csv, latex)
    names = optuna_studies(runs, _name(study), optuna) if optuna else []
    if as_json:
        print_json({"study": _name(study), "files": [str(path) for path in files], "optuna": names})
        return
    for line in [*files, *(f"{optuna}: {name}" for name in names)]:
        typer.echo(line)


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"
    PDF = "pdf"


@app.command()
def report(
    study: Study,
    as_json: AsJson = False,
    formats: Annotated[list[Format], typer.Option("--format", help="May be given several times; pdf needs a Chromium.")] = [Format.HTML],  # noqa: B006
    runs: Root = Path("runs"),
) -> None:
    """Write the report and print the verdict table."""
    from ablate.results import Results

    results = Results(runs, _name(study))
    if as_json:
        print_json(results.document())
        return
    from ablate.cli.tables import print_answer
    from dashboards.report import write_as

    print_answer(results)
    for path in write_as(results, runs / results.study.study, {form.value for form in formats}):
        typer.echo(f"report: {path}")


@app.command()
def dashboard(
    study: LatestStudy = None,
    port: Annotated[int, typer.Option(help="0: a free one.", min=0, max=65535)] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address alone.")] = False,
    runs: Root = Path("runs"),
) -> None:
    """The study in a browser, up to date while it runs; on this machine only. Ctrl-C leaves the study running."""
    from ablate.cli.dashboard import show
    from ablate.cli.finding import the_study

    show(runs, _name(study) if study else the_study(runs), port=port, browse=not no_browser)


@app.command()
def ui(runs: Root = Path("runs"), port: Annotated[int, typer.Option(help="0, or one that is taken: a free one.")] = 5000) -> None:
    """Open MLflow's own interface on the right store, on this machine only."""
    from ablate.tracking.ui import serve

    raise typer.Exit(serve(runs, port))


@app.command()
def sync(
    study: Study,
    register: Annotated[
        str | None, typer.Option("--register", metavar="NAME", help="Register the winner's backbone as a model of this name.")
    ] = None,
    as_json: AsJson = False,
    runs: Root = Path("runs"),
) -> None:
    """Bring MLflow up to date with the truth under `runs/`."""
    from ablate.tracking.mlflow import sync as sync_mlflow

    _print_said({"study": _name(study), "said": sync_mlflow(runs, _name(study), register=register)}, as_json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The study file to write, or its folder.")] = Path("study.yaml"),
    trainer: Annotated[str, typer.Option("--trainer", help="Who trains: command, callable or builtin.")] = "command",
    from_config: Annotated[
        Path | None, typer.Option("--from-config", help="Your program's own YAML or JSON config: its settings become base and factors.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented study for your own trainer."""
    from ablate.cli.init import Kind
    from ablate.cli.init import init as write_study

    if trainer not in list(Kind):
        raise StudyError("ablate init", [f"--trainer: expected one of {', '.join(Kind)} but got {trainer!r}."])
    _print_said({"said": "\n".join(write_study(path, Kind(trainer), from_config, force=force))}, as_json)


@app.command()
def doctor(as_json: AsJson = False, runs: Root = Path("runs")) -> None:
    """Check this machine: packages, threads, GPUs, disk, MLflow's store, Slurm."""
    from ablate.cli.doctor import checks, print_checks

    found = checks(runs)
    if as_json:
        print_json({"checks": found})
    else:
        print_checks(found)
    raise typer.Exit(0 if all(check["ok"] for check in found) else 2)


def _name(study: str) -> str:
    """The study's name, from its file or as it was given."""
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        from ablate.loading import study_name

        return study_name(path)
    return study


def _print_started(study: str, who: str, runs: Path, as_json: bool) -> None:
    """What runs in the background, and how to look on."""
    log = runs / study / "controller.log"
    said = (
        f"{study}: {who} runs it in the background; it prints to {log}.\nTo look on: ablate watch {study}. To end it: ablate stop {study}."
    )
    _print_said({"study": study, "runs_it": who, "log": str(log), "said": said}, as_json)


def _print_said(document: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        typer.echo(document["said"])


def main() -> None:
    """Entry point: every expected failure is one message and an exit code."""
    try:
        app()
    except AblateError as error:
        typer.echo(f"{error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        known = of_the_disk(error)
        if known is None:
            raise
        typer.echo(f"{known}", err=True)
        sys.exit(known.exit_code)
