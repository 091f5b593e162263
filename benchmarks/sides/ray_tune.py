"""Ray Tune: trials that return a number, two at a time; prints the seconds of `fit`, Ray's own start not counted."""

from __future__ import annotations

import os
import sys
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray
from ray import tune


def nothing(config: dict[str, int]) -> dict[str, float]:
    """A trial."""
    return {"total": float(config["seed"])}


def main() -> None:
    trials, folder = int(sys.argv[1]), sys.argv[2]
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, _node_ip_address="127.0.0.1")
    trainable = tune.with_resources(nothing, {"cpu": 1})

    def fit(count: int, name: str) -> float:
        space = {"seed": tune.grid_search(list(range(count)))}
        tuner = tune.Tuner(trainable, param_space=space, run_config=tune.RunConfig(storage_path=folder, name=name, verbose=0))
        began = time.perf_counter()
        results = tuner.fit()
        assert len(results) == count
        assert not results.errors
        return time.perf_counter() - began

    fit(2, "warm")
    print(fit(trials, "measured"), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
