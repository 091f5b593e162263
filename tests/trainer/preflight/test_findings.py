"""Each finding fires on its planted cause, and none on settings that train well."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest

from trainer.__main__ import main
from trainer.config import TrainerConfig, from_mapping, presets, schema, sinkhorn_columns
from trainer.data import Batch, Scan, load_scans
from trainer.data.batches import batches
from trainer.loss import draw_masks
from trainer.preflight import Finding, preflight, schedule, start
from trainer.preflight.sampling import draw, identical_share
from trainer.preflight.schedule import masked_columns
from trainer.preflight.start import crops_looked_at, mutual_information

CT = Path(os.environ.get("ABLATE_CT_DIR", Path(__file__).parents[4] / "shared/ct"))
HEALTHY: dict[str, object] = {
    "preset": "phantom_cpu",
    "data.phantom.scans": 8,
    "crops.min_global_overlap": 0.3,
    "crops.localcrops_subset_of_globalcrops": True,
}

PLANTED: list[tuple[str, str, dict[str, object]]] = [
    ("warning", "crops.min_global_overlap", {"crops.min_global_overlap": 0.0}),
    ("warning", "crops.localcrops_subset_of_globalcrops", {"crops.localcrops_subset_of_globalcrops": False}),
    ("warning", "model.prototypes", {"model.prototypes": 1024, "loop.batch_size": 8}),
    ("warning", "model.ibot_prototypes", {"loss.ibot_weight": 1.0, "model.ibot_prototypes": 4096}),
    ("warning", "loss.teacher_temperature", {"loss.teacher_temperature": 0.1}),
    ("warning", "loss.teacher_temperature", {"loss.teacher_temperature_start": 0.2, "loss.teacher_temperature_warmup_steps": 10}),
    ("warning", "loop.ema", {"loop.ema": 0.5}),
    ("warning", "loop.ema", {"loop.ema": 0.9999, "loop.ema_end": 1.0}),
    ("info", "loop.ema", {"loop.batch_size": 8, "loop.steps": 4000}),
    ("warning", "loop.lr", {"loop.lr": 0.05}),
    ("warning", "loop.warmup_steps", {"loop.warmup_steps": 60}),
    ("warning", "loss.teacher_temperature_warmup_steps", {"loss.teacher_temperature_warmup_steps": 80}),
    ("warning", "loop.freeze_last_layer_steps", {"loop.freeze_last_layer_steps": 99}),
    ("warning", "loss.gram_from_step", {"loss.gram_weight": 1.0, "loss.gram_from_step": 100}),
    ("warning", "crops.foreground_threshold", {"crops.foreground_crop_prob": 1.0, "crops.foreground_threshold": 400.0}),
    ("warning", "crops.foreground_threshold", {"crops.foreground_crop_prob": 1.0, "crops.foreground_threshold": -400.0}),
    ("error", "crops.min_foreground_ratio", {"crops.foreground_crop_prob": 1.0, "crops.foreground_threshold": 2500.0}),
    (
        "warning",
        "crops.min_foreground_ratio_local",
        {"crops.foreground_crop_prob": 1.0, "crops.min_foreground_ratio_global": 0.02, "crops.min_foreground_ratio_local": 0.9},
    ),
    ("error", "loss.matching_threshold", {"loss.matching": "foreground_only", "crops.foreground_threshold": 2500.0}),
    ("warning", "loss.weighting_threshold", {"loss.foreground_weighting": "threshold", "loss.weighting_threshold": 1.0}),
    ("info", "loss.matching_threshold", {"loss.matching_threshold": 0.7}),
    ("info", "augment.gamma", {"augment.gamma": 0.5}),
]


def against(config: dict[str, object], *, deep: bool = False) -> list[Finding]:
    """All that is said, but for the maps, which everyone gets."""
    return [finding for finding in preflight(config, deep=deep) if "map" not in finding]


def told(config: dict[str, object]) -> list[tuple[object, object]]:
    return [(finding["level"], finding["path"]) for finding in preflight(config)]


def test_nothing_is_said_of_the_healthy_phantom_not_even_of_its_untrained_network() -> None:
    assert against(HEALTHY, deep=True) == []


@pytest.mark.skipif(not CT.is_dir(), reason="no real CT: set ABLATE_CT_DIR")
def test_nothing_is_said_of_the_healthy_setting_on_real_ct(tmp_path: Path) -> None:
    config = {name: value for name, value in HEALTHY.items() if not name.startswith("data.")} | {
        "preset": "ct_cpu",
        "data.source": str(CT),
        "data.cache_dir": str(tmp_path),
    }
    assert against(config) == []


@pytest.mark.parametrize(("level", "path", "planted"), PLANTED)
def test_a_planted_cause_is_found(level: str, path: str, planted: dict[str, object]) -> None:
    assert (level, path) in told(HEALTHY | planted)
    assert (level, path) not in told(HEALTHY)


def test_each_finding_says_what_why_and_what_to_do() -> None:
    found = against(HEALTHY | PLANTED[0][2] | PLANTED[2][2] | PLANTED[5][2])
    assert len(found) == 3
    for one in found:
        assert isinstance(one["value"], float)
        for part in ("what", "why", "mend"):
            assert str(one[part]).rstrip().endswith(".")


def test_air_that_fills_most_crops_is_found_and_named_with_its_bound() -> None:
    """Small crops of whole scans: most show nothing but air."""
    margin = HEALTHY | {"crops.global_size_voxels": 8, "crops.local_size_voxels": 8}
    settings = from_mapping(margin)
    drawn = draw(settings)
    share = identical_share(drawn.images)
    assert share > 0.35
    found = [finding for finding in preflight(margin) if finding["path"] == "crops.foreground_crop_prob"]
    assert [finding["value"] for finding in found] == [share]
    assert f"{math.log(share * 64):.2f} nats" in str(found[0]["why"])


def test_the_identical_share_counts_crops_by_the_largest_group() -> None:
    random = np.random.default_rng(0)
    crops = random.normal(size=(20, 27)).astype(np.float32)
    crops[:8] = crops[0] + random.normal(size=(8, 27)).astype(np.float32) * 0.01
    assert identical_share(crops) == pytest.approx(8 / 20)


def test_the_drawn_overlaps_are_those_of_training() -> None:
    settings = from_mapping(HEALTHY)
    drawn = draw(settings)
    assert drawn.iou.min() >= 0.3
    assert (drawn.containment == 1).all()


def test_a_teacher_too_fast_for_its_batch_is_one_that_averages_over_few_scans() -> None:
    """The same momentum is slow enough for a large batch, a slower one for a small batch; a short run has no room for it."""

    def memory(ema: float, batch: int, steps: int) -> list[object]:
        config = from_mapping({"loop.ema": ema, "loop.batch_size": batch, "loop.steps": steps})
        return [found["value"] for found in schedule.findings(config) if found["path"] == "loop.ema"]

    assert memory(0.99, 8, 4000) == [pytest.approx(800)]
    assert memory(0.99, 64, 4000) == []
    assert memory(0.999, 8, 40_000) == []
    assert memory(0.99, 8, 1000) == []
    (found,) = (one for one in schedule.findings(from_mapping({"loop.batch_size": 8, "loop.steps": 4000})) if one["path"] == "loop.ema")
    assert str(found["mend"]).startswith("Try loop.ema=0.995,"), "a twentieth of the run"


@pytest.mark.parametrize("preset", presets())
def test_no_schedule_of_a_preset_is_spoken_against(preset: str) -> None:
    assert schedule.findings(schema(preset)) == []


def test_columns_are_those_of_the_optimizer_step_whatever_it_is_cut_into() -> None:
    assert sinkhorn_columns(from_mapping({"loop.batch_size": 16})) == 32
    assert sinkhorn_columns(from_mapping({"loop.batch_size": 16, "loop.micro_batch_size": 4})) == 32
    assert sinkhorn_columns(from_mapping({"loop.batch_size": 16, "loss.sinkhorn_queue": 40})) == 96
    many = HEALTHY | {"model.prototypes": 256, "loop.batch_size": 8}
    assert ("warning", "model.prototypes") in told(many)
    assert ("warning", "model.prototypes") not in told(many | {"loss.sinkhorn_queue": 240})
    assert ("warning", "model.prototypes") not in told(many | {"loss.centering": "softmax"})


def test_columns_of_ibot_are_the_masked_patches_of_a_step() -> None:
    config = from_mapping(HEALTHY | {"loss.ibot_weight": 1.0, "loop.batch_size": 64})
    masks = draw_masks(np.random.default_rng(0), 2 * 64, 3, config.loss)
    assert masked_columns(config) == pytest.approx(masks.sum(), rel=0.15)


@pytest.mark.parametrize(
    ("planted", "path"),
    [
        ({"model.layer_scale": 1e-5, "model.pooling": "cls", "model.feature_norm": "none"}, "model.layer_scale"),
        ({"model.pooling": "cls", "model.feature_norm": "none", "loss.student_temperature": 5.0}, "model.feature_norm"),
    ],
)
def test_a_network_that_says_the_same_of_every_crop_is_found_before_it_is_trained(planted: dict[str, object], path: str) -> None:
    found = [finding for finding in preflight(HEALTHY | planted, deep=True) if finding["path"] == path]
    assert [finding["level"] for finding in found] == ["warning"]
    assert "nats" in str(found[0]["what"])


def test_a_weak_start_of_the_head_is_found() -> None:
    """Small prototypes without weight norm: .04 nats were published, .02 are read here; teacher and student then stay uniform."""
    weak: dict[str, object] = {"model.head_init": "normal", "model.weight_norm": False}
    assert [finding["path"] for finding in against(HEALTHY | weak, deep=True)] == ["model.head_init"]


def test_the_look_at_an_untrained_network_costs_no_batch_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 256 scans with ten crops each it would take minutes and several GiB."""
    asked = []

    def counted(scans: Sequence[Scan], train: Sequence[int], config: TrainerConfig, step: int) -> Generator[Batch]:
        asked.append((config.loop.batch_size, config.crops.local_crops, config.data.prefetch_batches))
        return batches(scans, train, config, step)

    monkeypatch.setattr(start, "batches", counted)
    settings = from_mapping(HEALTHY | {"loop.batch_size": 4096, "crops.local_crops": 8, "data.prefetch_batches": 4})
    assert mutual_information(settings, load_scans(settings)) > 0.1
    assert asked == [(64, 0, 0)]


