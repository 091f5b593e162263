"""Patch features as colours: planted networks that tell air from body and that tell nothing, and the geometry of the map."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from trainer.config import TrainerConfig
from trainer.data import Scan, load_scans
from trainer.measure import Probe
from trainer.measure.yardstick import ScanProbe
from trainer.pictures import PatchMap, draw_patches, patch_map
from trainer.pictures.components import explained_by, principal, shaded, told_apart, turned
from trainer.pictures.patches import AT_ONCE, CUBES

PATCH = 4


def settings() -> TrainerConfig:
    config = TrainerConfig()
    config.data.phantom.scans, config.data.phantom.size_voxels = 4, 48
    config.crops.global_size_voxels, config.crops.local_size_voxels = 12, 8
    config.model.patch_size_voxels = PATCH
    config.measure.crops_per_scan, config.measure.background_crops_per_scan = 8, 2
    return config


@pytest.fixture(scope="module")
def probe() -> ScanProbe:
    return Probe(load_scans(settings()), [0], settings()).scans[0]


def patch_means(images: np.ndarray, patch: int = PATCH) -> np.ndarray:
    n, grid = len(images), images.shape[-1] // patch
    return images.reshape(n, grid, patch, grid, patch, grid, patch).mean(axis=(2, 4, 6))


def separating(images: np.ndarray) -> np.ndarray:
    """Air one way, all else another way, with a little of everything else."""
    means = patch_means(images)
    noise = np.random.default_rng(0).standard_normal((*means.shape, 6)) * 0.05
    noise[..., 0] += np.where(means > -0.9, 1.0, -1.0)
    return noise.astype(np.float32)


def collapsed(images: np.ndarray) -> np.ndarray:
    """One direction for all, but for noise."""
    return (1 + 1e-3 * np.random.default_rng(0).standard_normal((*patch_means(images).shape, 6))).astype(np.float32)


def colour_distance(found: PatchMap) -> float:
    """Between the mean colours of cells full of body and cells of air, of 255."""
    colours = np.concatenate([part.reshape(-1, 3) for part in found.colours]).astype(float)
    body = np.concatenate([plane.body.ravel() for plane in found.planes])
    return float(np.abs(colours[body > 0.95].mean(axis=0) - colours[body < 0.01].mean(axis=0)).mean())


def test_a_network_that_tells_air_from_body_has_colours_that_separate(probe: ScanProbe) -> None:
    found = patch_map(probe, separating, settings())
    assert colour_distance(found) > 80
    assert found.told_apart is not None
    assert found.told_apart > 0.9
    assert found.title().startswith("Patch features tell body from background (AUC ")
    assert found.explained[0] > 0.9


def test_a_collapsed_network_has_one_colour_and_says_so(probe: ScanProbe) -> None:
    found = patch_map(probe, collapsed, settings())
    assert colour_distance(found) < 3
    colours = np.concatenate([part.reshape(-1, 3) for part in found.colours]).astype(int)
    assert np.ptp(colours, axis=0).max() < 30
    assert "hardly differ" in found.title()
    exactly = patch_map(probe, lambda images: np.ones((*patch_means(images).shape, 6), np.float32), settings())
    assert exactly.explained == (0.0, 0.0, 0.0)
    assert colour_distance(exactly) == 0


def test_noise_of_full_length_does_not_pass_for_anatomy(probe: ScanProbe) -> None:
    found = patch_map(probe, lambda images: np.random.default_rng(0).standard_normal((*patch_means(images).shape, 6)), settings())
    assert found.told_apart is not None
    assert found.told_apart < 0.7
    assert found.title().startswith("Patch features do not tell")


@pytest.mark.parametrize(
    ("patch", "size", "shape"),
    [(4, 12, (48, 48, 48)), (3, 9, (30, 44, 37)), (4, 16, (17, 40, 33)), (6, 6, (20, 31, 26)), (2, 16, (48, 48, 48))],
)
def test_cells_lie_where_their_patches_lie(probe: ScanProbe, patch: int, size: int, shape: tuple[int, int, int]) -> None:
    """A network that gives back the brightness of its patches must give the scan's own map, in every plane, upright and in place."""
    config = settings()
    config.model.patch_size_voxels, config.crops.global_size_voxels = patch, size
    voxels = np.ascontiguousarray(probe.owner.voxels[: shape[0], : shape[1], : shape[2]])
    scan = Scan("cut", voxels, (5.0, 4.0, 3.0), None, {})
    own = replace(probe, owner=scan, corners=np.array([[n // 2 - size // 2 for n in shape]]), config=config)
    found = patch_map(own, lambda images: np.repeat(patch_means(images, patch)[..., None], 2, axis=-1), config)
    for plane in found.planes:
        for across, axis in zip(plane.body.shape, (n for n in range(3) if n != plane.axis), strict=True):
            assert 0 <= shape[axis] - across * plane.edge < plane.edge
        seen, true = plane.features[..., 0], plane.brightness
        upright = np.corrcoef(seen.ravel(), true.ravel())[0, 1]
        assert upright > 0.9
        assert upright > np.corrcoef(seen[::-1].ravel(), true.ravel())[0, 1] + 0.02
        assert upright > np.corrcoef(seen[:, ::-1].ravel(), true.ravel())[0, 1] or plane.axis != 2
    assert found.by_brightness > 0.8
    draw_patches(found)


def test_components_equal_those_of_a_singular_value_decomposition() -> None:
    features = np.random.default_rng(0).standard_normal((200, 7)) * np.arange(7, 0, -1)
    scores, explained = principal(features)
    centred = features - features.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(scores) == pytest.approx(np.abs(left * values)[:, :3])
    assert explained == pytest.approx((values**2 / (values**2).sum())[:3].tolist())
    narrow, shares = principal(features[:, :1])
    assert shares == pytest.approx((1.0, 0.0, 0.0))
    assert not narrow[:, 1:].any()


def test_signs_do_not_depend_on_the_run() -> None:
    random = np.random.default_rng(0)
    references = {"with brightness": random.standard_normal(300), "toward the head": random.standard_normal(300)}
    scores = np.stack([references["with brightness"], -references["toward the head"], random.standard_normal(300)], axis=1)
    scores += 0.3 * random.standard_normal(scores.shape)
    one, meanings = turned(scores, references)
    other, same = turned(-scores, references)
    assert np.array_equal(one, other)
    assert meanings == same
    assert [words.split(",")[0] for words in meanings[:2]] == ["rises with brightness", "rises toward the head"]
    assert np.corrcoef(one[:, 1], references["toward the head"])[0, 1] > 0


def test_how_well_a_score_tells_apart_equals_counting_all_pairs() -> None:
    random = np.random.default_rng(0)
    score, body = random.integers(0, 9, 80).astype(float), random.random(80) < 0.4
    score[body] += 2
    pairs = [(b > a) + 0.5 * (b == a) for b in score[body] for a in score[~body]]
    assert told_apart(score, body, ~body) == pytest.approx(sum(pairs) / len(pairs))
    assert told_apart(-score, body, ~body) == pytest.approx(sum(pairs) / len(pairs))
    assert told_apart(score, body, np.zeros(80, bool)) is None


def test_what_one_value_explains_equals_the_regression_of_each_feature() -> None:
    random = np.random.default_rng(0)
    one = random.standard_normal(60)
    features = np.outer(one, [2.0, 0.0, -1.0]) + random.standard_normal((60, 3)) + 5
    residual = 0.0
    for column in features.T:
        slope, intercept = np.polyfit(one, column, 1)
        residual += sum((value - slope * at - intercept) ** 2 for at, value in zip(one, column, strict=True))
    total = ((features - features.mean(axis=0)) ** 2).sum()
    assert explained_by(features, one) == pytest.approx(1 - residual / total)
    assert explained_by(features, np.ones(60)) == 0.0


def test_colours_are_what_the_published_transform_gives() -> None:
    """One colour by hand: OKLab L = .6, a = b = 0 is a grey whose linear value is L^3."""
    grey = shaded(np.zeros((3, 3)), 1.0)
    linear = 0.6**3
    assert grey[0].tolist() == pytest.approx([round(255 * (1.055 * linear ** (1 / 2.4) - 0.055))] * 3, abs=1)
    scores = np.random.default_rng(0).standard_normal((500, 3))
    light = shaded(scores, math.sqrt(3)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert np.corrcoef(light, scores[:, 0])[0, 1] > 0.95, "the first component is lightness, for every reader"


def test_features_that_are_not_finite_are_refused(probe: ScanProbe) -> None:
    with pytest.raises(ValueError, match="finite features"):
        patch_map(probe, lambda images: np.full((*patch_means(images).shape, 2), np.inf), settings())


@pytest.mark.parametrize(("patch", "size"), [(4, 12), (3, 9), (4, 16)])
def test_a_cell_is_centred_on_its_patches(probe: ScanProbe, patch: int, size: int) -> None:
    """In a scan whose HU rise by 10 a voxel along one axis, a patch's mean says where it lies, to a part of a voxel."""
    config, shape = settings(), (29, 43, 38)
    config.model.patch_size_voxels, config.crops.global_size_voxels = patch, size
    for axis in range(3):
        ramp = np.broadcast_to(np.expand_dims(10 * np.arange(shape[axis]) - 390, tuple({0, 1, 2} - {axis})), shape)
        scan = Scan("ramp", ramp.astype(np.int16), (5.0, 5.0, 5.0), None, {})
        own = replace(probe, owner=scan, corners=np.array([[n // 2 - size // 2 for n in shape]]), config=config)
        found = patch_map(own, lambda images: (patch_means(images, patch)[..., None] * 400 + 390) / 10, config)
        for plane in found.planes:
            others = [n for n in range(3) if n != plane.axis]
            if axis == plane.axis:
                assert np.abs(plane.features - plane.index).max() <= patch / 2
                continue
            along = others.index(axis)
            places = plane.start[along] + plane.edge * (np.arange(plane.body.shape[along]) + 0.5) - 0.5
            seen = plane.features[..., 0].mean(axis=1 - along)
            inner = slice(size // plane.edge, -(size // plane.edge))
            assert seen[inner] == pytest.approx(places[inner], abs=0.01)


@pytest.mark.parametrize(("patch", "size", "shape"), [(4, 16, (90, 130, 120)), (8, 8, (64, 200, 200)), (2, 4, (30, 400, 60))])
def test_a_large_scan_is_covered_by_a_bounded_number_of_cubes(probe: ScanProbe, patch: int, size: int, shape: tuple[int, int, int]) -> None:
    config = settings()
    config.model.patch_size_voxels, config.crops.global_size_voxels = patch, size
    voxels = np.random.default_rng(0).integers(-300, 300, shape).astype(np.int16)
    own = replace(probe, owner=Scan("large", voxels, (5.0, 5.0, 5.0), None, {}), corners=np.array([[n // 2 for n in shape]]), config=config)
    asked = []

    def counting(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return np.repeat(patch_means(images, patch)[..., None], 2, axis=-1)

    found = patch_map(own, counting, config)
    side_by_side = sum(-(-shape[a] // size) * -(-shape[b] // size) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert sum(asked) <= max(CUBES, side_by_side)
    assert max(asked) <= AT_ONCE
    assert all(np.isfinite(plane.features).all() for plane in found.planes), "every cell is under some patch"
