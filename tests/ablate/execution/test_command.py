"""Real commands behind the trainer's seam: followed, stopped, killed, resumed, and their ends named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ablate.command import Command
from ablate.execution.attempt import run_attempt
from ablate.execution.base import Order
from ablate.execution.command import left_checkpoint
from ablate.trial import AttemptFiles, Cause, Outcome, TrialFiles, TrialSpec, metric_line, read_metrics

STEPS = """
import json, os, signal, sys, time
out, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
first = json.load(open(sys.argv[5])) if "--resume" in sys.argv else 0
for step in range(first, steps):
    with open(out + "/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n")
    print(f"step {step} loss {1 / (step + 1)}")
    json.dump(step + 1, open(out + "/.part", "w")); os.replace(out + "/.part", out + "/state.json")
    time.sleep(pause)
"""


class Place:
    """One trial of one command."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trial = TrialFiles(root / "runs", "s")
        self.trial.directory.mkdir(parents=True)

    def say(self, script: str, *arguments: str, config: dict[str, Any] | None = None, **said: Any) -> None:
        """The trial's command: a Python script and how the study describes it."""
        path = self.root / "script.py"
        path.write_text(script)
        style = said.pop("config_style", "json")
        values = {"command": [sys.executable, "-S", str(path), *arguments], "config": style, "metrics": {"file": "metrics.jsonl"}}
        command = Command(**(values | said))
        spec = TrialSpec("s", 0, config or {"seed": 0}, "prog", "", "", command.model_dump(mode="json"))
        self.trial.spec.write_text(spec.to_json())

    def run(self, number: int = 1, asked: Callable[[], Cause | None] = lambda: None, **order: Any) -> Outcome:
        given = {"root": str(self.root / "runs"), "signature": "s", "attempt": number, "resume_from": None, "timeout_s": None, **order}
        return run_attempt(Order(**given), asked)

    def files(self, number: int = 1) -> AttemptFiles:
        return self.trial.attempt(number)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_a_command_gets_its_config_and_its_metrics_reach_the_stream(place: Place) -> None:
    script = (
        "import json, sys\n"
        "config = json.load(open(sys.argv[1]))\n"
        "with open(sys.argv[2] + '/metrics.jsonl', 'w') as file:\n"
        "    for step in range(4):\n"
        "        print(json.dumps({'step': step, 'train': {'loss': config['lr'] / (step + 1)}}), file=file)\n"
        "    print('garbage', file=file)\n"
        "    file.write(json.dumps({'step': 4, 'val': config['seed'], 'note': 'x'}))\n"
    )
    place.say(script, "{config}", "{directory}", config={"lr": 12.0, "seed": 7}, rename={"val": "val/seed"}, final="mean_2")
    outcome = place.run()
    assert (outcome.cause, outcome.metrics) == (None, {"train/loss": 3.5, "val/seed": 7.0})
    assert read_metrics(place.files()) == [
        (0, {"train/loss": 12.0}),
        (1, {"train/loss": 6.0}),
        (2, {"train/loss": 4.0}),
        (3, {"train/loss": 3.0}),
        (4, {"val/seed": 7.0}),
    ]
    assert json.loads(place.files().summary.read_text()) == {"garbage_lines": 1}
    assert "1 lines of metrics could not be read" in place.files().log.read_text()


@pytest.mark.parametrize(
    ("style", "said", "expected"),
    [
        ("flags", {}, ["--a.b", "x y", "--on", "true", "--seed", "5"]),
        ("flags", {"flags": {"equals": True, "booleans": "switch"}}, ["--a.b=x y", "--on", "--seed=5"]),
        ("hydra", {}, ["a.b='x y'", "on=true", "seed=5"]),
    ],
)
def test_settings_reach_the_programs_own_arguments(place: Place, style: str, said: dict[str, Any], expected: list[str]) -> None:
    script = "import json, sys; print('argv', json.dumps(sys.argv[1:])); print('done 1')"
    place.say(
        script, config={"a": {"b": "x y"}, "on": True, "seed": 5}, config_style=style, metrics={"pattern": r"done (?P<done>\d)"}, **said
    )
    assert place.run().metrics == {"done": 1.0}
    line = next(line for line in place.files().log.read_text().splitlines() if line.startswith("argv"))
    assert json.loads(line.removeprefix("argv ")) == expected


