"""Whatever dies, every trial ends once, with the result of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from stage import Stage, until

from ablate.errors import AblateError, LedgerError
from ablate.execution.base import WorkerFiles
from ablate.execution.watch import Limits, memory_bytes
from ablate.ledger import Ledger
from ablate.trial import Cause, TrialFiles, TrialSpec, TrialState


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "runs")
    yield stage
    stage.end_workers()


def finish(controller: subprocess.Popen[str], seconds: float = 30) -> tuple[int, str]:
    """Wait for a controller; whatever happens, it is gone afterwards."""
    try:
        output, _ = controller.communicate(timeout=seconds)
    finally:
        if controller.poll() is None:
            controller.kill()
            controller.communicate()
    return controller.returncode, output


def began(stage: Stage) -> int:
    return len(list(stage.counts.iterdir()))


def test_trials_survive_the_death_of_their_worker_and_are_told_apart_from_trials_that_kill_it(stage: Stage, tmp_path: Path) -> None:
    killed = stage.spec(0, steps=6, checkpoint_every=2, fault={"kind": "kill", "step": 3, "once": str(tmp_path / "once")})
    deadly = stage.spec(1, fault={"kind": "segfault", "step": 2})
    stage.attempts = 2
    stage.complete([killed, deadly, stage.spec(2)])
    stage.check_done([killed, stage.spec(2)])
    assert stage.starts(0) == [0, 2]
    assert stage.kinds(killed)[0] == "retry"
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    causes = [attempt.cause for attempt in ledger.attempts(killed.signature)]
    assert (causes[0], causes[-1]) == (Cause.LOST, None)
    record = stage.record(deadly)
    assert (record.state, record.cause) == (TrialState.FAILED, Cause.CRASH)
    assert "Fatal Python error: Segmentation fault" in record.message


def test_a_trial_that_hangs_is_killed_after_its_time(stage: Stage, tmp_path: Path) -> None:
    stage.timeout_min, stage.timing = 0.3 / 60, replace(stage.timing, stop_s=0.3)
    hangs = stage.spec(0, fault={"kind": "hang", "step": 2, "once": str(tmp_path / "once")})
    stage.complete([hangs])
    stage.check_done([hangs])
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    assert [attempt.cause for attempt in ledger.attempts(hangs.signature)] == [Cause.TIMEOUT, None]
    assert stage.starts(0) == [0, 2]


def test_a_trial_that_reports_nothing_more_is_killed_and_goes_on_from_its_checkpoint(stage: Stage, tmp_path: Path) -> None:
    stage.stall_min = 0.5 / 60
    hangs = stage.spec(0, steps=6, fault={"kind": "hang", "step": 3, "once": str(tmp_path / "once")})
    stage.complete([hangs, stage.spec(1)])
    stage.check_done([hangs, stage.spec(1)])
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    assert [attempt.cause for attempt in ledger.attempts(hangs.signature)] == [Cause.STALLED, None]
    assert stage.starts(0) == [0, 3]


@pytest.mark.slow
def test_trials_that_fill_memory_or_disk_are_ended_with_their_cause_and_the_others_go_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Limits, "of", staticmethod(lambda study, patience_s: Limits(memory_bytes=2**29, most_bytes=2**20)))
    stage.attempts = 2
    fills = stage.spec(0, fault={"kind": "fill", "step": 1})
    prints = stage.spec(1, fault={"kind": "print", "step": 1})
    stage.complete([fills, prints, stage.spec(2)])
    stage.check_done([stage.spec(2)])
    ledger = Ledger(stage.root / stage.name / "ledger.db", read_only=True)
    assert [attempt.cause for attempt in ledger.attempts(fills.signature)] == [Cause.OUT_OF_MEMORY] * 2
    assert "memory_per_trial_gib" in stage.record(fills).message
    assert [attempt.cause for attempt in ledger.attempts(prints.signature)] == [Cause.FLOOD], "it would do the same again"
    assert "Its log grew beyond" in stage.record(prints).message


def test_the_largest_trial_goes_where_the_machine_has_no_memory_left(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.execution.watch.LARGE", 2**28 / psutil.virtual_memory().total)
    monkeypatch.setattr("ablate.execution.pool.memory_is_low", lambda: held_by_workers(stage) > 2**28)
    stage.attempts = 1
    fills, small = stage.spec(0, fault={"kind": "fill", "step": 1}), stage.spec(1, steps=40, step_s=0.05)
    stage.complete([fills, small])
    stage.check_done([small])
    assert stage.record(fills).cause is Cause.OUT_OF_MEMORY
    assert "of its trials this one took most" in stage.record(fills).message


def held_by_workers(stage: Stage) -> int:
    """Of the largest."""
    return max((memory_bytes(WorkerFiles(path.parent)) for path in (stage.root / stage.name / "workers").glob("*/worker.json")), default=0)


PLANTS = [
    "after submit 1",
    "after claim 3",
    "after record start 2",
    "after give 3",
    "before accept 2",
    "after accept 1",
    "after record end 3",
]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_controller_killed_anywhere_is_replaced_and_nothing_runs_twice(stage: Stage, plant: str) -> None:
    specs = [stage.spec(seed, steps=4, step_s=0.01) for seed in range(6)]
    code, output = finish(stage.start_controller(specs, plant))
    assert code == -signal.SIGKILL, output
    stage.complete(specs)
    stage.check_done(specs)
    assert [stage.starts(seed) for seed in range(6)] == [[0]] * 6


@pytest.mark.slow
def test_a_study_whose_processes_are_all_killed_five_times_ends_the_same(stage: Stage) -> None:
    specs = [stage.spec(seed, steps=20, step_s=0.02, checkpoint_every=2) for seed in range(8)]  # workers left alone finish two each
    draw = random.Random(7)
    for kill in range(5):
        before = began(stage)
        controller = stage.start_controller(specs)
        until(lambda before=before: began(stage) > before)  # type: ignore[misc]
        time.sleep(draw.uniform(0.0, 0.3))  # the point at which it dies is what varies
        controller.kill()
        finish(controller)
        if kill % 2 == 0:
            stage.end_workers()
    stage.complete(specs)
    stage.check_done(specs)
    for spec in specs:
        stage.check_nothing_done_again(spec)


@pytest.mark.slow
def test_workers_without_a_controller_finish_their_trial_and_go(stage: Stage) -> None:
    specs = [stage.spec(seed, steps=20, step_s=0.02) for seed in range(8)]
    controller = stage.start_controller(specs)
    until(lambda: began(stage) >= 2)
    os.killpg(controller.pid, signal.SIGKILL)
    finish(controller)
    until(lambda: not any(identity.process() for identity in stage.worker_identities()))
    started = began(stage)
    assert started < 8, "a worker whose controller is gone takes nothing new for ever"
    assert len(list(stage.root.glob("trials/*/attempts/*/outcome.json"))) == started
    stage.complete(specs)
    stage.check_done(specs)
    assert [stage.starts(seed) for seed in range(8)] == [[0]] * 8


def test_an_attempt_that_was_given_up_does_not_count_when_its_worker_wakes_up(stage: Stage) -> None:
    spec = stage.spec(0, steps=30, step_s=0.02)
    controller = stage.start_controller([spec])
    until(lambda: began(stage) == 1)
    controller.kill()
    finish(controller)
    ledger = Ledger(stage.root / stage.name / "ledger.db")
    ledger.finish_attempt(spec.signature, 1, cause=Cause.STOPPED, message="given up", seconds=0.0)
    ledger.close()
    stage.complete([spec])
    stage.check_done([spec])
    assert stage.record(spec).attempt == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_stops_cleanly_with_the_checkpoints_kept(stage: Stage, number: signal.Signals) -> None:
    specs = [stage.spec(seed, steps=40, step_s=0.02, checkpoint_every=1000) for seed in range(2)]
    controller = stage.start_controller(specs)
    until(lambda: began(stage) == 2)
    os.killpg(controller.pid, number)
    code, output = finish(controller)
    assert code == 3, output
    assert "Nothing is lost" in output
    stage.complete(specs)
    stage.check_done(specs)
    assert all(len(stage.starts(seed)) == 2 and stage.starts(seed)[1] > 0 for seed in range(2))


def test_the_orders_of_a_worker_killed_from_outside_go_to_another(stage: Stage) -> None:
    stage.workers = 1
    specs = [stage.spec(seed, steps=10, step_s=0.02) for seed in range(3)]

    def kill_first_worker(_: object) -> None:
        if began(stage) == 1 and not killed:
            killed.extend(stage.worker_identities())
            killed[0].kill()

    killed: list = []
    with stage.queue(kill_first_worker) as queue:
        queue.complete(specs)
    stage.check_done(specs)
    assert [len(stage.starts(seed)) for seed in range(3)] == [2, 1, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "counts").mkdir()
    stage = Stage(small_disk / "runs", executor="inline")
    specs: list[TrialSpec] = [
        TrialSpec(s.signature, s.replicate, {**s.config, "counts": str(tmp_path / "counts")}, s.trainer, "", "")
        for s in (stage.spec(seed) for seed in range(6))
    ]
    stage.complete(specs[:2])
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(LedgerError, match=r"full.*run the same command again"):
        stage.complete(specs)
    ballast.unlink()
    stage.complete(specs)
    stage.check_done(specs)


@pytest.fixture
def closed(stage: Stage) -> Iterator[Path]:
    """The `runs` folder, with a finished trial in it, for somebody who may only read it (root may write anywhere)."""
    stage.complete([stage.spec(0)])
    for above in stage.root.parents:
        if above.is_relative_to(tempfile.gettempdir()) and above != Path(tempfile.gettempdir()):
            above.chmod(above.stat().st_mode | 0o055)
    folders = [stage.root, *(path for path in stage.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    yield stage.root
    if os.geteuid() == 65534:
        os.seteuid(0)
    for folder in folders:
        folder.chmod(0o755)


def test_a_folder_that_may_not_be_written_is_said_with_its_mend(stage: Stage, closed: Path) -> None:
    with pytest.raises(AblateError, match=r"writable"):
        stage.complete([stage.spec(1)])
    again = Stage(closed.parent / "other")
    with pytest.raises(AblateError, match=r"writable"):
        again.complete([again.spec(1)])


def test_no_process_of_a_queue_outlives_it(stage: Stage) -> None:
    before = {process.pid for process in psutil.process_iter()}
    stage.complete([stage.spec(seed) for seed in range(3)])

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid not in before and str(stage.root) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    until(lambda: not left(), seconds=5)


def test_the_command_that_a_failure_names_runs_the_trial_alone(stage: Stage) -> None:
    stage.executor = "inline"
    spec = stage.spec(0, fault={"kind": "crash", "step": 2})
    stage.attempts = 1
    stage.complete([spec])
    command = stage.record(spec).message.partition("To run it alone: ")[2].split()
    here = Path(__file__).parents[2] / "contracts"
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "crash: RuntimeError: planted crash" in done.stderr
    assert TrialFiles(stage.root, spec.signature).attempt(2).outcome.exists()
