"""The backbone: patches, positions that fit both crop sizes, pooling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import trainer.model.attention
from trainer.config import Model, TrainerConfig
from trainer.model import build
from trainer.model.attention import Attention, Read
from trainer.model.positions import BASE, patch_coordinates, rotary_table, rotate
from trainer.model.vit3d import Tokens, patchify


def tiny(**model: Any) -> TrainerConfig:
    config = TrainerConfig()
    config.model = Model(
        **({"patch_size_voxels": 4, "dim": 24, "depth": 2, "heads": 2, "head_hidden": 16, "bottleneck": 8, "prototypes": 6} | model)
    )
    config.crops.global_size_voxels, config.crops.local_size_voxels = 16, 8
    return config


def cubes(edge: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, edge, edge, edge, generator=torch.Generator().manual_seed(seed))


def check_patches(found: Callable[[Tensor, int], Tensor]) -> None:
    image = torch.arange(6 * 6 * 6, dtype=torch.float32).reshape(1, 1, 6, 6, 6)
    patches = found(image, 3)
    for token, (d, h, w) in enumerate(itertools.product(range(2), repeat=3)):
        expected = [float(image[0, 0, 3 * d + i, 3 * h + j, 3 * w + k]) for i, j, k in itertools.product(range(3), repeat=3)]
        assert patches[0, token].tolist() == expected


def test_patches_are_cut_in_axis_order() -> None:
    check_patches(patchify)


def test_swapped_axes_in_patches_are_told_apart() -> None:
    with pytest.raises(AssertionError):
        check_patches(lambda image, patch: patchify(image.transpose(2, 4), patch))


def test_patch_embedding_equals_a_convolution() -> None:
    backbone = build(tiny()).backbone
    kernel = backbone.patch_embedding.weight.reshape(24, 1, 4, 4, 4)
    image = cubes(16)
    by_convolution = torch.nn.functional.conv3d(image, kernel, backbone.patch_embedding.bias, stride=4).flatten(2).transpose(1, 2)
    assert torch.allclose(backbone.patch_embedding(patchify(image, 4)), by_convolution, atol=1e-4)


def test_one_voxel_is_one_distance_in_both_crop_sizes() -> None:
    """A local crop in the middle of a global one has the coordinates of the patches it covers."""
    in_global, in_local = patch_coordinates(4, 1.0), patch_coordinates(2, 0.5)
    middle = in_global.reshape(4, 4, 4, 3)[1:3, 1:3, 1:3].reshape(-1, 3)
    assert torch.allclose(in_local, middle)
    assert in_global.abs().max() == pytest.approx(0.75)
    assert in_global[1].tolist() == pytest.approx([-0.75, -0.75, -0.25])


def naive_rotate(x: list[float], coordinate: list[float]) -> list[float]:
    half, pairs = len(x) // 2, len(x) // 6
    turned = [0.0] * len(x)
    for axis in range(3):
        for j in range(pairs):
            i = axis * pairs + j
            angle = 2 * math.pi * coordinate[axis] / BASE ** (j / pairs)
            turned[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            turned[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return turned


def check_rotation(turn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    coordinates = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    expected = [naive_rotate(row, c) for row, c in zip(x.tolist(), coordinates.tolist(), strict=True)]
    assert torch.allclose(turn(x, *rotary_table(coordinates, 12)), torch.tensor(expected), atol=1e-5)


def test_rotation_equals_the_formula() -> None:
    check_rotation(rotate)


@pytest.mark.parametrize("wrong", [lambda x, c, s: rotate(x, c, s.abs()), lambda x, c, s: rotate(x, s, c), lambda x, c, s: x])
def test_a_planted_error_in_rotation_fails_the_check(wrong: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_rotation(wrong)


def test_rotated_products_depend_on_the_offset_alone() -> None:
    q, k = torch.randn(12, generator=torch.Generator().manual_seed(2)), torch.randn(12, generator=torch.Generator().manual_seed(3))
    near = torch.tensor([[0.1, -0.2, 0.3], [0.4, 0.1, -0.1]])
    products = []
    for shift in (0.0, 0.37):
        turned = rotate(torch.stack([q, k]), *rotary_table(near + shift, 12))
        products.append(float(turned[0] @ turned[1]))
    assert products[0] == pytest.approx(products[1], abs=1e-4)


def test_attention_equals_the_loop_over_heads() -> None:
    attention = Attention(12, 2)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        attention.query_bias += torch.arange(12)
        attention.value_bias -= torch.arange(12)
    q, k, v = attention.qkv(x).split(12, dim=-1)
    q, v = q + torch.arange(12), v - torch.arange(12)
    mixed = torch.zeros(2, 5, 12)
    for b, head in itertools.product(range(2), range(2)):
        channels = slice(6 * head, 6 * head + 6)
        scores = torch.softmax(q[b, :, channels] @ k[b, :, channels].T / math.sqrt(6), dim=-1)
        mixed[b, :, channels] = scores @ v[b, :, channels]
    found = attention(x.flatten(0, 1), [(2, 5)], [None]).view(2, 5, 12)
    assert torch.allclose(found, attention.out(mixed), atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "both"])
@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_every_shape_of_the_model_reads_both_crop_sizes(positions: str, pooling: str, registers: int, layer_scale: float | None) -> None:
    net = build(tiny(positions=positions, pooling=pooling, registers=registers, layer_scale=layer_scale))
    for edge in (16, 8):
        features = net.features(cubes(edge))
        assert features.shape == (2, 48 if pooling == "both" else 24)
        assert torch.isfinite(features).all()
        assert net.head(features).shape == (2, 6)
    net.head(net.features(cubes(16))).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_moving_anatomy_changes_the_feature(positions: str) -> None:
    net = build(tiny(positions=positions))
    if positions == "learned":
        torch.nn.init.normal_(net.backbone.positions, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    image = torch.zeros(1, 1, 16, 16, 16)
    image[..., :4, :4, :4], image[..., 4:8, 4:8, 4:8] = 1.0, -1.0
    moved = torch.zeros(1, 1, 16, 16, 16)
    moved[..., :4, :4, :4], moved[..., 12:, 12:, 12:] = 1.0, -1.0
    assert not torch.allclose(net.features(image), net.features(moved), atol=1e-4)


def test_layer_scale_of_zero_makes_blocks_the_identity() -> None:
    config = tiny(layer_scale=0.0, positions="rotary")
    backbone = build(config).backbone
    image = cubes(8)
    expected = backbone.norm(backbone.patch_embedding(patchify(image, 4))).mean(1)
    assert torch.allclose(backbone([image])[0].patches.mean(1), expected, atol=1e-6)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_packed_crops_of_two_sizes_read_as_each_size_alone(positions: str, pooling: str) -> None:
    backbone = build(tiny(positions=positions, pooling=pooling, registers=1, layer_scale=0.5)).backbone
    large, small = cubes(16, 3), cubes(8, 5, seed=1)
    together = backbone([large, small])
    for found, alone in zip(together, (backbone([large])[0], backbone([small])[0]), strict=True):
        assert torch.allclose(found.patches, alone.patches, atol=1e-5)
        assert (found.cls is None) == (alone.cls is None)
        if found.cls is not None:
            assert torch.allclose(found.cls, alone.cls, atol=1e-5)


@pytest.mark.parametrize("plain_products", [True, False])
@pytest.mark.parametrize("named", [None, [], [3, 64, 100, 101, 191]])
@pytest.mark.parametrize("also", [{}, {"registers": 2, "positions": "learned"}, {"depth": 1, "checkpoint_activations": True}])
def test_what_is_read_alone_is_what_it_is_among_all(
    plain_products: bool, named: list[int] | None, also: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLS of two sizes and some patches of the larger crops: values, and gradients of all weights, with masks and skipped branches."""
    if not plain_products:
        monkeypatch.setattr(trainer.model.attention, "FEW_TOKENS", 0)
    config = tiny(pooling="cls", layer_scale=0.7, **also)
    config.loss.ibot_weight = 1.0
    backbone = build(config).backbone.double()
    groups = [cubes(16, 3).double(), cubes(8, 5, seed=1).double()]
    random = torch.Generator().manual_seed(2)
    mask = torch.rand(3, 64, generator=random) < 0.3
    keep = torch.rand(config.model.depth, 2, 8, dtype=torch.float64, generator=random)
    picked = None if named is None else torch.tensor(named, dtype=torch.int64)

    def said(*, patches: bool) -> tuple[list[Tokens], list[Tensor]]:
        found = backbone(groups, mask=mask, keep=keep, picked=picked, patches=patches)
        outputs = [found[0].cls, found[1].cls, found[0].picked]
        loss = sum((output * torch.sin(torch.arange(output.numel()).view(output.shape))).sum() for output in outputs)
        return found, list(torch.autograd.grad(loss, list(backbone.parameters()), allow_unused=True))

    (few, of_few), (everything, of_all) = said(patches=False), said(patches=True)
    assert [tokens.patches.shape[1] for tokens in few] == [0, 0]
    assert few[0].picked.shape == (len(named or []), 24)
    assert len(few[1].picked) == 0
    for ours, whole in zip(few, everything, strict=True):
        torch.testing.assert_close(ours.cls, whole.cls, atol=1e-12, rtol=1e-10)
        torch.testing.assert_close(ours.picked, whole.picked, atol=1e-12, rtol=1e-10)
    for number, token in enumerate(named or []):
        assert torch.equal(everything[0].picked[number], everything[0].patches[token // 64, token % 64])
    for ours, whole in zip(of_few, of_all, strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-11, rtol=1e-9)


def test_recomputed_activations_give_the_same_gradient() -> None:
    gradients = []
    for again in (False, True):
        net = build(tiny(checkpoint_activations=again))
        net.features(cubes(16)).square().sum().backward()
        gradients.append([p.grad for p in net.backbone.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_a_masked_patch_reads_as_the_mask_token() -> None:
    config = tiny()
    config.loss.ibot_weight = 1.0
    backbone = build(config).backbone
    mask = torch.zeros(2, 64, dtype=torch.bool)
    mask[0, 5] = mask[1, 60] = True
    image, other = cubes(16), cubes(16)
    other[0, 0, 0:4, 4:8, 4:8] = 7.0  # patch 5 of the first crop
    other[1, 0, 12:16, 12:16, 0:4] = 7.0  # patch 60 of the second
    assert not torch.allclose(backbone([image])[0].patches, backbone([other])[0].patches, atol=1e-3)
    assert torch.allclose(backbone([image], mask=mask)[0].patches, backbone([other], mask=mask)[0].patches, atol=1e-5)


def test_drop_path_skips_the_branches_of_single_crops_and_keeps_the_expectation() -> None:
    backbone = build(tiny(depth=1)).backbone
    image = cubes(16, 3)
    keep = torch.ones(1, 2, 3)
    keep[0, :, 1] = 0.0
    found = backbone([image], keep=keep)[0].patches
    plain = backbone([image])[0].patches
    skipped = backbone.norm(backbone.patch_embedding(patchify(image, 4)))
    assert torch.allclose(found[[0, 2]], plain[[0, 2]], atol=1e-5)
    assert torch.allclose(found[1], skipped[1], atol=1e-5)


def test_positions_in_mm_depend_on_what_a_crop_spans() -> None:
    """Twice the millimetres are the positions of a crop twice as large; without positions both would read the same."""
    config = tiny(positions_unit="mm")
    config.data.phantom.spacing_mm = 5.0
    backbone = build(config).backbone
    image = cubes(16)
    nominal = backbone([image])[0].patches
    assert torch.allclose(backbone([image], edges_mm=[torch.tensor([80.0, 80.0])])[0].patches, nominal, atol=1e-5)
    wide = backbone([image], edges_mm=[torch.tensor([80.0, 160.0])])[0].patches
    assert torch.allclose(wide[0], nominal[0], atol=1e-5)
    assert not torch.allclose(wide[1], nominal[1], atol=1e-3)
    config.data.phantom.spacing_mm = 10.0
    assert torch.allclose(build(config).backbone([image])[0].patches[1], wide[1], atol=1e-5)


def test_the_written_gradient_of_attention_is_that_of_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes packed in one row, one with positions of its own for each crop, one without positions."""
    random = torch.Generator().manual_seed(0)
    attention = Attention(24, 2).double()
    x = torch.randn(3 * 8 + 2 * 5, 24, dtype=torch.float64, generator=random, requires_grad=True)
    shapes = [(3, 8), (2, 5)]
    rotaries = [rotary_table(torch.rand(3, 8, 3, generator=random) * 2 - 1, 12), None]
    above = torch.randn(x.shape, dtype=torch.float64, generator=random)

    def result() -> tuple[Tensor, ...]:
        mixed = attention(x, shapes, rotaries)
        return (mixed, *torch.autograd.grad(mixed, [x, *attention.parameters()], above))

    found = result()
    monkeypatch.setattr(trainer.model.attention, "FEW_TOKENS", 0)
    for ours, plain in zip(found, result(), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-10)


def test_the_written_gradient_holds_by_finite_differences() -> None:
    attention = Attention(12, 2).double()
    tables = [rotary_table(patch_coordinates(2, 1.0), 6), rotary_table(patch_coordinates(1, 0.5), 6)]
    x = torch.randn(2 * 8 + 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: attention(rows, [(2, 8), (3, 1)], tables), x)
    few = Read([2, 1], torch.tensor([0, 1, 8, 9, 16, 17, 18]), torch.tensor([0, 3, 4]), torch.tensor([0, 9, 16]))
    assert torch.autograd.gradcheck(lambda rows: attention(rows, [(2, 8), (3, 1)], tables, few), x)
