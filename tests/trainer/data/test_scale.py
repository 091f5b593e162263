"""Crops of a physical scale: the rules hold for the edges that were drawn, and the image is what lies there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from trainer.config import ConfigError, TrainerConfig, compose
from trainer.data import Batch, Scan, batches, load_scans
from trainer.data.batches import resized
from trainer.data.foreground import foreground_mask

SCALES = ("crops.global_scale_mm=[90,150]", "crops.local_scale_mm=[50,85]")


def scaled(*overrides: str) -> TrainerConfig:
    small = ("data.phantom.scans=4", "data.phantom.size_voxels=48", "loop.batch_size=4", "data.prefetch_batches=0", "crops.local_crops=3")
    return compose([*small, *SCALES, *overrides])


def drawn(settings: TrainerConfig, count: int = 6) -> tuple[list[Scan], list[Batch]]:
    scans = list(load_scans(settings))
    feed = batches(scans, (0, 1, 2, 3), settings, 0)
    return scans, [next(feed) for _ in range(count)]


def boxes(batch: Batch, row: int) -> list[tuple[np.ndarray, int]]:
    corners = np.concatenate([batch.global_corners[row], batch.local_corners[row]])
    return list(zip(corners, [*batch.global_edges[row].tolist(), *batch.local_edges[row].tolist()], strict=True))


def occupied(box: tuple[np.ndarray, int], shape: tuple[int, ...]) -> np.ndarray:
    filled = np.zeros(shape, dtype=bool)
    corner, edge = box
    filled[tuple(slice(c, c + edge) for c in corner)] = True
    return filled


def test_edges_fill_their_range_and_differ_between_views() -> None:
    _, seen = drawn(scaled(), 30)
    globals_ = np.concatenate([b.global_edges for b in seen]) * 5.0
    locals_ = np.concatenate([b.local_edges for b in seen]) * 5.0
    assert (globals_.min(), globals_.max(), locals_.min(), locals_.max()) == (90, 150, 50, 85)
    assert (globals_[:, 0] != globals_[:, 1]).mean() > 0.8


def test_overlap_ratio_and_containment_hold_for_the_edges_that_were_drawn() -> None:
    settings = scaled(
        "crops.min_global_overlap=0.2",
        "crops.localcrops_subset_of_globalcrops=true",
        "crops.foreground_crop_prob=1",
        "crops.min_foreground_ratio=0.4",
    )
    scans, seen = drawn(settings)
    for batch, row in itertools.product(seen, range(4)):
        scan = scans[int(batch.scan[row])]
        places = [occupied(box, scan.voxels.shape) for box in boxes(batch, row)]
        shared, union = (places[0] & places[1]).sum(), (places[0] | places[1]).sum()
        assert batch.global_iou[row] == pytest.approx(shared / union)
        assert shared / union >= 0.2
        mask = foreground_mask(scan.voxels, settings.crops.foreground, settings.crops.foreground_threshold)
        for view, place in enumerate(places):
            assert batch.ratio_own[row, view] == pytest.approx(mask[place].mean(), abs=1e-6)
            assert batch.violations[row, view] or mask[place].mean() >= 0.4
        for view, place in enumerate(places[2:]):
            inside = max((place & parent).sum() for parent in places[:2]) / place.sum()
            assert inside == 1.0
            assert batch.local_containment[row, view] == 1.0


def test_a_crop_shows_what_lies_in_its_box() -> None:
    """A crop whose edge is its number of voxels is cut; any other is a weighted mean of the same box."""
    scans, seen = drawn(scaled(), 8)
    for batch, row, view in itertools.product(seen, range(4), range(2)):
        corner, edge = boxes(batch, row)[view]
        box = scans[int(batch.scan[row])].voxels[tuple(slice(c, c + edge) for c in corner)]
        image = batch.globals[row, view, 0]
        assert image.shape == (24, 24, 24)
        assert box.min() <= image.min()
        assert image.max() <= box.max()
        assert float(image.mean()) == pytest.approx(float(box.mean()), abs=60)


def naive_resized(crop: np.ndarray, size: int) -> np.ndarray:
    edge = len(crop)
    width = max(edge / size, 1.0)
    weights = np.zeros((size, edge))
    for i, j in itertools.product(range(size), range(edge)):
        weights[i, j] = max(0.0, 1 - abs(j - ((i + 0.5) * edge / size - 0.5)) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ia,jb,kc,abc->ijk", weights, weights, weights, crop)


@pytest.mark.parametrize(("edge", "size"), [(7, 4), (4, 7), (9, 3), (5, 5)])
def test_resizing_equals_the_loop_keeps_axes_and_constants(edge: int, size: int) -> None:
    crop = np.random.default_rng(0).integers(-1000, 1000, (edge, edge, edge), dtype=np.int16)
    found = resized(crop, size)
    assert np.abs(found - naive_resized(crop, size)).max() <= 0.51
    with pytest.raises(AssertionError):
        assert np.abs(found - naive_resized(crop.transpose(1, 0, 2), size)).max() <= 0.51
    assert (resized(np.full_like(crop, -777), size) == -777).all()


def test_without_a_scale_in_mm_every_crop_spans_its_own_voxels() -> None:
    settings = compose(["data.phantom.scans=4", "data.phantom.size_voxels=48", "loop.batch_size=4", "data.prefetch_batches=0"])
    _, seen = drawn(settings, 2)
    assert all((b.global_edges == 24).all() and (b.local_edges == 16).all() for b in seen)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["crops.global_scale_mm=[150,90]"], "crops.global_scale_mm: expected"),
        (["crops.global_scale_mm=[150]"], "crops.global_scale_mm: expected"),
        (["crops.localcrops_subset_of_globalcrops=true", "crops.local_scale_mm=[50,100]"], "crops.local_scale_mm: local crops inside"),
        (["data.source=/nowhere"], "needs one spacing for all scans"),
    ],
)
def test_scales_that_cannot_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        scaled(*overrides)