def test_a_large_network_is_shown_few_crops() -> None:
    settings = schema("ct_gpu")
    assert crops_looked_at(300_000, schema("phantom_cpu")) == 128
    assert crops_looked_at(86_000_000, settings) == 16


def test_layer_scale_takes_away_the_information_at_the_start_as_published() -> None:
    nats = []
    for scale in (1e-5, 0.1, None):
        settings = from_mapping(HEALTHY | {"model.layer_scale": scale, "model.pooling": "cls", "model.feature_norm": "none"})
        nats.append(mutual_information(settings, load_scans(settings)))
    assert nats[0] < 1e-6 < nats[1] < nats[2]


def test_a_trial_that_only_measures_is_not_told_how_it_would_train() -> None:
    assert [
        level for level, _ in told(HEALTHY | {"loop.steps": 0, "loop.warmup_steps": 0, "crops.min_global_overlap": 0.0}) if level != "info"
    ] == []


def test_the_command_speaks_in_words_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["data.phantom.scans=4"]
    assert main(["preflight", *small, "--map"]) == 0
    said = capsys.readouterr().out
    assert "warning: crops.min_global_overlap" in said
    assert "do:  Set crops.min_global_overlap" in said
    assert "local crops above" in said
    assert main(["preflight", "--json", *small, "crops.foreground_crop_prob=1", "crops.foreground_threshold=2500"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["level"] == "error"
    assert main(["preflight", "crops.local_crop=3"]) == 2
    assert "Did you mean crops.local_crops?" in capsys.readouterr().err
