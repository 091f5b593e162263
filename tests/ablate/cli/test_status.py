"""`ablate status --json` says what docs/STATUS.md promises."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from stage import Stage

from ablate.cli.status import Status, status_of
from ablate.errors import StudyError
from ablate.execution.detached import Detached
from ablate.execution.requests import request
from ablate.study import Arm
from ablate.trial import Cause

PAGE = Path(__file__).parents[3] / "docs" / "STATUS.md"


def names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of a document; `[]` stands for the items of a list."""
    for name, field in model.model_fields.items():
        yield prefix + name
        kind, inner = field.annotation, ""
        if typing.get_origin(kind) is list:
            (kind,), inner = typing.get_args(kind), "[]"
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names(kind, f"{prefix}{name}{inner}.")


def test_the_page_names_every_key_and_no_other() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    documented = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(documented) == sorted(names(Status))
    causes = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `failures[].cause`"))
    assert set(re.findall(r"`([a-z_]+)`", causes.split("|")[3])) == {cause.value for cause in Cause} - {"stopped"}


def test_a_study_that_runs_stopped_and_failed_says_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "runs", executor="inline", more={"budget": {"trials": 7, "gpu_hours": 2.0}})
    good, bad = stage.spec(0), stage.spec(1, fault={"kind": "nan", "step": 1})
    with pytest.raises(StudyError, match="no such study has run here"):
        status_of(stage.root, "toy")
    with stage.queue() as queue:
        queue.ledger.freeze({"study": stage.study().model_dump(mode="json", by_alias=True)}, "", "")
        for phase in ("p", "q"):
            queue.ledger.add_arms(phase, [Arm(name="baseline", levels={})])
            queue.ledger.add_trials(phase, "baseline", [good, bad])
        queue.complete([good])
        found = status_of(stage.root, "toy")
        assert (found.state, found.trials.done, found.trials.queued) == ("running", 1, 1)
        assert found.controller is not None
        assert found.budget.model_dump() == {"trials": 7, "hours": None, "gpu_hours": 2.0}
        queue.complete([bad])
        queue.ledger.conclude("p", {"winner": "baseline"})
    request(stage.root, "toy", "stop")
    found = status_of(stage.root, "toy")
    assert (found.state, found.controller, found.requests) == ("stopped", None, 1)
    assert [(phase.name, phase.concluded, phase.winner, phase.failed) for phase in found.phases] == [
        ("p", True, "baseline", 1),
        ("q", False, None, 1),
    ]
    (failure,) = found.failures
    assert (failure.where, failure.cause) == (["p/baseline r1", "q/baseline r1"], Cause.NAN)
    assert found.used.trials == 2
    with stage.queue() as queue:
        queue.ledger.event("done", "")
    assert status_of(stage.root, "toy").state == "done"


def test_a_study_in_the_background_is_starting_before_it_holds_anything(tmp_path: Path) -> None:
    from ablate.execution.base import Identity

    background = Detached(tmp_path / "toy")
    background.directory.mkdir()
    Identity.own().write(background.identity)
    found = status_of(tmp_path, "toy")
    assert (found.state, found.trials.done, found.phases) == ("starting", 0, [])
    stage = Stage(tmp_path, executor="inline")
    with stage.queue() as queue:
        assert status_of(tmp_path, "toy").state == "running"
        queue.ledger.event("done", "")
    assert status_of(tmp_path, "toy").state == "done", "it still writes its report, but it is not starting"
    assert not background.end_before_it_began()
