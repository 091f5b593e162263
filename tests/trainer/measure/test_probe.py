"""The probe: fixed, held out, the same for every arm; a constant network scores chance on it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from trainer.config import TrainerConfig
from trainer.data import Scan, load_scans
from trainer.data.foreground import foreground_mask
from trainer.measure import Probe, ProbeError
from trainer.measure.probe import Embed

HELD_OUT = (3, 4)


def small() -> TrainerConfig:
    config = TrainerConfig()
    config.data.phantom.scans, config.data.phantom.size_voxels = 5, 40
    config.crops.global_size_voxels, config.crops.local_size_voxels = 12, 8
    config.model.patch_size_voxels, config.model.prototypes = 4, 16
    config.measure.crops_per_scan, config.measure.background_crops_per_scan = 12, 4
    return config


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return load_scans(small())


def pooled(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A network of a sort: mean, spread and slopes of a crop; fixed random prototypes."""
    x = images[:, 0]
    half = x.shape[1] // 2
    parts = [x.mean((1, 2, 3)), x.std((1, 2, 3))] + [
        np.take(x, range(half), a).mean((1, 2, 3)) - np.take(x, range(half, x.shape[a]), a).mean((1, 2, 3)) for a in (1, 2, 3)
    ]
    features = np.stack(parts, axis=1).astype(np.float32)
    return features, features @ np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)


def constant(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((len(images), 5), np.float32), np.zeros((len(images), 16), np.float32)


def fingerprint(probe: Probe) -> list[list[list[float]]]:
    names = ("scan", "corners", "local_corners", "background_corners", "ratio", "tissue", "globals", "locals")
    return [[np.ravel(getattr(scan, name)).tolist() for name in names] for scan in probe.scans]


def test_crops_hold_what_they_promise(scans: list[Scan]) -> None:
    config = small()
    probe = Probe(scans, HELD_OUT, config)
    assert [p.scan for p in probe.scans] == list(HELD_OUT)
    for p in probe.scans:
        body = foreground_mask(scans[p.scan].voxels, "body", config.measure.foreground_threshold)
        assert len(p.corners) == 12
        assert len({tuple(c) for c in p.corners.tolist()}) == 12
        for corner, local, image, local_image, ratio in zip(p.corners, p.local_corners, p.globals, p.locals, p.ratio, strict=False):
            d, h, w = corner
            assert body[d : d + 12, h : h + 12, w : w + 12].mean() == pytest.approx(ratio)
            assert ratio >= config.measure.rich_ratio
            assert (local >= corner).all()
            assert (local + 8 <= corner + 12).all()
            d, h, w = local - corner
            np.testing.assert_array_equal(image[0, d : d + 8, h : h + 8, w : w + 8], local_image[0])
        for (d, h, w), ratio in zip(p.background_corners, p.ratio[len(p.corners) :], strict=True):
            assert body[d : d + 12, h : h + 12, w : w + 12].mean() == pytest.approx(ratio)
            assert ratio <= config.measure.background_ratio


def moved(change: Callable[[TrainerConfig], None], scans: list[Scan]) -> bool:
    config = small()
    change(config)
    return fingerprint(Probe(scans, HELD_OUT, config)) != fingerprint(Probe(scans, HELD_OUT, small()))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("crops", "foreground_threshold", 500.0),
        ("crops", "foreground", "body"),
        ("crops", "foreground_crop_prob", 1.0),
        ("crops", "min_foreground_ratio", 0.9),
        ("crops", "localcrops_subset_of_globalcrops", True),
        ("crops", "min_global_overlap", 0.5),
        ("crops", "local_crops", 7),
        ("augment", "noise", 0.5),
        ("augment", "flip", True),
        ("loss", "matching_threshold", 0.9),
        ("model", "patch_size_voxels", 2),
    ],
)
def test_no_setting_of_an_arm_moves_the_yardstick(section: str, name: str, value: object, scans: list[Scan]) -> None:
    def change(config: TrainerConfig) -> None:
        setattr(getattr(config, section), name, value)

    assert not moved(change, scans)
    config = small()
    change(config)
    assert Probe(scans, HELD_OUT, config).measure(pooled) == Probe(scans, HELD_OUT, small()).measure(pooled)


