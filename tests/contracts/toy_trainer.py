"""A trainer without torch: a sum that depends on every step, checkpoints, and faults on demand.

Config: `steps`, `seed`, `step_s`, `checkpoint_every`, `save_s` (seconds that a checkpoint takes), `counts` (folder in which each start
leaves a file), `fault`, `gain` (added at each step), `probed` (report the objective at each step too), `environment` (a variable whose
value it leaves in `environment.json`).
A fault that names a file (`once`) strikes only while that file is absent, and creates it; one with `while` strikes as long as
that file is there, one with `seed` in that replicate alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    pass


def train(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    return _summed(config, run, lambda step: ((step + 1) * 7919 + config["seed"] * 104729) % 1009 / 1009)


def _summed(config: Mapping[str, Any], run: Any, share: Callable[[int], float]) -> dict[str, float]:
    checkpoint = run.directory / "checkpoint.json"
    start, total = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, 0.0)
    if "counts" in config:
        (Path(config["counts"]) / f"{config['seed']}-from-{start}-{time.monotonic_ns()}").touch()
    (run.directory / ".start").write_text(str(start))  # hidden: never carried over to a later attempt
    if "environment" in config:
        (run.directory / "environment.json").write_text(json.dumps(os.environ.get(config["environment"])))
    print(f"training from {start}", flush=True)
    for step in range(start, config["steps"]):
        strike(config, step)
        total += share(step)
        total += config.get("gain", 0.0) * (1 + 0.01 * config["seed"])
        time.sleep(config.get("step_s", 0.0))
        go_on = run.report(step, {"train/total": total} | ({"probe/total": total} if config.get("probed") else {}))
        if (step + 1) % config.get("checkpoint_every", 1) == 0 or not go_on:
            time.sleep(config.get("save_s", 0.0))
            beside = run.directory / ".checkpoint"
            beside.write_text(json.dumps([step + 1, total]))
            os.replace(beside, checkpoint)
        if not go_on:
            return {}
    (run.directory / "summary.json").write_text(json.dumps({"collapse": "none"}))
    return {"probe/total": total, **{name: float(value) for name, value in config.get("extra", {}).items()}}


def strike(config: Mapping[str, Any], step: int) -> None:
    fault = config.get("fault")
    if fault is None or step != fault["step"] or config["seed"] != fault.get("seed", config["seed"]):
        return
    if "while" in fault and not Path(fault["while"]).exists():
        return
    if "once" in fault:
        if Path(fault["once"]).exists():
            return
        Path(fault["once"]).touch()
    match fault["kind"]:
        case "crash":
            raise RuntimeError("planted crash")
        case "nan":
            raise FloatingPointError("planted nan")
        case "memory":
            raise MemoryError("planted")
        case "invalid":
            raise ConfigError("planted: no such crop")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(600)
        case "fill":
            held = []
            while True:
                held.append(b"x" * 2**24)
                time.sleep(0.01)
        case "print":
            while True:
                print("x" * 2**16, flush=True)


def train_together(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    """The same sum by several ranks that meet where torch's variables say: each adds its share of every step, rank 0 keeps the books.

    `rank_fault` is a `fault` of rank 1 alone.
    """
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    print(f"rank {rank} of {ranks}", flush=True)
    if rank > 0:
        with contextlib.closing(_joined(place)) as lines:
            for line in lines:
                step = int(line)
                strike({"seed": config["seed"], "fault": config.get("rank_fault")}, step)
                lines.write(f"{((step + 1) * 7919 + config['seed'] * 104729) % 1009 / ranks}\n")
                lines.flush()
        return {"probe/total": -1.0}  # nobody hears it
    with socket.create_server(place) as server:
        others = [server.accept()[0].makefile("rw") for _ in range(ranks - 1)]

    def share(step: int) -> float:
        for other in others:
            other.write(f"{step}\n")
            other.flush()
        own = ((step + 1) * 7919 + config["seed"] * 104729) % 1009 / ranks
        answers = [other.readline() for other in others]
        if "" in answers:
            raise ConnectionError("another rank hung up")
        return round(own + sum(map(float, answers))) / 1009

    try:
        return _summed(config, run, share)
    finally:
        for other in others:
            other.close()


def _joined(place: tuple[str, int]) -> Any:
    for _ in range(500):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(place) as one:
            return one.makefile("rw")
        time.sleep(0.02)
    raise ConnectionError(f"rank 0 is not at {place}")


def forget(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    """Saves nothing."""
    for step in range(config["steps"]):
        time.sleep(config["step_s"])
        if not run.report(step, {"train/total": 0.0}):
            return {}
    return {"probe/total": 0.0}
