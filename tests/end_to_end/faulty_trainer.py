"""A trainer of no steps whose results are broken as a study asks.

Config: `a`, `b`, `c` (switches), `x` (a number), `steps` (0: untrained), `gains` (JSON: switch to what it adds to `score`; `a+b`: both
together) and `faults` (JSON: a list of `where` (settings, or [low, high]), `seeds` (none: all), `do` and `metric`, which it befalls).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any


def train(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    seed, switches = config["seed"], [name for name in "abc" if config.get(name)]
    own = random.Random(f"{seed}/{switches}/{config.get('x')}/{config['steps']}").gauss(0, 0.002)
    gains = json.loads(config["gains"])
    gained = sum(gain for name, gain in gains.items() if set(name.split("+")) <= set(switches))
    trained = config["steps"] > 0
    score = 0.3 + 0.01 * random.Random(seed).gauss(0, 1) + own + (gained if trained else -0.1) - 0.1 * abs(config.get("x", 0.5) - 0.5)
    metrics = {"score": score, "health": 0.9 + own}
    for fault in json.loads(config["faults"]):
        if seed in fault.get("seeds", [seed]) and all(stands(config.get(path), value) for path, value in fault["where"].items()):
            befall(metrics, fault.get("metric", "score"), fault["do"])
    return metrics


def stands(setting: Any, wanted: Any) -> bool:
    return bool(wanted[0] <= setting <= wanted[1]) if isinstance(wanted, list) else bool(setting == wanted)


def befall(metrics: dict[str, float], metric: str, what: str) -> None:
    """What a fault does to final metrics."""
    match what:
        case "fail":
            raise ValueError("planted failure")
        case "missing":
            del metrics[metric]
        case "nan":
            metrics[metric] = math.nan
        case "infinite":
            metrics[metric] = math.inf
        case "huge":
            metrics[metric] = 1e300 * (1 + metrics[metric])
        case "diverge":
            raise FloatingPointError("planted divergence")
        case "constant":
            metrics[metric] = 0.3
        case "other spelling":
            metrics[metric.upper()] = metrics.pop(metric)
        case "both spellings":
            metrics[metric.upper()] = metrics[metric] - 1
        case _:
            raise AssertionError(what)
