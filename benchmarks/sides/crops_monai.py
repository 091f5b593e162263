"""MONAI's crops of a scan and its mask: two global ones, then eight local ones, drawn again until the ratio holds."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import set_track_meta
from monai.transforms import FgBgToIndicesd, RandCropByPosNegLabeld, RandWeightedCropd

from benchmarks.side import Answer, serve, settings, timed

warnings.simplefilter("ignore")
asked = settings()
folder = Path(asked["folder"])
IMAGE = torch.from_numpy(np.load(folder / "scan.npy", mmap_mode="c"))[None]
LABEL = torch.from_numpy(np.load(folder / "mask.npy", mmap_mode="c"))[None]
WANTED = ((asked["global"], 2), (asked["local"], 8))
KEYS = ["image", "label"]
PLAIN = {"image": IMAGE, "label": LABEL}
INDEXED = FgBgToIndicesd("label")(dict(PLAIN))
INDICES = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
FORMS: dict[str, tuple[bool, dict[str, Any], dict[int, Any]]] = {
    "RandCropByPosNegLabeld": (
        True,
        PLAIN,
        {size: RandCropByPosNegLabeld(KEYS, "label", (size,) * 3, pos=1, neg=0, num_samples=n) for size, n in WANTED},
    ),
    "RandCropByPosNegLabeld, indices kept": (
        False,
        INDEXED,
        {size: RandCropByPosNegLabeld(KEYS, "label", (size,) * 3, pos=1, neg=0, num_samples=n, **INDICES) for size, n in WANTED},
    ),
    "RandWeightedCropd": (True, PLAIN, {size: RandWeightedCropd(KEYS, "label", (size,) * 3, num_samples=n) for size, n in WANTED}),
}
"""Metadata tracked (the default), the data, and the transform of each size."""


def visit(form: str) -> list[Any]:
    """The ten crops of one scan."""
    track, data, crop = FORMS[form]
    set_track_meta(track)
    kept: list[Any] = []
    for size, count in WANTED:
        held: list[Any] = []
        while len(held) < count:
            held += [one for one in crop[size](data) if int(torch.count_nonzero(one["label"])) >= asked["ratio"] * size**3]
        kept += held[:count]
    return kept


def answer(question: dict[str, Any]) -> Answer:
    if "ready" in question:
        return {}
    found = timed(lambda: visit(question["form"]), question["visits"])
    bad = sum(float(one["label"].float().mean()) < asked["ratio"] for one in visit(question["form"]))
    return {"wall_s": found["wall_s"] / 10, "cpu_s": found["cpu_s"] / 10, "violations": float(bad)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
