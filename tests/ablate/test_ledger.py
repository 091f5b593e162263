"""The ledger: one writer, many readers, nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.errors import LedgerError, StudyChanged
from ablate.ledger import LOST_LIMIT, Ledger, Use, Used
from ablate.study import Arm, Budget
from ablate.trial import Cause, TrialSpec, TrialState


def spec(seed: int) -> TrialSpec:
    return TrialSpec(f"{seed:020d}", seed, {"seed": seed}, "m:f", "code", "data")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "study" / "ledger.db")
    yield ledger
    ledger.close()


def reader(ledger: Ledger) -> Ledger:
    return Ledger(ledger.path, read_only=True)


def fail(ledger: Ledger, trial: TrialSpec, cause: Cause | None, attempts: int = 3) -> TrialState:
    number = ledger.start_attempt(trial.signature, "w")
    return ledger.finish_attempt(trial.signature, number, cause=cause, message="m", seconds=1.0, attempts=attempts).state


def test_the_plan_is_kept_in_order_and_noted_once(ledger: Ledger) -> None:
    arms = [Arm(name="baseline", levels={}), Arm(name="b", levels={"x.y": [1, None]}), Arm(name="a", levels={"x.y": True})]
    for _ in range(2):
        for arm in arms:
            ledger.add_arms("flags", [arm])
            ledger.add_trials("flags", arm.name, [spec(0), spec(1)])
        ledger.add_arms("early", [arms[0]])
    assert ledger.phases() == ["flags", "early"]
    assert reader(ledger).arms("flags") == arms
    assert ledger.uses("flags") == [Use("flags", arm.name, r, spec(r).signature) for arm in arms for r in (0, 1)]
    assert [use.arm for use in ledger.uses(signature=spec(1).signature)] == ["baseline", "b", "a"]
    assert [trial.signature for trial in ledger.trials()] == [spec(0).signature, spec(1).signature]


def test_an_arm_or_a_replicate_that_became_another_is_refused(ledger: Ledger) -> None:
    ledger.add_arms("p", [Arm(name="a", levels={"x": 1})])
    ledger.add_trials("p", "a", [spec(0)])
    with pytest.raises(LedgerError, match="arm 'a' of phase 'p' is recorded with other levels"):
        ledger.add_arms("p", [Arm(name="a", levels={"x": 2})])
    with pytest.raises(LedgerError, match="replicate 0 of arm 'a'"):
        ledger.add_trials("p", "a", [TrialSpec("other", 0, {}, "m:f", "", "")])


def test_a_study_that_changed_is_told_every_difference(ledger: Ledger) -> None:
    document = {"study": {"alpha": 0.05, "phases": [{"name": "p"}]}, "base": {"loop": {"steps": 10}}}
    ledger.freeze(document, "code1", "data1")
    ledger.freeze(document, "code1", "data1")
    changed = {"study": {"phases": [{"name": "q"}], "new": 1}, "base": {"loop": {"steps": 20}}}
    with pytest.raises(StudyChanged) as caught:
        ledger.freeze(changed, "code2", "data2")
    assert caught.value.problems == (
        "base.loop.steps: 10 -> 20.",
        "study.alpha: 0.05 -> absent.",
        "study.new: absent -> 1.",
        'study.phases: [{"name": "p"}] -> [{"name": "q"}].',
        "the trainer's code: code1 -> code2.",
        "the data: data1 -> data2.",
    )
    assert "another name (`study:`)" in str(caught.value)
    frozen = reader(ledger).frozen()
    assert frozen is not None
    assert (frozen.document, frozen.code_version) == (document, "code1")


@pytest.mark.parametrize("cause", [Cause.NAN, Cause.INVALID])
def test_what_would_fail_again_gets_no_second_try(ledger: Ledger, cause: Cause) -> None:
    ledger.know([spec(0)])
    assert fail(ledger, spec(0), cause) is TrialState.FAILED


@pytest.mark.parametrize("cause", [Cause.CRASH, Cause.OUT_OF_MEMORY, Cause.TIMEOUT])
def test_other_failures_get_as_many_tries_as_the_study_says(ledger: Ledger, cause: Cause) -> None:
    ledger.know([spec(0)])
    assert [fail(ledger, spec(0), cause, attempts=2) for _ in range(2)] == [TrialState.QUEUED, TrialState.FAILED]


def test_stopped_attempts_never_count_and_lost_ones_have_a_limit_of_their_own(ledger: Ledger) -> None:
    ledger.know([spec(0)])
    assert {fail(ledger, spec(0), Cause.STOPPED) for _ in range(20)} == {TrialState.QUEUED}
    assert {fail(ledger, spec(0), Cause.LOST) for _ in range(LOST_LIMIT - 1)} == {TrialState.QUEUED}
    assert fail(ledger, spec(0), Cause.LOST) is TrialState.FAILED


CAUSES = st.lists(st.sampled_from([*Cause, None]), max_size=25)


@given(CAUSES, st.integers(1, 4))
@settings(max_examples=25)
def test_the_retry_rule_is_what_it_says(tmp_path_factory: pytest.TempPathFactory, causes: list[Cause | None], limit: int) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.db")
    ledger.know([spec(0)])
    tries = lost = 0
    with ledger.transaction():
        for cause in causes:
            state = fail(ledger, spec(0), cause, attempts=limit)
            tries += cause in (Cause.CRASH, Cause.OUT_OF_MEMORY, Cause.TIMEOUT, Cause.STALLED)
            lost += cause is Cause.LOST
            if cause is None:
                expected = TrialState.DONE
            elif cause in (Cause.NAN, Cause.INVALID, Cause.FLOOD) or tries >= limit or lost >= 10:
                expected = TrialState.FAILED
            else:
                expected = TrialState.QUEUED
            assert state is expected
            if state is not TrialState.QUEUED:
                break
    ledger.close()


def test_only_the_current_attempt_is_heard(ledger: Ledger) -> None:
    ledger.know([spec(0)])
    signature = spec(0).signature
    first = ledger.start_attempt(signature, "stalled")
    ledger.finish_attempt(signature, first, cause=Cause.LOST, message="", seconds=1)
    second = ledger.start_attempt(signature, "w", number=7)
    assert (first, second) == (1, 7)
    late = ledger.finish_attempt(signature, first, cause=None, message="", seconds=1)
    assert (late.state, late.attempt) == (TrialState.RUNNING, 7)
    assert ledger.finish_attempt(signature, second, cause=None, message="", seconds=2).state is TrialState.DONE
    again = ledger.finish_attempt(signature, second, cause=Cause.CRASH, message="", seconds=3)
    assert (again.state, again.cause, again.seconds, again.attempts) == (TrialState.DONE, None, 2.0, 2)


def test_what_fails_inside_a_transaction_leaves_no_trace(ledger: Ledger) -> None:
    def half_done() -> None:
        with ledger.transaction():
            ledger.know([spec(0)])
            ledger.event("kind", "text")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    assert ledger.trials() == []
    assert ledger.events() == []


def test_a_decision_is_stored_once(ledger: Ledger) -> None:
    ledger.conclude("p", {"winner": "a"})
    ledger.conclude("p", {"winner": "b"})
    ledger.conclude("early", {"winner": None})
    assert list(ledger.conclusions().items()) == [("p", {"winner": "a"}), ("early", {"winner": None})]


def test_the_budget_counts_over_sessions_and_each_trial_once(ledger: Ledger) -> None:
    ledger.know([spec(0), spec(1), spec(2)])
    fail(ledger, spec(0), Cause.CRASH)
    fail(ledger, spec(0), None)
    fail(ledger, spec(1), None)
    ledger.reuse(spec(2).signature, 4, 1.0)
    for seconds in (10.0, 5.0):
        session = ledger.begin_session()
        ledger.touch_session(session, seconds / 2)
        ledger.touch_session(session, seconds)
    used = reader(ledger).used()
    assert (used.trials, used.seconds) == (2, 15.0)
    assert used.started == {spec(0).signature, spec(1).signature}


def test_a_reader_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no such ledger\. Has the study run"):
        Ledger(tmp_path / "study" / "ledger.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
    Ledger(tmp_path / "ledger.db").close()
    found = Ledger(tmp_path / "ledger.db", read_only=True)
    found.trials()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]
    with pytest.raises(LedgerError, match="readonly"):
        found.event("kind", "text")


def test_a_reader_reads_while_the_controller_writes(ledger: Ledger) -> None:
    ledger.know([spec(0)])
    seen: list[list[TrialState]] = []
    with ledger.transaction():
        fail(ledger, spec(0), None)
        thread = threading.Thread(target=lambda: seen.append([trial.state for trial in reader(ledger).trials()]))
        thread.start()
        thread.join(5)
    assert seen == [[TrialState.QUEUED]]
    assert reader(ledger).trials()[0].state is TrialState.DONE


KILLED_IN_COMMIT = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=1")
db.execute("PRAGMA cache_spill=1")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE trials SET message = ?", ("x" * 200_000,))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_controller_killed_inside_a_commit_harms_neither_readers_nor_the_next(ledger: Ledger) -> None:
    ledger.know([spec(seed) for seed in range(200)])
    ledger.close()
    done = subprocess.run([sys.executable, "-c", KILLED_IN_COMMIT, str(ledger.path)], check=False)
    assert done.returncode == -signal.SIGKILL
    journal = Path(f"{ledger.path}-journal")
    assert journal.stat().st_size > 0
    content = ledger.path.read_bytes(), journal.read_bytes()
    assert {trial.message for trial in reader(ledger).trials()} == {""}
    assert (ledger.path.read_bytes(), journal.read_bytes()) == content
    again = Ledger(ledger.path)
    assert {trial.message for trial in again.trials()} == {""}
    assert not journal.exists()
    again.close()


def test_a_full_disk_is_said_with_its_mend_and_keeps_what_was_recorded(ledger: Ledger) -> None:
    ledger.know([spec(0)])
    with ledger.transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerError, match=r"full.*free some space and run the same command again"):
        ledger.event("kind", "x" * 100_000)
    assert len(ledger.trials()) == 1


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_damaged_ledger_is_said_with_its_mend(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(LedgerError, match=r"damaged\. Move it away"):
        Ledger(tmp_path / "ledger.db")
    with pytest.raises(LedgerError, match=r"damaged\. Move it away"):
        Ledger(tmp_path / "ledger.db", read_only=True)


def test_a_ledger_of_another_version_is_refused(ledger: Ledger) -> None:
    with ledger.transaction() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="expected a ledger of version 1 but got version 99"):
        reader(ledger)
    with pytest.raises(LedgerError, match="got version 99"):
        Ledger(ledger.path)


def test_an_unknown_trial_is_an_error_that_says_where_to_look(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match=r"no trial abc\. `ablate status study` lists them"):
        ledger.trial("abc")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"Not a directory|File exists"):
        Ledger(tmp_path / "file" / "ledger.db")
    assert os.listdir(tmp_path) == ["file"]


def test_a_budget_of_time_is_spent_beyond_its_hours_and_not_before() -> None:
    used = Used(trials=9, seconds=7200.0, started=frozenset(), gpu_seconds=3601.0)
    assert used.spent(Budget(trials=1, hours=2.0)) == ""
    assert used.spent(Budget(hours=1.5)).startswith("budget.hours: 2 of 1.5 hours are used.")
    assert used.spent(Budget(hours=3.0, gpu_hours=1.0)).startswith("budget.gpu_hours: 1 of 1 GPU-hours are used.")
