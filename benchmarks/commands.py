"""What one who looks on waits for at 1,000 trials: `ablate --help`, `plan`, `status`, `report`; and the memory of each part.

    PYTHONPATH=. python benchmarks/commands.py [REPETITIONS] [ARMS]

A study of 125 arms with 8 replicates each, 50 points of two curves a trial, is run first (two local workers); its controller's memory is
taken from that run. Then each command is timed as a whole process, imports included, in turn. The live dashboard is looked at with
Chromium, page by page. The trainer's memory is that of a trial of `phantom_cpu` alone.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.side import ROOT, machine, spread

GOALS_S = {
    "ablate --help": 0.3,
    "ablate plan": 1.0,
    "ablate plan, studies/collapse.yaml, never run": 1.0,
    "ablate status": 1.0,
    "ablate report": 5.0,
}
REPLICATES = 8
STUDY = """
study: thousand
question: What does one who looks on wait for?
trainer: {callable: "benchmarks.nothing:noisy"}
baseline: {x: 0}
objective: {metric: probe/total, direction: maximize, smallest_effect: 0.1}
replicates: {start: REPLICATES, at_most: REPLICATES}
executor: local
workers: 2
phases:
  - {name: levels, design: one_at_a_time, factors: {x: LEVELS}, gate: {advance_if: any_adopted}}
"""


def used(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds of wall and CPU and greatest MiB of a process, its children's memory not counted."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: expected exit code 0 but got {process.returncode}. See above for why.")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def environment() -> dict[str, str]:
    """Ours, with the modules of this checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def ablate(*words: str) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "ablate", *words]


def dashboard_mib(folder: Path) -> float:
    """Memory of `ablate dashboard` after Chromium has opened its page and up to 20 of the pages that it links to."""
    from playwright.sync_api import sync_playwright

    command = ablate("dashboard", "thousand", "--no-browser", "--port", "0")
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, encoding="utf-8", env=environment())
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        if not found:
            raise RuntimeError(f"ablate dashboard: expected its address but got {said!r}.")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page()
            waiting = {"/"}
            seen: set[str] = set()
            while waiting - seen and len(seen) <= 20:
                path = min(waiting - seen)
                seen.add(path)
                page.goto(found[0] + path)
                page.wait_for_selector("#main > *")
                links = page.eval_on_selector_all("#main a[href^='/'], nav a[href^='/']", "all => all.map(a => a.getAttribute('href'))")
                waiting |= {link for link in links if "." not in link.split("?")[0]}
            browser.close()
        print(f"{len(seen)} pages of the dashboard opened", file=sys.stderr)
        return psutil.Process(process.pid).memory_info().rss / 2**20
    finally:
        process.terminate()  # a job of a background shell ignores Ctrl-C
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    arms = int(sys.argv[2]) if len(sys.argv) > 2 else 125
    with tempfile.TemporaryDirectory(prefix="commands-") as name:
        folder = Path(name)
        levels = json.dumps(list(range(arms)))
        (folder / "thousand.yaml").write_text(STUDY.replace("LEVELS", levels).replace("REPLICATES", str(REPLICATES)), encoding="utf-8")
        _, _, controller_mib = used(ablate("run", "thousand.yaml", "--no-mlflow", "--yes"), folder)
        commands = {
            "ablate --help": ablate("--help"),
            "ablate plan": ablate("plan", "thousand.yaml"),
            "ablate plan, studies/collapse.yaml, never run": ablate("plan", str(ROOT / "studies/collapse.yaml"), "--runs", "none"),
            "ablate status": ablate("status", "thousand"),
            "ablate report": ablate("report", "thousand"),
        }
        found: dict[str, list[tuple[float, float, float]]] = {command: [] for command in commands}
        for repetition in range(repetitions):
            names = list(commands)
            for command in names[repetition % len(names) :] + names[: repetition % len(names)]:
                found[command].append(used(commands[command], folder))
        dashboard = dashboard_mib(folder)
        _, _, trainer_mib = used([sys.executable, "-m", "trainer", "preset=phantom_cpu", "loop.steps=20", f"out={folder / 'one'}"], folder)
    print(f"{arms * REPLICATES} trials. {machine(repetitions)}\n")
    print("| | s (range) | CPU s | MiB | goal, s |\n| --- | --- | --- | --- | --- |")
    for command, runs in found.items():
        cpu, mib = (statistics.median(run[at] for run in runs) for at in (1, 2))
        print(f"| `{command}` | {spread([run[0] for run in runs], 2)} | {cpu:.2f} | {mib:.0f} | {GOALS_S[command]} |")
    print("\n| memory, MiB | | goal |\n| --- | --- | --- |")
    print(f"| controller (`ablate run`), {arms * REPLICATES} trials | {controller_mib:.0f} | 300 |")
    print(f"| live dashboard at {arms * REPLICATES} trials | {dashboard:.0f} | 500 |")
    print(f"| trainer, a trial of `phantom_cpu` | {trainer_mib:.0f} | stated |")


if __name__ == "__main__":
    main()
