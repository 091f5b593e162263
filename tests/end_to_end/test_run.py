"""The main job as its users do it: real commands, real processes, the real trainer at a tiny size."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import time

import psutil
import pytest
import yaml
from workplace import Workplace, without_times

from trainer.config import compose


def test_a_run_ends_with_verdicts_the_report_and_the_way_to_mlflow(finished: Workplace) -> None:
    assert "winner of flags:" in finished.output
    assert "report: runs/tiny/report.html" in finished.output
    assert "ablate ui" in finished.output
    assert (finished.directory / "runs/tiny/report.html").stat().st_size < 15_000_000


def test_the_report_shows_what_the_network_learned_in_the_words_of_its_pictures(finished: Workplace) -> None:
    page = (finished.directory / "runs/tiny/report.html").read_text(encoding="utf-8")
    for name, words in (("gallery", "Crops of step"), ("prototypes", "prototypes hold 90%"), ("patches", "of the features&#x27; variance")):
        row = page.partition(f"<h3>{name}</h3>")[2].partition("<h3>")[0]
        assert row.count('src="data:image/png') >= 2, "the study's baseline and the arm beside it"
        assert row.count(words) >= 2


def test_the_report_document_has_every_phase_and_arm(finished: Workplace) -> None:
    document = finished.report()
    assert [phase["name"] for phase in document["phases"]] == ["flags", "thresholds"]
    names = [arm["name"] for arm in document["phases"][0]["arms"]]
    assert names[0] == "baseline"
    assert len(names) == 4 + 1
    assert "probe/local_to_global_mrr" in document["references"]["untrained"]["metrics"]
    assert set(document["thresholds"]) == {"crops.min_foreground_ratio"}


def test_the_all_off_cell_shares_the_baselines_trials(finished: Workplace) -> None:
    ledger = sqlite3.connect(f"file:{finished.directory}/runs/tiny/ledger.db?mode=ro", uri=True)
    trials = len(list((finished.directory / "runs/trials").iterdir()))
    uses = sum(3 for phase in finished.report()["phases"] for _ in phase["arms"])
    ledger.close()
    assert trials < uses + 2 * 3 + 6


def test_mlflow_holds_one_run_a_signature(finished: Workplace) -> None:
    store = sqlite3.connect(finished.directory / "runs/mlflow.db")
    signatures = [row[0] for row in store.execute("select value from tags where key = 'signature'")]
    store.close()
    assert len(signatures) == len(set(signatures)) == len(list((finished.directory / "runs/trials").iterdir()))


def test_the_same_command_again_runs_nothing_and_says_the_same(finished: Workplace) -> None:
    before = without_times(finished.report())
    done = finished.ablate("run", "tiny.yaml", "--no-mlflow")
    assert done.returncode == 0, done.stderr
    assert "started" not in done.stdout
    assert without_times(finished.report()) == before


@pytest.mark.parametrize("command", [["status", "tiny"], ["compare", "tiny"], ["plan", "tiny.yaml"], ["report", "tiny"]])
def test_every_reading_command_speaks_json(finished: Workplace, command: list[str]) -> None:
    done = finished.ablate(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["study"] == "tiny"


def test_tune_alone_starts_from_the_carried_winner_and_writes_the_thresholds(finished: Workplace) -> None:
    done = finished.ablate("tune", "tiny.yaml", "--no-mlflow", "--write", "found.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "started" not in done.stdout, "its trials are those of the main study"
    found = yaml.safe_load((finished.directory / "found.yaml").read_text())
    line = next(line for line in done.stdout.splitlines() if line.startswith("found.yaml has the settings"))
    taken = compose(shlex.split(line.partition("In one line: ")[2]))
    assert taken.crops.min_foreground_ratio == pytest.approx(found["crops"]["min_foreground_ratio"])


def test_a_changed_study_is_refused_with_what_changed(finished: Workplace) -> None:
    done = finished.ablate("run", "tiny.yaml", "objective.smallest_effect=0.5")
    assert done.returncode == 2
    assert "objective.smallest_effect" in done.stderr
    assert "0.02" in done.stderr


def test_a_misspelled_key_names_the_nearest(workplace: Workplace) -> None:
    workplace.study.write_text(workplace.study.read_text().replace("crops.foreground_crop_prob:", "crops.foreground_crop_probability:", 1))
    done = workplace.ablate("run", "tiny.yaml")
    assert done.returncode == 2
    assert "Did you mean crops.foreground_crop_prob?" in done.stderr
    assert not (workplace.directory / "runs").exists()


def test_levels_for_which_no_crop_is_feasible_are_refused_before_training(workplace: Workplace) -> None:
    workplace.study.write_text(
        workplace.study.read_text().replace(
            "crops.foreground_threshold: -500, crops.min_foreground_ratio: 0.5",
            "crops.foreground_threshold: 2500, crops.min_foreground_ratio: 0.9",
        )
    )
    done = workplace.ablate("run", "tiny.yaml")
    assert done.returncode == 2
    assert "feasible" in done.stderr
    assert not (workplace.directory / "runs/trials").exists()


def test_a_second_controller_is_refused_and_told_who_holds_the_study(workplace: Workplace) -> None:
    first = workplace.start("run", "tiny.yaml", "--no-mlflow")
    try:
        wait_for_trials(workplace, first, 1)
        second = workplace.ablate("run", "tiny.yaml")
        assert second.returncode == 2
        assert str(first.pid) in second.stderr
    finally:
        end(first, workplace)


def test_ctrl_c_leaves_the_study_resumable_and_says_so(finished: Workplace, workplace: Workplace) -> None:
    run = workplace.start("run", "tiny.yaml", "--no-mlflow")
    wait_for_trials(workplace, run, 2)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=90)
    assert run.returncode == 3, output
    assert "ablate run tiny.yaml" in output
    done = workplace.ablate("run", "tiny.yaml", "--no-mlflow")
    assert done.returncode == 0, done.stderr
    assert without_times(workplace.report()) == without_times(finished.report())


def test_killed_at_five_random_points_the_study_ends_with_the_same_table(finished: Workplace, workplace: Workplace) -> None:
    """SIGKILL, to the controller alone or to its workers as well."""
    dice = random.Random(5)
    kills = 0
    while kills < 5:
        run = workplace.start("run", "tiny.yaml", "--no-mlflow")
        wait_for_trials(workplace, run, 0)
        try:
            run.wait(timeout=dice.uniform(0.5, 6.0))
            break  # it ended before it could be killed
        except subprocess.TimeoutExpired:
            victims = workers_of(workplace) if dice.random() < 0.5 else []
            run.kill()
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            kills += 1
        run.communicate()
    assert kills >= 2
    done = workplace.ablate("run", "tiny.yaml", "--no-mlflow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.dumps(without_times(workplace.report())) == json.dumps(without_times(finished.report()))


def workers_of(workplace: Workplace) -> list[int]:
    """Process ids of everything that works in this folder, but for the controller and its followers."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if f"{workplace.directory}/runs/tiny/workers" in line:
            found.append(process.info["pid"])
    return found


def wait_for_trials(workplace: Workplace, run: subprocess.Popen[str], count: int) -> None:
    """Until the ledger is there and so many attempts have begun."""
    deadline = time.monotonic() + 60
    runs = workplace.directory / "runs"
    while not (runs / "tiny/ledger.db").exists() or len(list(runs.glob("trials/*/attempts/*"))) < count:
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end(run: subprocess.Popen[str], workplace: Workplace) -> None:
    run.kill()
    run.communicate()
    for pid in workers_of(workplace):
        os.kill(pid, signal.SIGKILL)
