"""`ablate dashboard`: the study in a browser, and the commands behind its buttons."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import typer

from ablate.cli.finding import opened
from ablate.cli.status import status_of
from ablate.cli.steering import retry, stop
from ablate.execution.detached import Detached


def show(runs: Path, study: str, *, port: int, browse: bool) -> None:
    """Serve the dashboard of a study on this machine until Ctrl-C.

    Raises:
        AblateError: No such study has run or begins here, or the port is taken.
    """
    from dashboards.live.asking import Steering
    from dashboards.live.serve import serve

    if Detached(runs / study).starting() is None:
        opened(runs, study)
    steering = Steering(
        status=lambda: status_of(runs, study).model_dump(mode="json"),
        stop=lambda: str(stop(runs, study, now=False, wait=False)["said"]),
        retry=partial(_retry, runs, study),
        replicates=partial(_more, runs, study),
    )
    serve(runs, study, steering, port=port, browse=browse, say=partial(typer.echo, nl=True))


def _more(runs: Path, study: str, phase: str, arm: str) -> str:
    from ablate.cli.session import detach, further_study

    alone = further_study(runs, study, f"{phase}/{arm}")
    who = detach(alone, runs, ["more", study, f"{phase}/{arm}", "--runs", str(runs)])
    return f"{alone.study}: {who} runs {alone.replicates.start} fresh replicates. Look on with `ablate dashboard {alone.study}`."


def _retry(runs: Path, study: str, signature: str | None, reopen: bool) -> str:
    return str(retry(runs, signature, study, failed=signature is None, reopen=reopen)["said"])
