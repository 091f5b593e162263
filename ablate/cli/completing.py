"""What a shell offers at TAB: study files, studies, arms and trials, from what lies here. It says nothing of what cannot be read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path

import typer

from ablate.errors import AblateError

HEAD_BYTES = 16 * 2**10
"""Of a YAML file, in which a study says that it is one."""

PLAIN = re.compile(r"[\w./,@%+-]+")
"""What Bash takes for one word as it stands; at `=` and `:` it breaks one while it completes."""

TORN = re.compile(r"""['"\\]""")
"""What typer's words for Zsh, which Zsh evaluates, do not carry: quotes are lost, and a backslash lets what follows it be run."""

Completer = Callable[[typer.Context, str], list[str]]


def _offers(find: Callable[[typer.Context, str], Iterable[str]]) -> Completer:
    """A completer of what begins so, each once, as the shell is to insert it."""

    @wraps(find)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            found = [word for word in dict.fromkeys(find(ctx, incomplete)) if word.startswith(incomplete)]
        except (AblateError, OSError):
            return []
        return [inserted for word in found if (inserted := _inserted(word, incomplete)) is not None]

    return complete


def _inserted(word: str, incomplete: str) -> str | None:
    """A word as Bash must get it; other shells quote by themselves. None: that shell cannot get it after what is typed.

    Arms have blanks, commas and `=` in their names, at which Bash would break the word. Inside a quote it does not, so a word begins
    with one, unless something was typed already: then what is left is escaped.
    """
    shell = os.environ.get("_ABLATE_COMPLETE")
    if shell == "complete_zsh" and TORN.search(word):
        return None
    if shell != "complete_bash" or PLAIN.fullmatch(word):
        return word
    inside, rest = word.replace("'", "'\\''"), word[len(incomplete) :]
    if _in_quote(incomplete):
        return inside
    if not incomplete:
        return f"'{inside}'"
    if not PLAIN.fullmatch(incomplete):
        return None
    return incomplete + "".join(letter if PLAIN.fullmatch(letter) else f"\\{letter}" for letter in rest)


def _in_quote(incomplete: str) -> bool:
    """Whether the word that is typed begins with a quote."""
    return os.environ.get("COMP_WORDS", "").endswith(f"'{incomplete}")


def _runs(ctx: typer.Context) -> Path:
    return Path(ctx.params.get("runs") or "runs")


def _files(incomplete: str) -> list[str]:
    """Study files in the folder that is typed, and in folders of this one where none is."""
    folder = Path(incomplete).parent if "/" in incomplete else Path()
    patterns = ["*.y*ml"] if "/" in incomplete else ["*.y*ml", "*/*.y*ml"]
    return sorted(str(path) for pattern in patterns for path in folder.glob(pattern) if _is_study(path))


def _is_study(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return any(line.startswith("study:") for line in file.read(HEAD_BYTES).splitlines())
    except (OSError, ValueError):
        return False


def _known(ctx: typer.Context) -> list[str]:
    from ablate.cli.finding import studies as names

    return names(_runs(ctx))


def _named(ctx: typer.Context) -> list[str]:
    """The study that was typed, as its file or its name; all that have run where none was."""
    from ablate.loading import study_name

    said = ctx.params.get("study")
    if said is None:
        return _known(ctx)
    return [study_name(Path(said)) if Path(said).suffix in (".yaml", ".yml") else str(said)]


@_offers
def study_file(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """A study file."""
    return _files(incomplete)


@_offers
def study(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """A study that has run here, or its file."""
    return [*_known(ctx), *_files(incomplete)]


@_offers
def study_name(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """A study that has run here."""
    return _known(ctx)


@_offers
def state(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """A state of a trial."""
    from ablate.trial import TrialState

    return [one.value for one in TrialState]


@_offers
def phase(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """A phase that has begun."""
    return [name for name, _ in _arms(ctx)]


@_offers
def arm(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """An arm as PHASE/ARM."""
    return [f"{name}/{one}" for name, one in _arms(ctx)]


@_offers
def arm_name(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """An arm by its name alone."""
    return [one for _, one in _arms(ctx)]


@_offers
def trial(ctx: typer.Context, incomplete: str) -> Iterable[str]:
    """A trial as PHASE/ARM/rN, or by its signature once something of it is typed."""
    from ablate.cli.finding import opened, place

    found: list[str] = []
    signatures: list[str] = []
    for name in _named(ctx):
        ledger = opened(_runs(ctx), name)
        try:
            uses = ledger.uses()
        finally:
            ledger.close()
        found += [place(use) for use in uses]
        signatures += [use.signature[:12] for use in uses] if incomplete else []
    return [*found, *signatures]


def _arms(ctx: typer.Context) -> list[tuple[str, str]]:
    from ablate.cli.finding import opened

    found: list[tuple[str, str]] = []
    for name in _named(ctx):
        ledger = opened(_runs(ctx), name)
        try:
            found += [(phase, arm.name) for phase in ledger.phases() for arm in ledger.arms(phase)]
        finally:
            ledger.close()
    return found
