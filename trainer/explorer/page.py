"""All of it in one file: settings and numbers as JSON, volumes as compressed bytes, and a page that needs no network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import TrainerConfig
from trainer.data import Scan
from trainer.explorer.display import HU_OF_CODE, codes, factors
from trainer.explorer.feasible import Feasible, Kind, feasible

WINDOWS_HU = {"lung": (-1350, 150), "soft tissue": (-160, 240), "bone": (-500, 1300)}
SETTINGS = (
    "foreground",
    "foreground_threshold",
    "foreground_crop_prob",
    "min_foreground_ratio",
    "min_foreground_ratio_global",
    "min_foreground_ratio_local",
    "min_global_overlap",
    "localcrops_subset_of_globalcrops",
)


@dataclass(frozen=True)
class Drawn:
    """The crops of one place in a step's batch: the columns of `crops.parquet`, views in order."""

    step: int
    place: int
    rows: Sequence[Mapping[str, Any]]


def write(
    path: Path,
    scan: Scan,
    drawn: Sequence[Drawn],
    config: TrainerConfig,
    *,
    notes: Sequence[str] = (),
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Feasible:
    """Write the page of a scan and the crops drawn from it; gives back what its sliders read.

    Args:
        path: Written beside and renamed.
        scan: In HU.
        drawn: Places of batches that took this scan.
        config: The settings that the crops were drawn with.
        notes: Sentences that stand on the page.
        tell: Called after each threshold with how many are done and how many there are.
    """
    rows = [row for one in drawn for row in one.rows]
    boxes = [[row["corner_depth"], row["corner_height"], row["corner_width"], row["size"]] for row in rows]
    found = feasible(scan, config.crops, np.array(boxes, dtype=np.int64).reshape(-1, 4), tell=tell)
    by = factors(scan)
    volume = codes(scan, by)
    windows = {**WINDOWS_HU, "as trained": (config.data.window_low_hu, config.data.window_high_hu)}
    content = {
        "scan": scan.name,
        "shape": scan.voxels.shape,
        "spacing": [round(float(mm), 4) for mm in scan.spacing_mm],
        "by": by,
        "shown": volume.shape,
        "hu": [round(float(hu), 1) for hu in HU_OF_CODE],
        "windows": [{"name": name, "low": low, "high": high} for name, (low, high) in windows.items()],
        "settings": {f"crops.{name}": getattr(config.crops, name) for name in SETTINGS},
        "notes": list(notes),
        "places": [{"step": one.step, "place": one.place, "crops": [dict(row) for row in one.rows]} for one in drawn],
        "thresholds": found.thresholds_hu,
        "ratios": found.ratios,
        "foreground": found.foreground_share,
        "tissues": found.tissues,
        "cropShares": found.crops.tolist(),
        "kinds": [_kind(kind, found) for kind in found.kinds],
    }
    blobs = {"volume": volume, **{f"map-{name}": values for name, values in found.maps.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(_page(f"Crops of {scan.name}", content, blobs))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return found


def _kind(kind: Kind, found: Feasible) -> dict[str, Any]:
    return {
        "name": kind.name,
        "edges": kind.edges,
        "edge": kind.shown_edge,
        "ratio": kind.ratio,
        "corners": [along.tolist() for along in kind.corners],
        "shares": found.shares[kind.name].tolist(),
    }


def _page(title: str, content: Mapping[str, Any], blobs: Mapping[str, np.ndarray]) -> str:
    """Names come into the page as JSON without `<`, which the script shows as text alone; the title is escaped."""
    said = json.dumps(content, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")
    packed = {name: base64.b64encode(gzip.compress(values.tobytes(), 6, mtime=0)).decode() for name, values in blobs.items()}
    data = "\n".join(f'<script type="application/octet-stream" id="{name}">{text}</script>' for name, text in packed.items())
    page = _part("page.html")
    for place, text in (("STYLE", _part("page.css")), ("SCRIPT", _part("page.js")), ("TITLE", html.escape(title)), ("BLOBS", data)):
        page = page.replace(f"<!--{place}-->", text, 1)
    return page.replace("<!--CONTENT-->", f'<script type="application/json" id="content">{said}</script>', 1)


def _part(name: str) -> str:
    return (resources.files("trainer.explorer") / name).read_text(encoding="utf-8")