def test_the_replicate_does_not_move_it_but_its_own_settings_do(scans: list[Scan]) -> None:
    assert not moved(lambda c: setattr(c, "seed", 7), scans)
    assert moved(lambda c: setattr(c.measure, "seed", 7), scans)
    assert moved(lambda c: setattr(c.measure, "rich_ratio", 0.9), scans)


def test_a_scan_has_the_same_crops_whatever_else_is_held_out(scans: list[Scan]) -> None:
    alone, among = Probe(scans, [4], small()), Probe(scans, [0, 4, 1], small())
    assert fingerprint(alone)[0] == fingerprint(among)[1]


def test_measuring_twice_is_the_same_and_changes_nothing(scans: list[Scan]) -> None:
    probe = Probe(scans, HELD_OUT, small())
    before = copy.deepcopy(fingerprint(probe))
    assert probe.measure(pooled) == probe.measure(pooled)
    assert fingerprint(probe) == before


def test_all_measures_are_there_finite_and_plain(scans: list[Scan]) -> None:
    found = Probe(scans, HELD_OUT, small()).measure(pooled)
    expected = {"local_to_global_mrr", "knn_accuracy", "anatomy_nmi", "feature_std", "rankme", "prototype_entropy", "marginal_entropy"}
    expected |= {"lidar", "raw_local_to_global_mrr", "organ_knn", "organ_linear", "raw_organ_knn", "raw_organ_linear"}
    expected |= {"prototype_entropy_foreground", "foreground_mutual_information", "prototype_usage"}
    assert {f"probe/{name}" for name in expected} <= found.keys()
    assert all(name.startswith("probe/") and type(value) is float and math.isfinite(value) for name, value in found.items())


def test_a_constant_network_scores_chance_and_one_that_sees_scores_more(scans: list[Scan]) -> None:
    probe = Probe(scans, HELD_OUT, small())
    chance = sum(1 / r for r in range(1, 13)) / 12
    assert probe.measure(constant)["probe/local_to_global_mrr"] == pytest.approx(chance)
    assert probe.measure(pooled)["probe/local_to_global_mrr"] > 1.15 * chance


