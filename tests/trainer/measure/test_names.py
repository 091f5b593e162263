from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from trainer.config import compose, to_mapping
from trainer.measure.names import METRICS, SECTIONS
from trainer.train import train

SHORT = [
    *("preset=phantom_cpu", "loop.steps=8", "loop.warmup_steps=2", "loop.batch_size=8", "data.phantom.scans=8"),
    *("measure.crops_per_scan=8", "measure.every_steps=2", "measure.record_crops=false"),
]
TERMS = [
    *("loss.ibot_weight=1", "loss.koleo_weight=0.1", "loss.koleo_prototypes_weight=0.1", "loss.gram_weight=1", "loss.gram_from_step=4"),
    *("crops.foreground_crop_prob=1", "crops.min_global_overlap=0.3"),
]
NOT_IN_SHORT_RUNS = {"train/collapse_since_step", "probe/organ_knn", "probe/organ_linear", "probe/raw_organ_knn", "probe/raw_organ_linear"}
"""A collapse needs longer; the whole-crop organ probe more held-out scans."""


class Listening:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names: set[str] = set()

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.names |= set(metrics)
        return True


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    names: set[str] = set()
    for overrides in (SHORT, SHORT + TERMS):
        run = Listening(tmp_path_factory.mktemp("run"))
        names |= set(train(to_mapping(compose(overrides)), run)) | run.names
    return names


def test_every_reported_metric_is_named_once(reported: set[str]) -> None:
    named = {name: [metric.name for metric in METRICS if metric.pattern.match(name)] for name in reported}
    assert {name: found for name, found in named.items() if len(found) != 1} == {}


def test_every_named_metric_is_reported(reported: set[str]) -> None:
    missing = {metric.name for metric in METRICS if not any(metric.pattern.match(name) for name in reported)}
    assert missing - NOT_IN_SHORT_RUNS == set()


def test_names_are_unique_and_of_a_section() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert {name.partition("/")[0] for name in names} == set(SECTIONS)
