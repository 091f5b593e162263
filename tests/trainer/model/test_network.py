"""Head, initial weights, teacher and the embedding that measures consume."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.config import Model, TrainerConfig
from trainer.model import build, ema_update, embed, embed_patches, heads, parameter_groups, teacher_of
from trainer.model.heads import FeatureNorm


def tiny(seed: int = 0, **model: Any) -> TrainerConfig:
    config = TrainerConfig(seed=seed)
    config.model = Model(
        **({"patch_size_voxels": 4, "dim": 24, "depth": 1, "heads": 2, "head_hidden": 16, "bottleneck": 8, "prototypes": 6} | model)
    )
    config.crops.global_size_voxels, config.crops.local_size_voxels = 16, 8
    return config


def images(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(count, 1, 16, 16, 16)).astype(np.float32)


def batch_of(count: int, seed: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def test_feature_norm_equals_the_formula_in_training() -> None:
    x = batch_of(9, 0)
    found = FeatureNorm(4)(x)
    for d in range(4):
        column = x[:, d].tolist()
        mean = sum(column) / 9
        variance = sum((value - mean) ** 2 for value in column) / 9
        assert found[:, d].tolist() == pytest.approx([(value - mean) / math.sqrt(variance + 1e-5) for value in column], abs=1e-5)


def test_feature_norm_says_and_remembers_the_same_in_one_operation_as_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    fused, by_parts = FeatureNorm(4), FeatureNorm(4)
    for seed in range(15):
        x = batch_of(9, seed).requires_grad_()
        same = x.detach().clone().requires_grad_()
        first = fused(x)
        with monkeypatch.context() as patch:
            patch.setattr(heads, "ranks", lambda: 2)
            second = by_parts(same)
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
        (first * batch_of(9, 77)).sum().backward()
        (second * batch_of(9, 77)).sum().backward()
        torch.testing.assert_close(x.grad, same.grad, rtol=1e-4, atol=1e-5)
    for name, value in fused.state_dict().items():
        torch.testing.assert_close(value, by_parts.state_dict()[name], rtol=1e-5, atol=1e-5)


def test_feature_norm_agrees_with_batch_norm_once_its_averages_are_exponential() -> None:
    ours, peer = FeatureNorm(4), torch.nn.BatchNorm1d(4, affine=False, momentum=None)
    for seed in range(8):
        x = batch_of(9, seed)
        assert torch.allclose(ours(x), peer(x), atol=1e-5)
    ours.eval()
    peer.eval()
    assert torch.allclose(ours(batch_of(5, 99)), peer(batch_of(5, 99)), atol=1e-5)
    ours.train()
    for seed in range(200):
        ours(batch_of(9, seed) + 5)
    assert torch.allclose(ours.mean, torch.full((4,), 6.0), atol=1.5)
    before = ours.mean.clone()
    x = batch_of(9, 1000)
    ours(x)
    assert torch.allclose(ours.mean, 0.9 * before + 0.1 * x.mean(0), atol=1e-5)


def test_evaluation_does_not_depend_on_the_batch() -> None:
    net = build(tiny())
    net.head(net.features(torch.from_numpy(images(6))))
    cpu = torch.device("cpu")
    features, logits = embed(net, images(7, 1), cpu)
    one_by_one = [embed(net, images(7, 1)[i : i + 1], cpu) for i in range(7)]
    assert np.allclose(features, np.concatenate([f for f, _ in one_by_one]), atol=1e-5)
    assert np.allclose(logits, np.concatenate([p for _, p in one_by_one]), atol=1e-5)
    assert np.allclose(features, embed(net, images(7, 1), cpu, chunk=3)[0], atol=1e-5)


def test_embedding_leaves_the_network_as_it_was() -> None:
    net = build(tiny())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    embed(net, images(3), torch.device("cpu"))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def check_head(logits: Tensor, net: Any, features: Tensor) -> None:
    head = net.dino_head
    x = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-5).sqrt()
    linears = [layer for layer in head.mlp if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(linears):
        x = x @ layer.weight.T + layer.bias
        if i < len(linears) - 1:
            x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    x = x / x.norm(dim=1, keepdim=True)
    rows = head.prototypes / head.prototypes.norm(dim=1, keepdim=True)
    assert torch.allclose(logits, x @ rows.T, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("init", ["orthogonal", "normal"])
def test_logits_are_cosines_between_bottleneck_and_prototypes(layers: int, init: str) -> None:
    net = build(tiny(head_layers=layers, head_init=init))
    features = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    logits = net.head(features)
    check_head(logits, net, features)
    assert logits.abs().max() <= 1 + 1e-5
    for wrong in (logits * 1.1, logits.flip(1), net.head(features * 2 + 3) + 0.01):
        with pytest.raises(AssertionError):
            check_head(wrong, net, features)


def test_without_weight_norm_the_prototypes_keep_their_length() -> None:
    net = build(tiny(weight_norm=False, feature_norm="none", head_init="normal"))
    features = torch.randn(5, 24)
    logits = net.head(features)
    with torch.no_grad():
        net.dino_head.prototypes *= 3
    assert torch.allclose(net.head(features), 3 * logits, atol=1e-5)


def test_initial_weights_depend_on_the_seed_and_on_nothing_of_loss_or_crops() -> None:
    first = build(tiny(seed=1)).state_dict()
    other = tiny(seed=1)
    other.loss.matching, other.loss.foreground_weighting, other.crops.foreground_crop_prob = "hierarchical", "linear", 1.0
    other.crops.local_crops, other.loop.lr, other.crops.global_size_voxels = 6, 0.5, 32
    torch.manual_seed(12345)
    assert all(torch.equal(first[name], value) for name, value in build(other).state_dict().items())
    another = build(tiny(seed=2)).state_dict()
    assert not torch.equal(first["backbone.patch_embedding.weight"], another["backbone.patch_embedding.weight"])


def test_a_part_that_is_added_leaves_the_initial_weights_of_the_others() -> None:
    plain, more = build(tiny()).state_dict(), build(tiny(registers=2, layer_scale=0.1, depth=2)).state_dict()
    assert all(torch.equal(value, more[name]) for name, value in plain.items())


def test_building_draws_nothing_from_the_global_stream() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build(tiny())
    assert torch.equal(torch.rand(1), expected)


def test_orthogonal_heads_have_orthogonal_prototypes() -> None:
    rows = build(tiny()).dino_head.prototypes.detach()
    assert torch.allclose(rows @ rows.T, torch.eye(6), atol=1e-5)
    assert build(tiny(head_init="normal")).dino_head.prototypes.detach().std() == pytest.approx(0.02, rel=0.3)


def test_weight_decay_spares_biases_norms_and_every_other_vector() -> None:
    config = tiny(layer_scale=0.1)
    net = build(config)
    names = {id(p): name for name, p in net.named_parameters()}
    groups = parameter_groups(net, config)
    decayed = [names[id(p)] for group in groups if group["decays"] for p in group["params"]]
    spared = [names[id(p)] for group in groups if not group["decays"] for p in group["params"]]
    assert sorted(decayed + spared) == sorted(names.values())
    assert all(name.endswith("bias") or ".norm" in name or "scale_" in name for name in spared)
    assert all(name.endswith(("weight", "prototypes")) and ".norm" not in name for name in decayed)


def test_learning_rates_decay_from_the_head_down_to_the_patches() -> None:
    config = tiny(depth=3, pooling="cls", positions="learned", feature_norm="none")
    config.loop.layer_decay, config.loop.patch_embedding_lr = 0.5, 0.2
    net = build(config)
    factors = {id(p): group["lr_factor"] for group in parameter_groups(net, config) for p in group["params"]}
    found = {name: factors[id(p)] for name, p in net.named_parameters()}
    expected = {
        "dino_head.prototypes": 1.0,
        "backbone.norm.weight": 1.0,
        "backbone.blocks.2.mlp.0.weight": 0.5,
        "backbone.blocks.1.norm_mlp.bias": 0.25,
        "backbone.blocks.0.attention.qkv.weight": 0.125,
        "backbone.extra_tokens": 0.0625,
        "backbone.positions": 0.0625,
        "backbone.patch_embedding.weight": 0.0125,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_both_pools_cls_and_the_mean_of_patches() -> None:
    net = build(tiny(pooling="both"))
    net.eval()
    crops = torch.from_numpy(images(3))
    tokens = net.backbone([crops])[0]
    assert tokens.cls is not None
    assert net.features(crops).shape == (3, 48)
    assert torch.allclose(net.features(crops), torch.cat([tokens.cls, tokens.patches.mean(1)], dim=1))
    assert net.head(net.features(crops)).shape == (3, 6)


def test_patch_features_lie_where_the_patches_lie() -> None:
    net = build(tiny(depth=1))
    with torch.no_grad():
        net.backbone.blocks[0].attention.out.weight.zero_()  # patches then do not see each other
    plain = images(1) * 0
    lit = plain.copy()
    lit[0, 0, 4:8, 8:12, 12:16] = 3.0
    cpu = torch.device("cpu")
    moved = np.abs(embed_patches(net, lit, cpu) - embed_patches(net, plain, cpu)).max(axis=-1)[0]
    assert np.argwhere(moved > 1e-6).tolist() == [[1, 2, 3]]


def check_ema(update: Callable[[Any, Any, float], None]) -> None:
    student, teacher = build(tiny(seed=1)), build(tiny(seed=2))
    before = [p.detach().clone() for p in teacher.parameters()]
    update(teacher, student, 0.9)
    for old, new, s in zip(before, teacher.parameters(), student.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * s, atol=1e-6)


def test_teacher_is_an_exponential_moving_average() -> None:
    check_ema(ema_update)


def test_swapped_momentum_is_told_apart() -> None:
    with pytest.raises(AssertionError):
        check_ema(lambda teacher, student, momentum: ema_update(teacher, student, 1 - momentum))


def test_teacher_shares_no_storage_with_the_student_and_takes_no_gradient() -> None:
    student = build(tiny())
    teacher = teacher_of(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    assert not any(torch.equal(t, s) for t, s in zip(teacher.parameters(), student.parameters(), strict=True))
