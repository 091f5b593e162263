"""A polynomial fitted to noisy points by gradient descent: a Hydra application that knows nothing of `ablate`."""

import json
from pathlib import Path

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    dice = np.random.default_rng(cfg.seed)
    x = dice.uniform(-1, 1, 200)
    y = np.sin(3 * x) + 0.1 * dice.normal(size=200)
    features = np.stack([x**power for power in range(cfg.model.features)], axis=1)
    weights, velocity, first = np.zeros(cfg.model.features), np.zeros(cfg.model.features), 1
    checkpoint = folder / "checkpoint.npz"
    if checkpoint.exists():
        with np.load(checkpoint) as state:
            weights, velocity, first = state["weights"], state["velocity"], int(state["step"]) + 1
    with (folder / "metrics.jsonl").open("a") as metrics:
        for step in range(first, cfg.steps + 1):
            error = features[:150] @ weights - y[:150]
            gradient = features[:150].T @ error / 150 + cfg.model.ridge * weights
            velocity = cfg.optimizer.momentum * velocity - cfg.optimizer.lr * gradient
            weights = weights + velocity
            if step % 30 == 0:
                held_out = float(np.mean((features[150:] @ weights - y[150:]) ** 2))
                metrics.write(json.dumps({"step": step, "train": {"mse": float(np.mean(error**2))}, "val": {"mse": held_out}}) + "\n")
                metrics.flush()
                beside = folder / ".checkpoint.npz"
                np.savez(beside, weights=weights, velocity=velocity, step=step)
                beside.replace(checkpoint)


if __name__ == "__main__":
    main()
