"""Every preset composes, says how it is run and what is known of its cost, and keeps the recipe's arithmetic."""

from __future__ import annotations

import math

import pytest

from trainer.config import PRESETS, compose, presets, schema, validate
from trainer.diagnose.causes import floor_share, rule_lr

GPU = ("ct_gpu", "ct_gpu_large")


def test_the_four_presets_are_there() -> None:
    assert presets() == ("ct_cpu", "ct_gpu", "ct_gpu_large", "phantom_cpu")


@pytest.mark.parametrize("name", presets())
def test_a_preset_composes_and_its_header_says_command_memory_and_time(name: str) -> None:
    config = compose([f"preset={name}"])
    assert schema(name) == config
    validate(config)
    assert config.preset == name
    header = [line for line in (PRESETS / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    text = "\n".join(header)
    assert all(f"# {word}: " in text or f" {word}: " in text for word in ("Command", "Memory", "Time"))
    assert f"preset={name}" in text
    assert config.expected_trial_s is not None or "Time: not measured" in text


def test_what_is_changed_in_a_preset_changes_no_other_copy() -> None:
    changed = schema("ct_gpu")
    changed.measure.rungs.append(1.0)
    changed.crops.local_crops = 0
    assert schema("ct_gpu") == compose(["preset=ct_gpu"]) != changed
    assert schema() == compose([])


@pytest.mark.parametrize("name", GPU)
def test_a_gpu_preset_keeps_the_recipes_rules(name: str) -> None:
    config = schema(name)
    model, loop = config.model, config.loop
    assert loop.lr == pytest.approx(rule_lr(loop.batch_size), rel=0.02)
    assert (model.dim / model.heads) % 6 == 0
    assert (model.dim / model.heads) % 8 == 0
    assert model.layer_scale is not None
    assert model.layer_scale >= 0.05
    assert floor_share(config) == 0.0
    assert config.loss.ibot_weight == 1.0
    assert config.loss.koleo_weight == 0.1
    assert config.crops.min_global_overlap > 0
    assert config.crops.localcrops_subset_of_globalcrops
    assert loop.precision == "bf16"


def test_the_large_preset_is_a_vit_l() -> None:
    model = schema("ct_gpu_large").model
    weights = 12 * model.depth * model.dim**2
    assert weights == pytest.approx(12 * 24 * 1024**2, rel=0.05)


@pytest.mark.parametrize(("name", "gpus", "stated_gb"), [("ct_gpu", 1, 61), ("ct_gpu_large", 8, 42)])
def test_the_stated_memory_is_that_of_its_formula(name: str, gpus: int, stated_gb: int) -> None:
    config = schema(name)
    model, crops, rows = config.model, config.crops, config.loop.batch_size // gpus
    tokens = sum(
        count * ((edge // model.patch_size_voxels) ** 3 + 1 + model.registers)
        for count, edge in ((2, crops.global_size_voxels), (crops.local_crops, crops.local_size_voxels))
    )
    activations = 34 * rows * tokens * model.dim * model.depth
    weights = 20 * (12 * model.depth * model.dim**2 + model.patch_size_voxels**3 * model.dim)
    images = 10 * rows * (2 * crops.global_size_voxels**3 + crops.local_crops * crops.local_size_voxels**3)
    assert math.isclose((activations + weights + images) / 2**30, stated_gb, rel_tol=0.05)
    assert f"about {stated_gb} GB" in (PRESETS / f"{name}.yaml").read_text()
