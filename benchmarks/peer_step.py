"""An optimizer step of ours beside the plain form of the same step: MONAI's ViT, a forward pass for each size of crops, pairs in a loop.

    PYTHONPATH=. python benchmarks/peer_step.py [REPETITIONS] [--threads N ...] [--of CASE ...]

Both get the same crops of the phantom (made beforehand) and the same numbers of augmentation, and have networks of the same width, depth,
heads and head. `published` is DINO's own form: CLS is the image feature and positions are learned and added, the same parameters on both
sides; ours works out nothing but CLS in the last block. `preset` is that of our `phantom_cpu`: the mean of patches, and tokens of ours are
turned by their places (rotary), where MONAI adds learned positions still. Forward, loss, backward, clipping, AdamW and the teacher's
average are inside, drawing the crops is not. Beside it: the share of this machine's own float32 product
rate (a square product of 768, best of five, in the same process) that our step reaches by its count of products alone; and what a step
would win over the plain form whose products went at that rate and whose all else were free.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from typing import Any, NamedTuple

from benchmarks.side import Answer, Side, alternating, have_peers, machine, ratios, spread, started

MODELS: dict[str, dict[str, int]] = {
    "phantom_cpu": {"dim": 96, "depth": 2, "heads": 4, "global": 24, "local": 16, "patch": 8, "head_hidden": 256, "bottleneck": 64},
    "ViT-S/8-like": {"dim": 384, "depth": 12, "heads": 6, "global": 32, "local": 16, "patch": 8, "head_hidden": 1024, "bottleneck": 256},
}
PROTOTYPES = {"phantom_cpu": 64, "ViT-S/8-like": 1024}
SAME = 0.01
"""MONAI's keys have biases, which softmax does not see, and its positions stay where ours are turned."""
FORMS = {
    "published": {"model.pooling": "cls", "model.positions": "learned"},
    "preset": {"model.pooling": "mean", "model.positions": "rotary"},
}


class Case(NamedTuple):
    """A row."""

    model: str
    batch: int
    locals: int
    steps: int
    """Steps a repetition."""
    form: str = "published"


CASES = [
    Case("phantom_cpu", 8, 4, 40),
    Case("phantom_cpu", 8, 8, 40),
    Case("phantom_cpu", 32, 4, 12),
    Case("phantom_cpu", 32, 8, 12),
    Case("ViT-S/8-like", 8, 4, 1),
    Case("ViT-S/8-like", 8, 8, 1),
    Case("ViT-S/8-like", 32, 4, 1),
    Case("phantom_cpu", 8, 4, 40, "preset"),
    Case("phantom_cpu", 32, 8, 12, "preset"),
]


def configured(case: Case) -> dict[str, Any]:
    """The settings of our step."""
    m = MODELS[case.model] | {"prototypes": PROTOTYPES[case.model]}
    return {
        "crops.global_size_voxels": m["global"],
        "crops.local_size_voxels": m["local"],
        "crops.local_crops": case.locals,
        "loop.batch_size": case.batch,
        "loop.steps": 1000,
        **FORMS[case.form],
        **{f"model.{name}": m[name] for name in ("dim", "depth", "heads", "head_hidden", "bottleneck", "prototypes")},
    }


def measure(case: Case, threads: int, repetitions: int, *, peers: bool = True) -> dict[str, list[Answer]]:
    """Seconds a step by who; `ours` has the product rate and the count of operations too."""
    m = MODELS[case.model] | {"prototypes": PROTOTYPES[case.model]}
    with tempfile.TemporaryDirectory(prefix="step-") as folder, ExitStack() as stack:
        settings = {"folder": folder, "threads": threads, "config": configured(case), "model": m, "cls": case.form == "published"}
        sides = {"ours": (started(stack, Side("step_ours", peer=False, threads=threads, settings=settings)), {"steps": case.steps})}
        if peers:
            sides["MONAI"] = (started(stack, Side("step_monai", peer=True, threads=threads, settings=settings)), {"steps": case.steps})
        found = alternating(sides, repetitions)
    own, theirs = (found[who][0]["parameters"] for who in ("ours", "MONAI" if peers else "ours"))
    if abs(own / theirs - 1) > SAME:
        raise RuntimeError(f"{case}: expected networks of the same size but ours has {own:.0f} parameters and the plain form {theirs:.0f}.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("repetitions", type=int, nargs="?", default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[2, 1])
    parser.add_argument("--of", type=int, nargs="*", default=list(range(len(CASES))), help="numbers of cases")
    asked = parser.parse_args()
    ratio = "plain / ours, wall (range) | CPU | plain / products alone"
    print(f"| threads | size | form | batch | locals | ours, ms a step (range) | plain form | {ratio} | share of product rate | MiB |")
    print("| --- " * 12 + "|")
    for threads in asked.threads:
        for case in [CASES[at] for at in asked.of]:
            found = measure(case, threads, asked.repetitions, peers=have_peers())
            ours = found["ours"]
            share = statistics.median(one["flops"] / one["wall_s"] / one["rate"] for one in ours)
            row = [f"{threads}", case.model, case.form, f"{case.batch}", f"{case.locals}", spread([1e3 * one["wall_s"] for one in ours])]
            if "MONAI" in found:
                theirs = found["MONAI"]
                row += [spread([1e3 * one["wall_s"] for one in theirs]), spread(ratios(ours, theirs, "wall_s"), 2)]
                row += [f"{statistics.median(ratios(ours, theirs, 'cpu_s')):.2f}"]
                row += [
                    f"{statistics.median(two['wall_s'] * one['rate'] / one['flops'] for one, two in zip(ours, theirs, strict=True)):.2f}"
                ]
                memory = f"{ours[-1]['memory_mib']:.0f} and {theirs[-1]['memory_mib']:.0f}"
            else:
                row, memory = [*row, *"----"], f"{ours[-1]['memory_mib']:.0f}"
            print("| " + " | ".join([*row, f"{share:.0%}", memory]) + " |", flush=True)
    print(f"\n{machine(asked.repetitions)}")


if __name__ == "__main__":
    main()
