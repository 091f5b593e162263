"""What a trial that does nothing costs, beside what people would otherwise use.

    PYTHONPATH=. python benchmarks/overhead.py [TRIALS] [REPETITIONS]

Wall time / trials with two slots; for us up to the committed ledger, workers warm. Peers run a smaller, stated number of trials: Hydra's
basic launcher (one process, one job after the other) and its joblib launcher (two processes), submitit local (one job a trial, two at a
time), Optuna with SQLite (two threads), Ray Tune (two CPUs; Ray started and two trials run beforehand).
"Files alone" is the floor of ours: what a trial leaves on the disk so that no kill and no power failure loses or doubles it, written by
one process that does nothing else. Repetitions alternate between all of them. CPU time is that of this process and the children that have
ended.
"""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from ablate.execution.pool import Queue
from ablate.trial import sync, write_atomic
from benchmarks.nothing import TRAINER, open_ledger, specs, study
from benchmarks.side import PEERS, have_peers

ROOT = Path(__file__).resolve().parents[1]
WARM = 20
PEER_TRIALS = {"files alone": 200, "Hydra basic multirun": 50, "submitit local": 6, "Optuna + SQLite": 100}
FAR_TRIALS = {"Hydra joblib launcher": 50, "Ray Tune": 10}
"""Those of the peers' environment (`make peers`); left out where it does not stand."""

HYDRA = """
import sys, hydra
from omegaconf import DictConfig
@hydra.main(version_base=None, config_path=None)
def main(config: DictConfig) -> float:
    return float(config.seed)
main()
"""


def ours(trials: int, folder: Path) -> float:
    """Seconds a trial; all of them are in the ledger as done."""
    root = folder / "runs"
    ledger = open_ledger(root, "nothing")
    try:
        with Queue(ledger, root, study("nothing"), on_event=lambda event: None) as queue:
            queue.complete(specs(0, WARM))
            wanted = specs(WARM, trials)
            began = time.perf_counter()
            queue.complete(wanted)
            seconds = time.perf_counter() - began
        done = sum(record.state.value == "done" for record in ledger.trials())
        if done != WARM + trials:
            raise RuntimeError(f"expected {WARM + trials} trials done in the ledger but got {done}.")
    finally:
        ledger.close()
    return seconds / trials


def files_alone(trials: int, folder: Path) -> float:
    """Seconds a trial for its files alone: folders, specification, claim, order, mark, stream, outcome, acceptance, and a row of a database
    that is committed for two trials at a time."""
    inbox, trials_at = folder / "inbox", folder / "trials"
    inbox.mkdir()
    trials_at.mkdir()
    text = json.dumps({"config": {"seed": 0, "points": 0}, "trainer": TRAINER, "code": "code", "data": ""})
    with closing(sqlite3.connect(folder / "rows.db", isolation_level=None)) as rows:
        rows.execute("PRAGMA journal_mode=DELETE")
        rows.execute("PRAGMA synchronous=FULL")
        rows.execute("CREATE TABLE trials (signature TEXT PRIMARY KEY, state TEXT)")
        began = time.perf_counter()
        for number in range(trials):
            trial = trials_at / f"{number:032x}"
            attempt = trial / "attempts" / "1"
            attempt.mkdir(parents=True)
            (attempt / "claimed").write_text("nothing")
            write_atomic(trial / "trial.json", text)
            (inbox / "order").write_text(text)
            os.rename(inbox / "order", inbox / "current")
            write_atomic(attempt / "began.json", text, durable=False)
            for name in ("log.txt", "metrics.jsonl"):
                with (attempt / name).open("w") as file:
                    os.fsync(file.fileno())
            write_atomic(attempt / "outcome.json", text)
            (inbox / "current").unlink()
            write_atomic(trial / "accepted", text)
            sync(trial / "attempts")
            if number % 2 == 0:
                rows.execute("BEGIN")
            rows.execute("INSERT INTO trials VALUES (?, 'done')", (trial.name,))
            if number % 2 == 1 or number == trials - 1:
                rows.execute("COMMIT")
        return (time.perf_counter() - began) / trials


