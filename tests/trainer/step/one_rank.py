"""One of several processes that train together: steps on its share of each batch; the first one writes the weights.

Between the steps the state goes through what a checkpoint keeps, so that this is checked too.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from small import batch_of
from test_one_step_however_cut import CPU, SCANS, recipe

from trainer.config import TrainerConfig
from trainer.data.batches import places
from trainer.numerics import rank, ranks
from trainer.step import Learner, together


def main() -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    called = json.loads(sys.argv[1])
    kept = {}
    with together(CPU):
        for way, asked in called["asked"].items():
            for name, cut in itertools.product(asked["recipes"], asked["cuts"]):
                for precision, steps in (("float64", 5), ("float32", 1)):
                    weights = stepped(recipe(name, precision, cut), steps, shard=way == "fsdp2")
                    kept |= {f"{way}/{name}/{precision}/{cut}/{key}": value for key, value in weights.items()}
        if rank() == 0:
            torch.save(kept, called["out"])


def stepped(config: TrainerConfig, steps: int, *, shard: bool) -> dict[str, Tensor]:
    config.loop.shard_weights = shard
    learner = Learner(config, CPU)
    for step in range(steps):
        batch, share = batch_of(step, scans=SCANS), SCANS // ranks()
        learner.step(places(batch, range(rank() * share, (rank() + 1) * share)), step)
        state = copy.deepcopy(learner.state_dict())
        learner = Learner(config, CPU)
        learner.load_state_dict(state)
    return dict(state["student"])


if __name__ == "__main__":
    main()
