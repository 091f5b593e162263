"""One of several processes that train together: steps on its share of each batch; the first one writes the weights.

Between the steps the state goes through what a checkpoint keeps, so that this is checked too.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from small import batch_of
from test_one_step_however_cut import CPU, SCANS, recipe

from trainer.numerics import rank, ranks
from trainer.step import Learner, together


def main() -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    kept = {}
    with together(CPU):
        for name in asked["recipes"]:
            for precision, steps in (("float64", 5), ("float32", 1)):
                for cut in asked["cuts"]:
                    config = recipe(name, precision, cut)
                    config.loop.shard_weights = asked["shard"]
                    learner = Learner(config, CPU)
                    for step in range(steps):
                        batch, share = batch_of(step, scans=SCANS), SCANS // ranks()
                        own = slice(rank() * share, (rank() + 1) * share)
                        arrays = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name not in ("step",)}
                        learner.step(replace(batch, **{key: value[own] for key, value in arrays.items()}), step)
                        state = copy.deepcopy(learner.state_dict())
                        learner = Learner(config, CPU)
                        learner.load_state_dict(state)
                    kept |= {f"{name}/{precision}/{cut}/{key}": value for key, value in state["student"].items()}
        if rank() == 0:
            torch.save(kept, asked["out"])


if __name__ == "__main__":
    main()