def hydra(trials: int, folder: Path, python: str = sys.executable, *launcher: str) -> float:
    """Seconds a job: a sweep of many less a sweep of one, so that start and imports are not counted."""
    script = folder / "app.py"
    script.write_text(HYDRA, encoding="utf-8")
    outputs = folder / "multirun"

    def run(count: int) -> float:
        seeds = ",".join(str(seed) for seed in range(count))
        began = time.perf_counter()
        command = [python, str(script), "-m", f"+seed={seeds}", f"hydra.sweep.dir={outputs / str(count)}", *launcher]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    start = run(1)
    return (run(trials + 1) - start) / trials


def submitit_local(trials: int, folder: Path) -> float:
    """Seconds a job, one job a trial, two at a time."""
    import submitit

    executor = submitit.LocalExecutor(folder / "jobs")
    executor.update_parameters(timeout_min=5)

    def one(seed: int) -> float:
        job = executor.submit(float, seed)
        return float(job.result())

    began = time.perf_counter()
    with ThreadPoolExecutor(2) as two:
        list(two.map(one, range(trials)))
    return (time.perf_counter() - began) / trials


def optuna_sqlite(trials: int, folder: Path) -> float:
    """Seconds a trial, two threads, each trial recorded in SQLite."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.create_study(storage=f"sqlite:///{folder / 'optuna.db'}", sampler=optuna.samplers.RandomSampler(seed=0))
    began = time.perf_counter()
    found.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials, n_jobs=2)
    return (time.perf_counter() - began) / trials


def hydra_joblib(trials: int, folder: Path) -> float:
    """The same in two processes."""
    return hydra(trials, folder, str(PEERS), "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def ray_tune(trials: int, folder: Path) -> float:
    """Seconds a trial, two at a time."""
    command = [str(PEERS), str(ROOT / "benchmarks/sides/ray_tune.py"), str(trials), str(folder)]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
    return float(done.stdout.split()[-1]) / trials


def cpu_s() -> float:
    """CPU seconds of this process and its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def everyone() -> dict[str, int]:
    """Trials of each peer that can be run here."""
    return PEER_TRIALS | (FAR_TRIALS if have_peers() else {})


def measure(trials: int, repetitions: int, peers: dict[str, int] | None = None) -> dict[str, list[tuple[float, float]]]:
    """Seconds of wall and of CPU a trial, by who, one pair a repetition; who runs first rotates."""
    counts = everyone() if peers is None else peers
    calls: dict[str, Callable[[int, Path], float]] = {
        "ablate": ours,
        "files alone": files_alone,
        "Hydra basic multirun": hydra,
        "submitit local": submitit_local,
        "Optuna + SQLite": optuna_sqlite,
        "Hydra joblib launcher": hydra_joblib,
        "Ray Tune": ray_tune,
    }
    who = [name for name in calls if name == "ablate" or name in counts]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in who}
    for repetition in range(repetitions):
        for name in who[repetition % len(who) :] + who[: repetition % len(who)]:
            count = trials if name == "ablate" else counts[name]
            with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
                before = cpu_s()
                wall = calls[name](count, Path(folder))
                found[name].append((wall, (cpu_s() - before) / count))
    return found


def main() -> None:
    trials, repetitions = (int(value) for value in (*sys.argv[1:3], *("1000", "5")[len(sys.argv[1:3]) :]))
    load = os.getloadavg()[0]
    found = measure(trials, repetitions)
    loads = f"load {load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end"
    print(f"{os.cpu_count()} cores, {loads}, {repetitions} alternating repetitions.\n")
    print("| | trials | wall ms a trial, median (range) | CPU ms a trial, start-up included | wall, times ours |")
    print("| --- | --- | --- | --- | --- |")
    base = statistics.median(wall for wall, _ in found["ablate"])
    for name, rows in found.items():
        walls, cpus = [1000 * wall for wall, _ in rows], [1000 * cpu for _, cpu in rows]
        middle = statistics.median(walls)
        count = trials if name == "ablate" else everyone()[name]
        spread = f"{min(walls):.1f} to {max(walls):.1f}"
        print(f"| {name} | {count} | {middle:.1f} ({spread}) | {statistics.median(cpus):.1f} | {middle / 1000 / base:.1f} |")


if __name__ == "__main__":
    main()
