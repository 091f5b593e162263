"""The gallery shows real crops: boxes where they lie, colours by parent, and words for ratios."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.config import TrainerConfig
from trainer.data import Batch, Scan, batches, load_scans
from trainer.viewer import GLOBALS, OUTSIDE, gallery


def small(subset: bool = True) -> TrainerConfig:
    config = TrainerConfig()
    config.data.phantom.scans, config.data.phantom.size_voxels = 5, 40
    config.crops.global_size_voxels, config.crops.local_size_voxels, config.crops.local_crops = 12, 4, 4
    config.crops.localcrops_subset_of_globalcrops = subset
    config.model.patch_size_voxels, config.loop.batch_size = 4, 6
    return config


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return load_scans(small())


def drawn(scans: list[Scan], config: TrainerConfig, path: Path) -> tuple[Batch, np.ndarray]:
    batch = next(batches(scans, range(5), config, 0))
    gallery(path, scans, batch, config)
    return batch, np.asarray(Image.open(path).convert("RGB"))


def count(pixels: np.ndarray, colour: tuple[int, int, int], top: int = 66) -> int:
    return int((pixels[top:] == colour).all(axis=2).sum())


@pytest.mark.parametrize("subset", [True, False])
def test_the_picture_is_a_small_png_with_both_globals(scans: list[Scan], subset: bool, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "gallery.png"
    _, pixels = drawn(scans, small(subset), path)
    assert path.stat().st_size < 500_000
    assert path.read_bytes().startswith(b"\x89PNG")
    assert all(count(pixels, colour) > 500 for colour in GLOBALS)
    assert [p.name for p in path.parent.iterdir()] == ["gallery.png"]


def test_a_local_in_neither_global_has_its_own_colour(scans: list[Scan], tmp_path: Path) -> None:
    batch, pixels = drawn(scans, small(subset=False), tmp_path / "a.png")
    assert (batch.local_containment[:4] < 1).any()
    assert count(pixels, OUTSIDE) > 100
    _, pixels = drawn(scans, small(subset=True), tmp_path / "b.png")
    assert count(pixels, OUTSIDE) == 0


def test_equal_batches_give_equal_pictures_and_others_do_not(scans: list[Scan], tmp_path: Path) -> None:
    config = small()
    feed = list(itertools.islice(batches(scans, range(5), config, 0), 2))
    for name, batch in zip("abc", (feed[0], feed[0], feed[1]), strict=True):
        gallery(tmp_path / name, scans, batch, config)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("locals_", [0, 1, 9])
def test_any_number_of_local_crops_fits(scans: list[Scan], locals_: int, tmp_path: Path) -> None:
    config = small()
    config.crops.local_crops = locals_
    _, pixels = drawn(scans, config, tmp_path / "g.png")
    assert pixels.shape[1] < 1200


def test_flat_voxels_and_coinciding_crops_are_drawn(scans: list[Scan], tmp_path: Path) -> None:
    """Slices 2.5 times as thick as wide, all crops of a scan at one place, crops as large as they come."""
    config = small()
    config.crops.local_size_voxels = 12
    thick = [Scan(s.name, s.voxels[:16], (12.5, 5.0, 5.0), None, {}) for s in scans]
    batch = next(batches(thick, range(5), config, 0))
    same = Batch(
        **{**vars(batch), "global_corners": np.zeros_like(batch.global_corners), "local_corners": np.zeros_like(batch.local_corners)}
    )
    gallery(tmp_path / "g.png", thick, same, config)
    pixels = np.asarray(Image.open(tmp_path / "g.png").convert("RGB"))
    assert all(count(pixels, colour) > 500 for colour in GLOBALS)