def test_a_network_that_reads_only_scanner_noise_gains_nothing(scans: list[Scan]) -> None:
    """Without new noise the local crop's lowest bits would name its parent; views of both are changed apart."""
    seen: list[np.ndarray] = []

    def spy(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(images.copy())
        return pooled(images)

    probe = Probe(scans, HELD_OUT, small())
    probe.measure(spy)
    first = probe.scans[0]
    parents, locals_ = seen[1], seen[2]
    assert parents.shape == first.globals[:12].shape
    for corner, local, parent, image in zip(first.corners, first.local_corners, parents, locals_, strict=True):
        d, h, w = local - corner
        same_place = parent[0, d : d + 8, h : h + 8, w : w + 8]
        slope, shift = np.polyfit(image[0].ravel(), same_place.ravel(), 1)
        residual = same_place - (slope * image[0] + shift)
        assert residual.std() > 0.03  # .03 of new noise in each


def test_crops_are_spread_farther_than_uniform_draws(scans: list[Scan]) -> None:
    def nearest(corners: np.ndarray) -> float:
        apart = np.linalg.norm(corners[:, None] - corners[None], axis=2) + 1e9 * np.eye(len(corners))
        return float(apart.min(axis=1).mean())

    config = small()
    probe = Probe(scans, HELD_OUT, config)
    rng = np.random.default_rng(0)
    for p in probe.scans:
        body = foreground_mask(scans[p.scan].voxels, "body", config.measure.foreground_threshold)
        windows = np.lib.stride_tricks.sliding_window_view(body, (12, 12, 12)).mean(axis=(3, 4, 5))
        feasible = np.argwhere(windows >= config.measure.rich_ratio)
        uniform = np.mean([nearest(feasible[rng.choice(len(feasible), 12, replace=False)]) for _ in range(50)])
        assert nearest(p.corners) > 1.2 * uniform


def test_scans_without_labels_leave_anatomy_out(scans: list[Scan]) -> None:
    bare = [dataclasses.replace(scan, labels=None) for scan in scans]
    found = Probe(bare, HELD_OUT, small()).measure(pooled)
    assert not [name for name in found if "anatomy" in name or "knn" in name or "organ" in name]
    assert "probe/local_to_global_mrr" in found


def test_of_many_held_out_scans_the_first_ones_are_read(scans: list[Scan]) -> None:
    config = small()
    config.measure.scans_at_most = 2
    assert [p.scan for p in Probe(scans, (3, 1, 4, 0), config).scans] == [3, 1]


def test_raw_intensities_are_asked_the_same_whatever_the_network(scans: list[Scan]) -> None:
    probe = Probe(scans, HELD_OUT, small())
    blind, seeing = probe.measure(constant), probe.measure(pooled)
    raw = [name for name in blind if name.startswith("probe/raw_")]
    assert len(raw) == 3
    assert all(blind[name] == seeing[name] for name in raw)
    assert blind["probe/organ_linear"] == pytest.approx(0.5)
    assert seeing["probe/organ_linear"] > 0.55


def test_no_held_out_scan_is_said_with_its_mend(scans: list[Scan]) -> None:
    with pytest.raises(ProbeError, match=r"Raise data\.select_share"):
        Probe(scans, (), small())


def test_scans_without_body_are_said_with_the_fullest_crop(scans: list[Scan]) -> None:
    air = [dataclasses.replace(scan, voxels=np.full_like(scan.voxels, -1000)) for scan in scans]
    with pytest.raises(ProbeError, match=r"has 0\.000\. Lower measure\.rich_ratio"):
        Probe(air, HELD_OUT, small())


def test_a_scan_with_few_feasible_places_gives_all_of_them(scans: list[Scan]) -> None:
    config = small()
    voxels = np.full((40, 40, 40), -1000, np.int16)
    voxels[10:22, 10:22, 10:23] = 50
    config.measure.rich_ratio = 0.99
    probe = Probe([dataclasses.replace(scans[0], voxels=voxels)], [0], config)
    assert sorted(probe.scans[0].corners.tolist()) == [[10, 10, 10], [10, 10, 11]]
    assert probe.measure(constant)["probe/local_to_global_mrr"] == pytest.approx(0.75)


def naive_mrr(probe: Probe, embed: Embed, views: list[np.ndarray]) -> float:
    """From the images that the network was shown: plain, parents, locals for each scan."""
    values = []
    for n in range(len(probe.scans)):
        parents, locals_ = embed(views[3 * n + 1])[0], embed(views[3 * n + 2])[0]
        for i, local in enumerate(locals_):
            cosine = [float(local @ p) / math.hypot(*local.tolist()) / math.hypot(*p.tolist()) for p in parents]
            values.append(1 / sum(c >= cosine[i] for c in cosine))
    return sum(values) / len(values)


def test_retrieval_equals_a_loop_within_each_scan(scans: list[Scan]) -> None:
    seen: list[np.ndarray] = []

    def spy(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(images.copy())
        return pooled(images)

    probe = Probe(scans, HELD_OUT, small())
    found = probe.measure(spy)["probe/local_to_global_mrr"]
    assert found == pytest.approx(naive_mrr(probe, pooled, seen))
    with pytest.raises(AssertionError):  # planted: parents of the other scan
        assert found == pytest.approx(naive_mrr(probe, pooled, [seen[i] for i in (0, 4, 2, 3, 1, 5)]))
