"""The page holds the scan, the crops as they are on record, and names as text; it is one small file."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import redraw
from trainer.config import TrainerConfig, compose
from trainer.data import Scan, batches, load_scans
from trainer.explorer import Drawn, write
from trainer.explorer.display import HU_OF_CODE, SHOWN_VOXELS, codes, factors

SMALL = ["data.phantom.scans=6", "data.phantom.size_voxels=48", "loop.batch_size=2"]


def content(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', page)
    assert found is not None
    return dict(json.loads(found[1]))


def blob(page: str, name: str) -> bytes:
    found = re.search(rf'id="{name}">(.*?)</script>', page)
    assert found is not None
    return gzip.decompress(base64.b64decode(found[1]))


def test_the_crops_are_those_of_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "crops.html"
    assert redraw.main(["--view", str(path), "--step", "0", "3", *SMALL, "--json"]) == redraw.EXIT_DONE
    printed = capsys.readouterr()
    rows, said = json.loads(printed.out), content(path.read_text(encoding="utf-8"))
    assert f"page: {path}" in printed.err
    assert [crop for place in said["places"] for crop in place["crops"]] == rows
    config = compose(SMALL)
    scans = load_scans(config)
    for place in said["places"]:
        batch = next(batches(scans, redraw.split_scans(config, len(scans)).train, config, place["step"]))
        assert scans[batch.scan[place["place"]]].name == said["scan"]
        assert [crop["ratio_own"] for crop in place["crops"]] == pytest.approx(batch.ratio_own[place["place"]].tolist(), abs=1e-6)
        corners = [[crop[f"corner_{axis}"] for axis in ("depth", "height", "width")] for crop in place["crops"]]
        assert corners == [*batch.global_corners[place["place"]].tolist(), *batch.local_corners[place["place"]].tolist()]
    own = said["thresholds"].index(config.crops.foreground_threshold)
    assert said["cropShares"][own] == pytest.approx([row["ratio_own"] for row in rows], abs=1e-6)
    assert [p.name for p in path.parent.iterdir()] == ["crops.html"]


def test_the_crops_of_a_run_are_held_against_its_record(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "crops.html"
    assert redraw.main(["--view", str(path), "--step", "2", f"run={tiny_run}"]) == redraw.EXIT_DONE
    said = content(path.read_text(encoding="utf-8"))
    assert {place["step"] for place in said["places"]} == {2}
    capsys.readouterr()


def test_a_step_that_did_not_draw_the_scan_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [*SMALL[:-1], "loop.batch_size=1"]  # so that a step draws one scan of several
    config, path = compose(few), tmp_path / "crops.html"
    config.data.prefetch_batches = 0
    scans = load_scans(config)
    train = redraw.split_scans(config, len(scans)).train
    drawn = {step: set(next(batches(scans, train, config, step)).scan.tolist()) for step in range(12)}
    scan, step = next((scan, step) for scan in train for step in drawn if scan not in drawn[step])
    with_it = next(step for step in drawn if scan in drawn[step])
    assert redraw.main(["--view", str(path), "--step", str(with_it), str(step), "--scan", str(scan), *few]) == redraw.EXIT_DONE
    assert content(path.read_text(encoding="utf-8"))["notes"][0].startswith(f"Step {step} did not draw {scans[scan].name} but ")
    assert redraw.main(["--view", str(path), "--step", str(step), "--scan", str(scan), *few]) == redraw.EXIT_INVALID
    assert "Name one of these, or other steps." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--view", "crops.min_global_overlap=0.3"], "--view: expected a path that ends in .html but got crops.min_global_overlap=0.3"),
        (["--step", "1", "2"], "--step: expected one step for a picture but got 1, 2. Add --view PATH.html."),
        (["--scan", "a"], "--scan: belongs to --view"),
        (["--view", "a.html", "--gallery"], "--gallery: is a picture over the data set"),
        (["--view", "a.html", "out=b.html"], "out: expected one place to write to but got a.html and b.html"),
        (["--view", "a.html", "--step", "-1"], "--step: expected at least 0 but got -1"),
        (["--view", "a.html", "--scan", "nobody", *SMALL], "--scan: expected a name or 0 to 5 but got 'nobody'. There are "),
    ],
)
def test_words_that_do_not_go_together_are_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert redraw.main(words) == redraw.EXIT_INVALID
    assert said in capsys.readouterr().err


def test_a_name_is_text_whatever_it_holds(planted: Scan, settings: TrainerConfig, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>&\"'<!--SCRIPT--><!--CONTENT-->\u2028"
    path = tmp_path / "crops.html"
    write(path, dataclasses.replace(planted, name=name), [], settings)
    page = path.read_text(encoding="utf-8")
    assert content(page)["scan"] == name
    assert "<img" not in page
    assert page.count("<!--") == 0, "every place is filled, and none by a name"


def test_the_page_asks_nothing_of_a_network(planted: Scan, settings: TrainerConfig, tmp_path: Path) -> None:
    write(tmp_path / "crops.html", planted, [Drawn(0, 0, [])], settings)
    page = (tmp_path / "crops.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page) == []


def test_a_noisy_scan_of_256_voxels_an_axis_stays_below_15_mb() -> None:
    noise = np.random.default_rng(0).integers(-1024, 3071, (256, 256, 256), dtype=np.int16)
    scan = Scan("noise", noise, (1.0, 1.0, 1.0), None, {})
    by = factors(scan)
    shown = codes(scan, by)
    maps = 2 * 40**3 * 33  # two kinds, every threshold, nothing saved by compression
    assert shown.size <= SHOWN_VOXELS
    assert (SHOWN_VOXELS + maps) * 4 / 3 < 14.5e6


def test_the_page_shows_means_over_blocks_to_the_nearest_step_of_hu(planted: Scan) -> None:
    voxels = np.random.default_rng(1).integers(-200, 300, (7, 6, 5)).astype(np.int16)
    scan = dataclasses.replace(planted, voxels=voxels, labels=None)
    shown = HU_OF_CODE[codes(scan, (2, 3, 4))]
    assert shown.shape == (4, 2, 2)
    for z, y, x in np.ndindex(shown.shape):
        block = voxels[2 * z : 2 * z + 2, 3 * y : 3 * y + 3, 4 * x : 4 * x + 4]
        assert abs(shown[z, y, x] - block.mean()) <= 2
    assert len(HU_OF_CODE) == 256
    assert (np.diff(HU_OF_CODE) > 0).all()


def test_the_volume_and_the_maps_are_on_the_page(planted: Scan, settings: TrainerConfig, tmp_path: Path) -> None:
    found = write(tmp_path / "crops.html", planted, [], settings)
    page = (tmp_path / "crops.html").read_text(encoding="utf-8")
    assert np.frombuffer(blob(page, "volume"), np.uint8).reshape(40, 40, 40)[22, 22, 22] == np.abs(HU_OF_CODE - 1200).argmin()
    assert blob(page, "map-global") == found.maps["global"].tobytes()
    assert blob(page, "map-local") == found.maps["local"].tobytes()
