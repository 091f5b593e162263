"""Study file -> Study, with every problem reported at once, each with its path and its mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ablate.errors import StudyError, TrainerError
from ablate.loading import checks, overrides, programs, reading, trainable, wording
from ablate.loading.problem import Problem, pruned
from ablate.offers import Offers, callable_problem
from ablate.study import Study, Trainer

__all__ = ["again", "load", "study_name"]


def load(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read, override and check a study file; nothing is run.

    The study's baseline comes back complete: beside what the file says it holds the trainer's own value of every setting that
    some phase touches, so that arms compare exactly. Numbers have the type that the trainer's schema gives them.

    Args:
        changes: `key=value` from the command line: a place in the study file, or a setting of the trainer.

    Raises:
        StudyError: Every problem of the file and of the overrides.
    """
    document, problems = reading.read_file(path)
    return _checked(document, problems, changes, path)


def again(study: Study, changes: Sequence[str] = ()) -> Study:
    """A study as it was run, under other settings and checked as its file would be; the file itself need not be there any more.

    Raises:
        StudyError: Every problem of the overrides.
    """
    return _checked(study.model_dump(mode="json", by_alias=True, exclude_defaults=True), [], changes, None)


def _checked(document: dict[str, object], problems: list[Problem], changes: Sequence[str], path: Path | None) -> Study:
    """A document with the overrides in it, checked.

    Args:
        path: Of its file; none: it has been run, and the study that may follow it is not looked for.
    """
    document, offers, found = _overridden(checks.with_dotted_levels(document), changes)
    document, unread = programs.resolved(checks.with_dotted_levels(document))
    problems += found + unread + programs.kinds(document) + programs.problems_of(document) + programs.viewer(document)
    problems += checks.names(document) + checks.guards(document) + checks.shapes(document)
    if offers is not None:
        problems += checks.settings(document, offers)
        document = checks.coerced(document, offers)
    study, found = _validated(document)
    problems += found + (checks.companion(document, path) if path is not None else [])
    if problems:
        # What has no problem of its own is checked further, so that one mistake hides no other.
        study, _ = _validated(pruned(document, problems))
    if study is not None and offers is not None:
        if any(problem.keys[:2] == ("trainer", "set") for problem in problems):
            offers = Offers(study.trainer)
        study = trainable.completed(study, offers)
        problems += [p for p in trainable.problems_of(study, offers) if not _follows(p, problems)]
    if problems or study is None:
        raise StudyError(str(path or document.get("study")), list(dict.fromkeys(str(problem) for problem in problems)))
    return study


def _follows(problem: Problem, known: Sequence[Problem]) -> bool:
    """A phase without arms, where its factors have problems of their own."""
    return problem.text.startswith(trainable.NO_ARM) and any(p.keys[:2] == problem.keys for p in known)


def _validated(document: object) -> tuple[Study | None, list[Problem]]:
    try:
        return Study.model_validate(document), []
    except ValidationError as error:
        return None, wording.problems_of(error, document)


def study_name(path: Path) -> str:
    """The name that a study file gives its study; the rest of the file is not checked.

    Raises:
        StudyError: The file cannot be read or gives none.
    """
    document, _ = reading.read_file(path)
    name = document.get("study")
    if not isinstance(name, str):
        raise StudyError(str(path), [f"study: expected a name but got {wording.plain(name)}. Begin the file with `study: NAME`."])
    return name


def _overridden(document: dict[str, object], changes: Sequence[str]) -> tuple[dict[str, object], Offers | None, list[Problem]]:
    """The document with the overrides in it and the trainer that it names after them."""
    of_trainer = [change for change in changes if change.startswith("trainer.")]
    first, _ = overrides.apply(document, of_trainer, None)
    offers, problems = _offers(first)
    settings = None if offers is None else offers.setting_types()
    changed, mistakes = overrides.apply(document, changes, settings)
    if offers is not None and changed.get("trainer") != first.get("trainer"):
        offers, problems = _offers(changed)
    return changed, offers, problems + mistakes


def _offers(document: dict[str, object]) -> tuple[Offers | None, list[Problem]]:
    """The trainer that a document names, with what is wrong about it; none where it cannot be asked anything."""
    document, _ = programs.resolved(document)
    try:
        trainer = Trainer.model_validate(document.get("trainer"))
    except ValidationError:
        # The study's own validation reports what is wrong; ask the trainer without the settings that may be at fault.
        kept = document.get("trainer")
        keys = ("callable", "schema", "preset", "command", "base", "seed_key")
        try:
            trainer = Trainer.model_validate({k: v for k, v in kept.items() if k in keys} if isinstance(kept, dict) else kept)
        except ValidationError:
            return None, []
    problems = []
    try:
        offers = Offers(trainer)
    except TrainerError as error:
        return None, [Problem((), str(error))]
    mistake = callable_problem(trainer.callable) if trainer.callable is not None else None
    if mistake is not None:
        problems.append(Problem(("trainer", "callable"), mistake))
    try:
        offers.base()
    except TrainerError as error:
        problems.append(Problem((), str(error)))
        if trainer.preset is None:
            return None, problems
        return _offers({"trainer": trainer.model_dump(by_alias=True) | {"preset": None}})[0], problems
    return offers, problems
