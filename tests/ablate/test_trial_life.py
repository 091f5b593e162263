"""docs/TRIAL.md against the code: every transition is tried on a real ledger."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ablate.errors import LedgerError
from ablate.ledger import Ledger
from ablate.trial import Cause, TrialSpec, TrialState

PAGE = (Path(__file__).parents[2] / "docs" / "TRIAL.md").read_text(encoding="utf-8")
START = "[*]"
SPEC = TrialSpec("s" * 20, 0, {}, "m:f", "", "")
CAUSES: tuple[Cause | None, ...] = (None, *Cause)


def drawn(number: int) -> list[tuple[str, str, str]]:
    """The arrows of the page's n-th drawing: from, to, label."""
    drawing = re.findall(r"```mermaid\n(.*?)```", PAGE, flags=re.S)[number]
    return re.findall(r"^\s*(\S+) --> (\S+): (.+)$", drawing, flags=re.M)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


def operations(cause: Cause | None, attempts: int) -> dict[str, Callable[[Ledger], object]]:
    """Everything that changes a trial's row, by the ledger's own names."""

    def finish(ledger: Ledger) -> None:
        number = max((one.number for one in ledger.attempts(SPEC.signature)), default=1)
        ledger.finish_attempt(SPEC.signature, number, cause=cause, message="", seconds=1.0, attempts=attempts)

    return {
        "know": lambda ledger: ledger.know([SPEC]),
        "start_attempt": lambda ledger: ledger.start_attempt(SPEC.signature, "w"),
        "finish_attempt": finish,
        "reuse": lambda ledger: ledger.reuse(SPEC.signature, 1, 1.0),
        "requeue": lambda ledger: ledger.requeue(SPEC.signature),
        "retry": lambda ledger: ledger.retry(SPEC.signature),
    }


def state(ledger: Ledger) -> str:
    """The trial's state; the start where there is no row."""
    return next((str(record.state) for record in ledger.trials()), START)


class _Undone(Exception):
    """Rolls a transaction back."""


def walked(ledger: Ledger) -> set[tuple[str, str, str]]:
    """Every arrow that the code has: each operation tried in each state that is reached, from there on again."""
    found: set[tuple[str, str, str]] = set()

    def explore(path: list[Callable[[Ledger], object]], seen: str) -> None:
        for cause in CAUSES:
            for attempts in (1, 3):
                for name, operation in operations(cause, attempts).items():
                    now = START
                    with suppress(_Undone), ledger.transaction():
                        for step in path:
                            step(ledger)
                        with suppress(LedgerError):
                            operation(ledger)
                        now = state(ledger)
                        raise _Undone
                    if now != seen and (seen, now, name) not in found:
                        found.add((seen, now, name))
                        if not any(arrow[0] == now for arrow in found):
                            explore([*path, operation], now)

    explore([], START)
    return found


def test_the_drawing_of_a_trial_is_what_the_ledger_does(ledger: Ledger) -> None:
    arrows = drawn(0)
    assert set(arrows) == walked(ledger)
    assert len(arrows) == len(set(arrows))
    assert {name for arrow in arrows for name in arrow[:2]} == {START, *TrialState}


def test_the_ledger_has_no_other_way_to_change_a_trial() -> None:
    changing = {name for name in vars(Ledger) if not name.startswith("_")} & {label for *_, label in drawn(0)}
    assert changing == set(operations(None, 3))
    source = (Path(__file__).parents[2] / "ablate" / "ledger" / "book.py").read_text(encoding="utf-8")
    book, _, rest = source.partition("\n\n\ndef ")
    built = re.findall(r"^(_\w+) = \(?\s*update\(tables\.trials\)", rest, flags=re.M)
    assert len(built) == rest.count("update(tables.trials)") - rest.count("return update(tables.trials)")
    writes = re.compile(rf"(update|upsert)\(tables\.trials\)|_in_state\(signature, |\b({'|'.join(built)})\b")
    writers = {method.split("(")[0] for method in re.split(r"\n    def ", book) if writes.search(method)}
    assert writers == set(operations(None, 3))


def test_an_attempt_ends_with_a_result_or_any_of_the_causes() -> None:
    arrows = drawn(1)
    assert set(arrows) == {(START, "open", "start_attempt"), ("open", "result", "no cause"), *(("open", str(c), "cause") for c in Cause)}


def test_the_table_of_causes_is_the_retry_rule(ledger: Ledger) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (?:(\d+) attempts?|never) \|$", PAGE, flags=re.M))
    assert rows.keys() == {str(cause) for cause in Cause}
    for index, cause in enumerate(Cause):
        spec = TrialSpec(f"{index:020d}", 0, {}, "m:f", "", "")
        needed = ""
        with ledger.transaction():
            ledger.know([spec])
            for count in range(1, 30):
                number = ledger.start_attempt(spec.signature, "w")
                record = ledger.finish_attempt(spec.signature, number, cause=cause, message="", seconds=1.0, attempts=3)
                if record.state is TrialState.FAILED:
                    needed = str(count)
                    break
        assert rows[str(cause)] == needed, cause
