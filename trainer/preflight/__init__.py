"""What can be said against a configuration before any training. No torch, but for the deep part that looks at the untrained network."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.config import TrainerConfig, from_mapping
from trainer.data import DataError
from trainer.preflight import feasible, sampling, schedule
from trainer.preflight.finding import Finding, data_key, finding, scans_of

__all__ = ["Finding", "feasible_map", "preflight"]

feasible_map = feasible.feasible_map


def preflight(config: TrainerConfig | Mapping[str, object], *, deep: bool = False) -> list[Finding]:
    """Look at a configuration, its data and the crops that it would draw.

    Errors: it cannot work. Warnings: collapse or waste is to be expected. Info: good to know. A trial of no steps is only measured, so
    nothing is said of how it would train.

    Args:
        deep: Build the network too and see what it says before any training (seconds).
    """
    settings = config if isinstance(config, TrainerConfig) else from_mapping(config)
    try:
        scans = scans_of(data_key(settings))
    except DataError as error:
        return [
            finding("error", "data.source", problem.removeprefix("data.source: "), None, "Nothing can be trained without it.", "")
            for problem in error.problems
        ]
    found = [*_window(settings), *feasible.ratios(settings, scans), *feasible.inside(settings, scans), *schedule.findings(settings)]
    if settings.loop.steps and not any(one["level"] == "error" for one in found):
        found += sampling.findings(settings, sampling.draw(settings))
        if deep:
            from trainer.preflight import start

            found += start.findings(settings, scans)
    maps = feasible.maps(settings) if settings.loop.steps else []
    return found + schedule.without_effect(settings) + maps


def _window(settings: TrainerConfig) -> list[Finding]:
    """A foreground threshold that the network cannot see."""
    crops, data = settings.crops, settings.data
    inside = data.window_low_hu < crops.foreground_threshold < data.window_high_hu
    used = (
        crops.foreground_crop_prob > 0
        or settings.loss.foreground_weighting != "none"
        or settings.loss.matching in ("hierarchical", "foreground_only", "background_prototype")
    )
    if crops.foreground != "threshold" or inside or not used:
        return []
    low = crops.foreground_threshold <= data.window_low_hu
    end, value = ("lower", data.window_low_hu) if low else ("upper", data.window_high_hu)
    if low and crops.foreground_threshold < data.window_low_hu:
        return []  # foreground is then more than what differs from the window's floor: lung, say; it stays visible by its surroundings
    return [
        finding(
            "warning",
            "crops.foreground_threshold",
            f"{crops.foreground_threshold:g} HU lies {'at' if low else 'at or above'} the window's {end} end {value:g} HU.",
            crops.foreground_threshold,
            "Voxels on both sides of the threshold are clipped to the same value, so the network cannot see what counts as foreground.",
            f"Move crops.foreground_threshold into the window, or data.window_{'low' if low else 'high'}_hu out of it.",
        )
    ]