def test_placeholders_environment_and_folder(place: Place) -> None:
    (place.root / "work").mkdir()
    script = "import os, sys; print('saw', sys.argv[1:], os.environ['MINE'], os.getcwd(), 'value 1')"
    place.say(
        script,
        "{python}",
        "{seed}",
        "{checkpoint}",
        "{print}",
        config={"seed": 3},
        cwd=str(place.root / "work"),
        environment={"MINE": 5},
        checkpoint={"file": "state.json", "argument": "--resume"},
        metrics={"pattern": r"value (?P<v>\d)"},
    )
    assert place.run().cause is None
    seen = place.files().log.read_text()
    directory = place.files().directory / "command"
    assert str([sys.executable, "3", str(directory / "state.json"), "{print}"]) in seen
    assert f" 5 {place.root / 'work'} " in seen


def test_a_result_file_stands_over_the_stream(place: Place) -> None:
    script = "import sys; open(sys.argv[1] + '/result.json', 'w').write('{\"test\": {\"acc\": 0.5}, \"loss\": 9}'); print('loss 1 other 2')"
    place.say(
        script,
        "{directory}",
        metrics={"pattern": r"loss (?P<loss>\d) other (?P<other>\d)"},
        result="result.json",
        rename={"test/acc": "acc"},
    )
    assert place.run().metrics == {"acc": 0.5, "loss": 9.0, "other": 2.0}


def test_a_result_file_of_an_earlier_attempt_does_not_count(place: Place) -> None:
    place.say("", metrics=None, result="result.json")
    earlier = place.files(1).directory / "command"
    earlier.mkdir(parents=True)
    (earlier / "result.json").write_text('{"loss": 1}')
    outcome = place.run(2, resume_from=1)
    assert outcome.cause is Cause.INVALID
    assert "trainer.result: expected a JSON object" in outcome.message


def test_nan_at_the_end_is_dropped_and_named(place: Place) -> None:
    place.say("print('loss 1'); print('loss nan')", metrics={"pattern": r"loss (?P<loss>\S+)"})
    outcome = place.run()
    assert (outcome.metrics, outcome.dropped) == ({}, ("loss",))


