"""A step is the same however its batch is cut: in micro-batches, over ranks, with sharded weights.

Bounds: float64 within 1e-9 after 5 steps, float32 within 1e-5 after one.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small import batch_of, tiny
from torch import Tensor

from trainer.config import TrainerConfig
from trainer.step import Learner, StepResult

CPU = torch.device("cpu")
SCANS = 32
EVERYTHING = {"ibot_weight": 1.0, "gram_weight": 1.0, "koleo_weight": 0.1, "koleo_prototypes_weight": 0.1, "sinkhorn_queue": 80}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": EVERYTHING,
    "softmax": {"centering": "softmax", "matching": "hierarchical", "ibot_weight": 1.0},
    "background": {"matching": "background_prototype", "foreground_weighting": "sqrt"},
    "batch_mean": {"foreground_weighting": "linear", "foreground_weighting_scope": "batch_mean"},
    "cls": {"ibot_weight": 1.0},
}
TWO_RANKS: dict[str, dict[str, Any]] = {
    "ddp": {"recipes": ["everything", "softmax", "batch_mean", "cls"], "cuts": [None, 8]},
    "fsdp2": {"recipes": ["everything", "cls"], "cuts": [8]},
}


def recipe(name: str, precision: str, micro_batch_size: int | None = None) -> TrainerConfig:
    config = tiny(**RECIPES[name])
    config.loop.batch_size, config.loop.precision, config.loop.micro_batch_size = SCANS, precision, micro_batch_size
    config.model.drop_path, config.model.pooling = 0.2, "cls" if name == "cls" else "both"
    return config


def weights_after(config: TrainerConfig) -> tuple[dict[str, Tensor], StepResult]:
    learner = Learner(config, CPU)
    for step in range(5 if config.loop.precision == "float64" else 1):
        result = learner.step(batch_of(step, scans=SCANS), step)
    return copy.deepcopy(learner.student.state_dict()), result


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor], precision: str) -> None:
    bound = 1e-9 if precision == "float64" else 1e-5
    assert found.keys() == expected.keys()
    worst = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    assert max(worst.values()) <= bound, max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", RECIPES)
def test_four_micro_batches_of_8_equal_one_batch_of_32(name: str, precision: str) -> None:
    whole, seen_whole = weights_after(recipe(name, precision))
    cut, seen_cut = weights_after(recipe(name, precision, micro_batch_size=8))
    check_equal(cut, whole, precision)
    assert seen_cut.losses == pytest.approx(seen_whole.losses, rel=1e-5)


def test_a_batch_that_does_not_divide_evenly_is_the_same_step() -> None:
    whole, _ = weights_after(recipe("everything", "float64"))
    check_equal(weights_after(recipe("everything", "float64", micro_batch_size=13))[0], whole, "float64")


def test_a_step_for_each_micro_batch_is_told_apart() -> None:
    """What plain accumulation with a Sinkhorn-Knopp of its own for each micro-batch would give is no step of the whole batch."""
    whole, _ = weights_after(recipe("plain", "float64"))
    config = recipe("plain", "float64")
    config.loop.batch_size = 8
    learner = Learner(config, CPU)
    for step in range(5):
        learner.step(batch_of(step, scans=8), step)
    with pytest.raises(AssertionError):
        check_equal(learner.student.state_dict(), whole, "float64")


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights after the same steps by two processes, half of each batch in each; one pair of them for all, as each imports torch."""
    out = tmp_path_factory.mktemp("ranks") / "weights.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = os.environ | place | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(here / "one_rank.py"), json.dumps({"asked": TWO_RANKS, "out": str(out)})]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"))
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert [process.returncode for process in processes] == [0, 0], said
    found: dict[str, Tensor] = torch.load(out, weights_only=True)
    return found


@pytest.mark.parametrize("way", TWO_RANKS)
def test_two_ranks_equal_one_process(of_two_ranks: dict[str, Tensor], way: str) -> None:
    for name in TWO_RANKS[way]["recipes"]:
        for precision in ("float64", "float32"):
            whole, _ = weights_after(recipe(name, precision))
            for cut in TWO_RANKS[way]["cuts"]:
                prefix = f"{way}/{name}/{precision}/{cut}/"
                weights = {key.removeprefix(prefix): value for key, value in of_two_ranks.items() if key.startswith(prefix)}
                check_equal(weights, whole, precision)
