"""What makes a configuration impossible, and how the mend is said."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable

from trainer.config.fields import TrainerConfig


class ConfigError(ValueError):
    """Settings that cannot be trained with; the message lists every problem with its mend."""


def validate(config: TrainerConfig) -> None:
    """Check bounds, choices and the shapes that only fit together.

    Raises:
        ConfigError: Every problem, one a line, with its mend.
    """
    problems = bounds(config)
    m, c, d, loop = config.model, config.crops, config.data, config.loop
    for name in ("global_size_voxels", "local_size_voxels"):
        if getattr(c, name) % m.patch_size_voxels:
            problems.append(
                f"crops.{name}: expected a multiple of model.patch_size_voxels={m.patch_size_voxels} but got {getattr(c, name)}."
            )
    if c.local_size_voxels > c.global_size_voxels:
        problems.append(
            f"crops.local_size_voxels: expected at most crops.global_size_voxels={c.global_size_voxels} but got {c.local_size_voxels}."
        )
    if m.dim % m.heads:
        problems.append(f"model.dim: expected a multiple of model.heads={m.heads} but got {m.dim}.")
    elif m.positions == "rotary" and (m.dim // m.heads) % 6:
        fits = max(round(m.dim / (6 * m.heads)), 1) * 6 * m.heads
        problems.append(
            f"model.dim: rotary positions on 3 axes need dim / heads to be a multiple of 6 but got {m.dim} / {m.heads}. "
            f"Set model.dim={fits}, another number of heads, or model.positions=learned."
        )
    if d.window_low_hu >= d.window_high_hu:
        problems.append(f"data.window_low_hu: expected less than data.window_high_hu={d.window_high_hu} but got {d.window_low_hu}.")
    if d.source == "phantom" and d.phantom.size_voxels < c.global_size_voxels:
        problems.append(
            f"data.phantom.size_voxels: a scan of {d.phantom.size_voxels} voxels is smaller than a global crop of {c.global_size_voxels}. "
            "Make the scan larger or crops.global_size_voxels smaller."
        )
    if d.select_share + d.test_share > 0.8:
        problems.append(
            f"data.select_share: select and test together may take at most 0.8 of the scans but take {d.select_share + d.test_share}."
        )
    if loop.steps and loop.warmup_steps >= loop.steps:
        problems.append(f"loop.warmup_steps: expected fewer than loop.steps={loop.steps} but got {loop.warmup_steps}.")
    if config.loss.matching == "hierarchical" and c.local_crops < 2:
        problems.append("loss.matching: hierarchical pairs local crops with each other and needs crops.local_crops of at least 2.")
    for name in ("global_scale_mm", "local_scale_mm"):
        scale = getattr(c, name)
        if scale is None:
            continue
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            problems.append(f"crops.{name}: expected [least, greatest] in mm, both positive, but got {scale}. For example [90, 120].")
        if d.source != "phantom" and d.spacing_mm is None:
            problems.append(f"crops.{name}: an edge in mm needs one spacing for all scans. Set data.spacing_mm.")
    if c.localcrops_subset_of_globalcrops and c.local_scale_mm and c.global_scale_mm and c.local_scale_mm[-1] > c.global_scale_mm[0]:
        problems.append(
            f"crops.local_scale_mm: local crops inside global ones span at most the least global scale of {c.global_scale_mm[0]} mm "
            f"but may span {c.local_scale_mm[-1]}. Lower the one, raise the other, or set crops.localcrops_subset_of_globalcrops=false."
        )
    if c.localcrops_subset_of_globalcrops and (c.local_scale_mm is None) != (c.global_scale_mm is None):
        problems.append("crops.local_scale_mm: local crops inside global ones need both scales in mm, or neither. Set both.")
    if config.model.positions_unit == "mm" and d.source != "phantom" and d.spacing_mm is None:
        problems.append("model.positions_unit: positions in mm need one spacing for all scans. Set data.spacing_mm.")
    if config.loss.ibot_mask_ratio_min > config.loss.ibot_mask_ratio_max:
        problems.append(
            f"loss.ibot_mask_ratio_min: expected at most loss.ibot_mask_ratio_max={config.loss.ibot_mask_ratio_max} "
            f"but got {config.loss.ibot_mask_ratio_min}."
        )
    if any(not 0 < share < 1 for share in config.measure.rungs):
        problems.append(f"measure.rungs: expected shares between 0 and 1 (exclusive) but got {config.measure.rungs}.")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def bounds(config: object, prefix: str = "") -> list[str]:
    """Values outside their bounds or choices, one sentence each."""
    problems = []
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value, path, meta = getattr(config, f.name), prefix + f.name, f.metadata
        if dataclasses.is_dataclass(value):
            problems += bounds(value, path + ".")
            continue
        if value is None:
            continue
        if "choices" in meta and value not in meta["choices"]:
            problems.append(
                f"{path}: expected one of {', '.join(meta['choices'])} but got {value!r}.{nearest(str(value), meta['choices'])}"
            )
        if isinstance(value, float) and value != value:
            problems.append(f"{path}: expected a number but got NaN.")
        if "at_least" in meta and value < meta["at_least"]:
            problems.append(f"{path}: expected at least {meta['at_least']} but got {value}.")
        if "at_most" in meta and value > meta["at_most"]:
            problems.append(f"{path}: expected at most {meta['at_most']} but got {value}.")
    return problems


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean X?` where something is close, else nothing."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        tails = {n.rsplit(".", 1)[-1]: n for n in names}
        close = [tails[t] for t in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.7)]
    return f" Did you mean {close[0]}?" if close else ""