@pytest.mark.parametrize(
    ("script", "cause", "words"),
    [
        ("import sys; print('the reason'); sys.exit(3)", Cause.CRASH, "It ended with exit code 3. The end of its output: the reason"),
        ("raise RuntimeError('planted')", Cause.CRASH, "RuntimeError: planted"),
        ("raise MemoryError", Cause.OUT_OF_MEMORY, "MemoryError"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", Cause.OUT_OF_MEMORY, "exit code 1"),
        ("raise FloatingPointError('loss is nan')", Cause.NAN, "loss is nan"),
        ("import not_there", Cause.INVALID, "not_there"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--lrr', '1'])", Cause.INVALID, "unrecognized arguments: --lrr"),
        ("import os; os.kill(os.getpid(), 9)", Cause.LOST, "It was ended by SIGKILL"),
        ("import os; os.kill(os.getpid(), 15)", Cause.LOST, "It was ended by SIGTERM"),
        ("import os; os.kill(os.getpid(), 11)", Cause.CRASH, "It was ended by SIGSEGV"),
        ("print('nothing to see')", Cause.INVALID, "there is no metrics.jsonl in its {directory}"),
        ("import sys; open(sys.argv[1] + '/metrics.jsonl', 'w').write('no\\nno\\n')", Cause.INVALID, "metrics.jsonl has 2 lines"),
    ],
)
def test_an_end_without_a_result_has_a_cause_and_says_it(place: Place, script: str, cause: Cause, words: str) -> None:
    place.say(script, "{directory}")
    outcome = place.run()
    assert outcome.cause is cause, outcome.message
    assert words in outcome.message
    assert "\n" not in outcome.message


def test_a_program_that_is_not_there_is_said(place: Place) -> None:
    place.say("", command=["/no/such/program", "x"])
    outcome = place.run()
    assert (outcome.cause, outcome.message) == (
        Cause.INVALID,
        "Cannot start /no/such/program: No such file or directory. Mend trainer.command.",
    )


def test_secrets_are_not_in_messages(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    place.say("import os, sys; sys.exit(os.environ['MY_API_KEY'] + ' at https://me:pass@host/x')")
    message = place.run().message
    assert "*** at https://***@host/x" in message
    assert "hunter2" not in message


def test_a_stop_signal_lets_it_save_and_the_next_attempt_goes_on(place: Place) -> None:
    script = (
        "import json, signal, sys, time\n"
        "out, first = sys.argv[1], json.load(open(sys.argv[3])) if len(sys.argv) > 3 else 0\n"
        "def end(*_):\n"
        "    json.dump(step + 1, open(out + '/state.json', 'w')); sys.exit(0)\n"
        "signal.signal(signal.SIGUSR1, end)\n"
        "for step in range(first, 12):\n"
        "    print(f'step {step} loss {step}')\n"
        "    time.sleep(30 if step == 8 and first == 0 else 0.01)\n"
    )
    place.say(
        script,
        "{directory}",
        metrics={"pattern": r"step (?P<step>\d+) loss (?P<loss>\d+)"},
        checkpoint={"file": "state.json", "argument": ["--resume", "{checkpoint}"]},
        stop={"signal": "SIGUSR1", "wait_s": 20},
    )
    stream = place.files(1).metrics
    outcome = place.run(1, lambda: Cause.STOPPED if stream.exists() and len(stream.read_text().splitlines()) >= 9 else None)
    assert outcome.cause is Cause.STOPPED
    outcome = place.run(2, resume_from=1)
    assert (outcome.cause, outcome.metrics) == (None, {"loss": 11.0})
    assert f"--resume {place.files(2).directory / 'command' / 'state.json'}" in place.files(2).log.read_text()
    assert place.files(2).metrics.read_text() == "".join(metric_line(step, {"loss": float(step)}) for step in range(12))


def test_what_does_not_stop_is_killed_with_all_that_it_started(place: Place) -> None:
    script = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sleep = [sys.executable, '-S', '-c', 'import time; time.sleep(600)']\n"
        "inner = subprocess.Popen(sleep)\n"
        "detached = subprocess.Popen(sleep, start_new_session=True)\n"
        "start = 'import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True).pid)'\n"
        "subprocess.run([sys.executable, '-S', '-c', start, *sleep], stdout=open(sys.argv[1] + '/orphan', 'w'))\n"
        "print('pids', os.getpid(), inner.pid, detached.pid, open(sys.argv[1] + '/orphan').read())\n"
        "time.sleep(600)\n"
    )
    place.say(script, "{directory}", stop={"wait_s": 0.2})
    log = place.files().log
    outcome = place.run(1, lambda: Cause.TIMEOUT if log.exists() and "pids" in log.read_text() else None)
    assert outcome.cause is Cause.TIMEOUT
    pids = [int(pid) for pid in log.read_text().partition("pids")[2].split()]
    assert len(pids) == 4
    until(lambda: not any(map(psutil.pid_exists, pids)))


def test_nothing_that_a_command_started_outlives_its_good_end(place: Place) -> None:
    script = (
        "import subprocess, sys\n"
        "sleep = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print('value', sleep.pid)\n"
    )
    place.say(script, metrics={"pattern": r"value (?P<pid>\d+)"})
    outcome = place.run()
    assert outcome.cause is None
    until(lambda: not psutil.pid_exists(int(outcome.metrics["pid"])))


def test_a_command_whose_keeper_is_killed_is_lost_and_gone(place: Place) -> None:
    script = "import os, sys, time\nprint('pid', os.getpid())\nos.kill(os.getppid(), 9)\ntime.sleep(600)\n"
    place.say(script)
    outcome = place.run()
    assert (outcome.cause, outcome.message) == (Cause.LOST, "Its process was killed.")
    pid = int(place.files().log.read_text().partition("\npid ")[2])
    until(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize("where", ["output", "metrics", "one line"])
def test_a_flood_is_ended_cut_off_and_named(place: Place, where: str) -> None:
    line = {"output": "print('x' * 999)", "metrics": 'print(\'{"step": 1, "loss": 2}\', file=file)', "one line": "print('x' * 999, end='')"}
    place.say(
        f"import sys\nwith open(sys.argv[1] + '/metrics.jsonl', 'w') as file:\n    while True:\n        {line[where]}\n",
        "{directory}",
        limits={"output_mib": 1, "metrics_mib": 1},
    )
    outcome = place.run()
    assert outcome.cause is Cause.FLOOD
    assert "grew beyond 1 MiB" in outcome.message
    size = (place.files().directory / "command/metrics.jsonl" if where == "metrics" else place.files().log).stat().st_size
    assert size < 1.1 * 2**20


def test_garbage_in_the_stream_is_counted_and_the_trial_ends_well(place: Place) -> None:
    script = (
        "import os, sys\n"
        "with open(sys.argv[1] + '/metrics.jsonl', 'wb') as file:\n"
        '    file.write(os.urandom(200_000) + b\'\\n{"step": 1, "loss": 2}\\n\')\n'
    )
    place.say(script, "{directory}")
    assert place.run().metrics == {"loss": 2.0}
    assert json.loads(place.files().summary.read_text())["garbage_lines"] > 0


@pytest.mark.parametrize("source", ["file", "output"])
def test_a_killed_worker_takes_its_command_along_and_the_stream_has_no_gap(place: Place, source: str) -> None:
    metrics = {"file": "metrics.jsonl"} if source == "file" else {"pattern": r"step (?P<step>\d+) loss (?P<loss>\S+)"}
    resume = {"file": "state.json", "argument": ["--resume", "{checkpoint}"]}
    place.say(STEPS, "{directory}", "400", "0.005", metrics=metrics, checkpoint=resume)
    worker = subprocess.Popen(
        [sys.executable, "-m", "ablate.execution.worker", str(place.trial.directory)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    state = place.files(1).directory / "command/state.json"
    until(lambda: state.exists() and json.loads(state.read_text()) > 30)
    started = psutil.Process(worker.pid).children(recursive=True)
    # It no longer reads while the command goes on: what it did not see must not be missing later.
    os.kill(worker.pid, signal.SIGSTOP)
    seen = json.loads(state.read_text())
    until(lambda: json.loads(state.read_text()) > seen + 20)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    until(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in started))
    place.say(STEPS, "{directory}", str(json.loads(state.read_text()) + 20), "0", metrics=metrics, checkpoint=resume)
    outcome = place.run(2, resume_from=1)
    assert outcome.cause is None
    steps = json.loads((place.files(2).directory / "command/state.json").read_text())
    lines = [json.loads(line) for line in place.files(2).metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines}) == list(range(steps))
    assert "--resume" in place.files(2).log.read_text()


def test_without_a_checkpoint_to_go_on_from_the_folder_is_new(place: Place) -> None:
    place.say(
        "import os, sys; print('files', len(os.listdir(sys.argv[1])) - 1)",
        "{directory}",
        metrics={"pattern": r"files (?P<files>\d)"},
        checkpoint={"file": "*.pt", "argument": "--resume {checkpoint}"},
    )
    earlier = place.files(1).directory / "command"
    earlier.mkdir(parents=True)
    (earlier / "half").touch()
    assert place.run(2, resume_from=1).metrics == {"files": 0.0}
    (earlier / "1.pt").touch()
    (earlier / "2.pt").touch()
    os.utime(earlier / "1.pt", (2e9, 2e9))
    assert place.run(3, resume_from=1).metrics == {"files": 3.0}
    assert place.files(3).log.read_text().splitlines()[0].endswith("--resume " + str(place.files(3).directory / "command/1.pt"))


def test_a_torn_last_line_of_a_killed_program_costs_no_other(place: Place) -> None:
    place.say("import sys; open(sys.argv[1] + '/metrics.jsonl', 'a').write('{\"step\": 2, \"loss\": 3}\\n')", "{directory}")
    earlier = place.files(1).directory / "command"
    earlier.mkdir(parents=True)
    (earlier / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n{"step": 1, "loss": 2}\n{"step": 2, "lo')
    place.files(1).metrics.write_text(metric_line(0, {"loss": 1.0}))
    assert place.run(2, resume_from=1).cause is None
    assert place.files(2).metrics.read_text() == "".join(metric_line(step, {"loss": step + 1.0}) for step in range(3))


def test_metrics_arrive_while_the_command_runs(place: Place) -> None:
    place.say(
        "import sys\nprint('step 1 loss 2')\nwhile not __import__('os').path.exists(sys.argv[1] + '/go'): pass",
        "{directory}",
        metrics={"pattern": r"step (?P<step>\d+) loss (?P<loss>\d+)"},
    )
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(place.run()))
    thread.start()
    until(lambda: read_metrics(place.files()))
    (place.files().directory / "command/go").touch()
    thread.join()
    assert found[0].metrics == {"loss": 2.0}


@pytest.mark.parametrize(
    ("said", "files", "goes_on"),
    [
        ({}, ["metrics.jsonl", "config.json"], False),
        ({}, ["metrics.jsonl", "own/state.pt"], True),
        ({"checkpoint": {"file": "state.json", "argument": "--resume {checkpoint}"}}, ["metrics.jsonl", "other"], False),
        ({"checkpoint": {"file": "*.json", "argument": "--resume {checkpoint}"}}, ["state.json"], True),
    ],
)
def test_a_command_goes_on_from_its_checkpoint_or_from_files_of_its_own(
    tmp_path: Path, said: dict[str, Any], files: list[str], goes_on: bool
) -> None:
    command = Command(**{"command": ["prog"], "config": "json", "metrics": {"file": "metrics.jsonl"}, **said})  # type: ignore[arg-type]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert left_checkpoint(command, tmp_path) is goes_on
