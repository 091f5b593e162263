"""TorchIO's crops of a scan and its mask: two global ones, then eight local ones, drawn again until the ratio holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio

from benchmarks.side import Answer, serve, settings, timed

warnings.simplefilter("ignore")
asked = settings()
folder = Path(asked["folder"])
SUBJECT = tio.Subject(
    image=tio.ScalarImage(tensor=torch.from_numpy(np.load(folder / "scan.npy", mmap_mode="c"))[None]),
    label=tio.LabelMap(tensor=torch.from_numpy(np.load(folder / "mask.npy", mmap_mode="c"))[None]),
)
SAMPLERS = {"LabelSampler": tio.LabelSampler, "WeightedSampler": tio.WeightedSampler}
OPEN: dict[tuple[str, int], Iterator[Any]] = {}


def visit(form: str, kept_open: bool) -> list[Any]:
    """The ten crops of one scan; a sampler's generator, once begun, costs little more: `kept_open` keeps it for all visits."""
    found = []
    for size, count in ((asked["global"], 2), (asked["local"], 8)):
        feed = OPEN.get((form, size)) if kept_open else None
        if feed is None:
            feed = iter(SAMPLERS[form](size, "label")(SUBJECT))
            if kept_open:
                OPEN[form, size] = feed
        wanted = len(found) + count
        while len(found) < wanted:
            one = next(feed)
            if int(torch.count_nonzero(one.label.data)) >= asked["ratio"] * size**3:
                found.append(one)
    return found


def answer(question: dict[str, Any]) -> Answer:
    if "ready" in question:
        return {}
    form, kept_open = question["form"], question["kept_open"]
    if kept_open:
        visit(form, True)
    found = timed(lambda: visit(form, kept_open), question["visits"])
    bad = sum(float(one.label.data.float().mean()) < asked["ratio"] for one in visit(form, kept_open))
    return {"wall_s": found["wall_s"] / 10, "cpu_s": found["cpu_s"] / 10, "violations": float(bad)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
