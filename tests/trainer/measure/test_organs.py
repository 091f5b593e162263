"""Organs are asked of crops and patches of scans, or slabs of one scan, that were kept apart."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from trainer.config import TrainerConfig
from trainer.data import Scan, cut, load_scans
from trainer.measure import Probe
from trainer.measure.organs import OrganProbe

HELD_OUT = (2, 3, 4)


def small() -> TrainerConfig:
    config = TrainerConfig()
    config.data.phantom.scans, config.data.phantom.size_voxels = 5, 40
    config.crops.global_size_voxels, config.crops.local_size_voxels = 12, 8
    config.model.patch_size_voxels = 4
    config.measure.crops_per_scan, config.measure.background_crops_per_scan = 16, 2
    return config


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return load_scans(small())


def organs(scans: list[Scan], held_out: tuple[int, ...] = HELD_OUT) -> OrganProbe:
    return OrganProbe(Probe(scans, held_out, small()).scans, small())


class Knowing:
    """A network that was told the labels: by the bytes of a crop it knows where it lies."""

    def __init__(self, scans: list[Scan]) -> None:
        self.at = {}
        config = small()
        for scan in scans:
            corners = np.stack(np.meshgrid(*[np.arange(29)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
            for corner, image in zip(corners, cut(scan, corners, 12, config.data), strict=True):
                self.at[image.tobytes()] = (scan, corner)

    def labels(self, images: np.ndarray) -> list[np.ndarray]:
        found = []
        for image in images:
            scan, (d, h, w) = self.at[image.tobytes()]
            assert scan.labels is not None
            found.append(scan.labels[d : d + 12, h : h + 12, w : w + 12])
        return found

    def image(self, images: np.ndarray) -> np.ndarray:
        return np.array([[float((crop == n).sum()) for n in range(1, 26)] for crop in self.labels(images)])

    def patches(self, images: np.ndarray) -> np.ndarray:
        out = np.zeros((len(images), 3, 3, 3, 25))
        for i, crop in enumerate(self.labels(images)):
            for a, b, c in np.ndindex(3, 3, 3):
                cube = crop[4 * a : 4 * a + 4, 4 * b : 4 * b + 4, 4 * c : 4 * c + 4]
                out[i, a, b, c] = [(cube == n).sum() for n in range(1, 26)]
        return out


@pytest.fixture(scope="module")
def knowing(scans: list[Scan]) -> Knowing:
    return Knowing([scans[i] for i in (3, 4)])


def test_a_network_that_knows_the_labels_is_nearly_perfect_and_a_blind_one_scores_chance(scans: list[Scan], knowing: Knowing) -> None:
    probe = organs(scans, (3, 4))
    told = probe.measure(knowing.image, knowing.patches)
    assert told["patch_organ_linear"] > 0.9
    assert told["patch_organ_knn"] > 0.85
    assert told["organ_linear"] > 0.8
    blind = probe.measure(lambda x: np.ones((len(x), 3)), lambda x: np.ones((len(x), 3, 3, 3, 2)))
    assert blind["organ_linear"] == pytest.approx(0.5)
    assert blind["organ_knn"] == pytest.approx(0.5)
    assert blind["patch_organ_linear"] < 0.35
    assert all(blind[name] == told[name] for name in blind if name.startswith("raw_"))


def test_patches_in_another_order_are_found_out(scans: list[Scan], knowing: Knowing) -> None:
    """The planted error: tokens in (width, height, depth) order."""
    turned = organs(scans, (3, 4)).measure(knowing.image, lambda x: knowing.patches(x).transpose(0, 3, 2, 1, 4))
    assert turned["patch_organ_linear"] < 0.8


def test_without_patches_only_crops_are_asked(scans: list[Scan], knowing: Knowing) -> None:
    assert set(organs(scans, (3, 4)).measure(knowing.image, None)) == {"organ_knn", "organ_linear", "raw_organ_knn", "raw_organ_linear"}


def test_features_that_are_known_already_are_not_asked_for_again(scans: list[Scan], knowing: Knowing) -> None:
    def never(images: np.ndarray) -> np.ndarray:
        raise AssertionError("asked again")

    probe = organs(scans, (3, 4))
    known = {block.probe.scan: knowing.image(probe._cut(block)) for block in probe._blocks}
    assert probe.measure(never, None, known) == probe.measure(knowing.image, None)


def test_scans_are_kept_apart(scans: list[Scan]) -> None:
    probe = organs(scans)
    assert probe._crops is not None
    assert len(set(probe._crops[0].fold.tolist())) == 3
    for number, block in enumerate(probe._blocks):
        assert block.probe.owner is scans[HELD_OUT[number]]
        assert set(probe._crops[0].fold[number * 16 : (number + 1) * 16].tolist()) == {number}


def test_slabs_of_one_labelled_scan_share_no_voxel(scans: list[Scan]) -> None:
    only = [dataclasses.replace(scan, labels=None) if n != 3 else scan for n, scan in enumerate(scans)]
    probe = organs(only)
    assert len(probe._blocks) == 3  # 40 voxels hold three crops of 12
    spans = []
    for block in probe._blocks:
        assert block.probe.owner is only[3]
        spans.append((int(block.corners[:, 0].min()), int(block.corners[:, 0].max()) + 12))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_crop_shows_an_organ_by_the_organs_own_size(scans: list[Scan]) -> None:
    for block in organs(scans)._blocks:
        labels = block.probe.owner.labels
        assert labels is not None
        probe = organs(scans)
        for (d, h, w), shares in list(zip(block.corners.tolist(), block.shares.tolist(), strict=True))[:4]:
            crop = labels[d : d + 12, h : h + 12, w : w + 12]
            for label, name in block.probe.owner.label_names.items():
                whole = (labels == label).sum()
                expected = (crop == label).sum() / whole if whole else 0
                assert shares[probe._organs.index(name)] == pytest.approx(expected)


def test_patches_are_of_the_organ_of_half_of_their_voxels(scans: list[Scan]) -> None:
    probe = organs(scans)
    for block in probe._blocks:
        labels = block.probe.owner.labels
        assert labels is not None
        counts = np.bincount(block.patch_organ, minlength=len(probe._organs))
        assert counts.max() <= 32
        for patch, organ in zip(block.patch.tolist(), block.patch_organ.tolist(), strict=True):
            crop, place = divmod(patch, 27)
            d, h, w = block.corners[crop] + 4 * np.array(np.unravel_index(place, (3, 3, 3)))
            held = labels[d : d + 4, h : h + 4, w : w + 4].ravel().tolist()
            names = [block.probe.owner.label_names.get(n) for n in held]
            assert names.count(probe._organs[organ]) >= 32


def test_organs_are_the_same_by_name_whatever_their_number(scans: list[Scan], knowing: Knowing) -> None:
    """As where two scans were labelled by different tools."""
    scan = scans[4]
    assert scan.labels is not None
    shifted = np.where(scan.labels > 0, scan.labels.astype(np.int16) + 300, 0).astype(np.int16)
    other = dataclasses.replace(scan, labels=shifted, label_names={n + 300: name for n, name in scan.label_names.items()})
    renamed = [*scans[:4], other]
    assert organs(renamed, (3, 4)).measure(knowing.image, None) == organs(scans, (3, 4)).measure(knowing.image, None)


def test_labels_without_names_or_without_a_voxel_do_no_harm(scans: list[Scan], knowing: Knowing) -> None:
    nameless = [dataclasses.replace(scan, label_names={}) for scan in scans]
    assert "organ_linear" in organs(nameless, (3, 4)).measure(knowing.image, None)
    scan = scans[3]
    assert scan.labels is not None
    empty = [dataclasses.replace(scan, labels=np.zeros_like(scan.labels)) for scan in scans]
    assert organs(empty).measure(knowing.image, knowing.patches) == {}
    assert len(organs([*empty[:3], *scans[3:]])._blocks) == 2
