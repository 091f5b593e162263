"""The crop viewer in a real browser: sliders, planes, windows, keys, phone and dark, with nothing asked of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Browser

from trainer.config import TrainerConfig
from trainer.data import Scan, batches
from trainer.explorer import Drawn, write
from trainer.explorer.feasible import Feasible
from trainer.redraw import lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAME = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Feasible, list[dict[str, Any]]]:
    """Air, a block of tissue from 4 to 36, and bone from 20 to 36 along each axis; crops of two places of a batch."""
    voxels = np.full((40, 40, 40), -1000, dtype=np.int16)
    labels = np.zeros(voxels.shape, dtype=np.uint8)
    for part, hu, label in ((slice(4, 36), 40, 1), (slice(20, 36), 1200, 2)):
        voxels[part, part, part], labels[part, part, part] = hu, label
    scan = Scan("planted", voxels, (2.0, 1.0, 1.0), labels, {1: "tissue", 2: "<b>bone</b>"})
    config = TrainerConfig()
    config.crops.global_size_voxels, config.crops.local_size_voxels, config.crops.local_crops = 12, 6, 3
    config.crops.foreground_crop_prob, config.crops.min_foreground_ratio = 1.0, 0.35
    config.model.patch_size_voxels, config.loop.batch_size, config.data.prefetch_batches = 3, 2, 0
    scan = dataclasses.replace(scan, name=NAME)
    batch = next(batches([scan, scan], [0, 1], config, 0))
    rows = lines([scan, scan], batch, config)
    path = tmp_path_factory.mktemp("viewer") / "crops.html"
    found = write(path, scan, [Drawn(0, n, rows[5 * n : 5 * n + 5]) for n in range(2)], config)
    return path, found, rows


@pytest.fixture(params=[(False, 1400), (True, 390)], ids=["light", "dark phone"])
def seen(shown: tuple[Path, Feasible, list[dict[str, Any]]], browse: Callable[..., Browser], request: pytest.FixtureRequest) -> Browser:
    dark, width = request.param
    seen = browse(width=width, dark=dark, own=None)
    seen.refuse_dialogs()
    seen.page.goto(shown[0].as_uri())
    seen.page.wait_for_selector("html[data-ready]")
    return seen


@pytest.fixture
def page(seen: Browser) -> Any:
    return seen.page


def settle(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def slide(page: Any, name: str, to: int) -> None:
    page.locator(f"#{name}").evaluate("(s, to) => { s.value = to; s.dispatchEvent(new Event('input')); }", to)
    settle(page)


def share(page: Any, kind: str) -> float:
    return float(page.locator(f"#histogram-{kind} figcaption").get_attribute("data-share"))


def shot(page: Any, axis: int) -> str:
    return str(page.locator(f"#plane-{axis}").evaluate("(c) => c.toDataURL()"))


def test_sliders_say_the_samplers_share_and_what_is_left(page: Any, shown: tuple[Path, Feasible, list[dict[str, Any]]]) -> None:
    found = shown[1]
    assert share(page, "global") == found.shares["global"][found.thresholds_hu.index(-500), found.ratios.index(0.35)]
    for threshold, ratio in ((500, 0.35), (500, 1.0), (-1000, 0.1), (0, 0.6)):
        row, column = found.thresholds_hu.index(threshold), found.ratios.index(ratio)
        before = shot(page, 0)
        slide(page, "threshold", row)
        slide(page, "ratio-global", column)
        assert {kind: share(page, kind) for kind in found.shares} == {kind: values[row, column] for kind, values in found.shares.items()}
        assert page.locator("#threshold-said").text_content() == f"{threshold} HU"
        assert shot(page, 0) != before, "the map on the slice moves with the sliders"
    slide(page, "threshold", found.thresholds_hu.index(500))
    assert page.locator("#consists").text_content().endswith("6.4 % of the scan; of this, by its labels: <b>bone</b> 100.0 %.")
    page.click("#as-set")
    settle(page)
    assert page.locator("#threshold-said").text_content() == "-500 HU"
    page.focus("#threshold")
    page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator("#threshold-said").text_content() == "-450 HU", "by keyboard"


def test_feasible_cells_lie_where_bone_does(page: Any, shown: tuple[Path, Feasible, list[dict[str, Any]]]) -> None:
    found = shown[1]
    page.select_option("#overlay", "global")
    page.uncheck("#beside")
    slide(page, "threshold", found.thresholds_hu.index(500))
    slide(page, "ratio-global", found.ratios.index(1.0))
    for axis in range(3):
        slide(page, f"slice-{axis}", 28)
    colour = """(canvas, [x, y]) => { const c = canvas.getContext("2d", { willReadFrequently: true });
        const at = c.getImageData(Math.round(x / 40 * canvas.width), Math.round(y / 40 * canvas.height), 1, 1).data; return [...at]; }"""
    page.select_option("#place", "1")
    settle(page)
    plane = page.locator("#plane-0")
    feasible, not_so = plane.evaluate(colour, [30.3, 27.3]), plane.evaluate(colour, [12.3, 34.2])
    assert feasible[0] - feasible[2] > 30, "yellow: a crop centred there is all bone"
    assert not_so[0] == not_so[2], "grey"


def test_planes_follow_the_cross_hair_wheel_and_keys(page: Any) -> None:
    captions = page.locator("#planes figcaption")
    for axis in range(3):
        slide(page, f"slice-{axis}", 10)
    assert captions.all_text_contents() == [
        "axial: depth 10 of 40",
        "coronal: height 10 of 40",
        "sagittal: width 10 of 40",
    ]
    page.focus("#plane-0")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "PageUp", "Shift+PageUp"):
        page.keyboard.press(key)
    settle(page)
    assert captions.all_text_contents() == ["axial: depth 21 of 40", "coronal: height 12 of 40", "sagittal: width 11 of 40"]
    page.focus("#plane-1")
    page.keyboard.press("ArrowUp")
    settle(page)
    assert captions.nth(0).text_content() == "axial: depth 22 of 40", "the head is on top"
    page.locator("#plane-2").scroll_into_view_if_needed()
    page.locator("#plane-2").hover()
    page.mouse.wheel(0, 100)
    page.wait_for_function("document.querySelectorAll('#planes figcaption')[2].textContent !== 'sagittal: width 11 of 40'")
    box = page.locator("#plane-0").bounding_box()
    page.locator("#plane-0").click(position={"x": box["width"] * 0.76, "y": box["height"] * 0.51})
    settle(page)
    assert captions.nth(1).text_content() == "coronal: height 20 of 40"
    assert captions.nth(2).text_content() == "sagittal: width 30 of 40"


def test_windows_change_the_greys_by_button_and_key(page: Any) -> None:
    page.select_option("#overlay", "")
    seen = set()
    for n, button in enumerate(page.locator("#windows button").all()):
        button.click()
        settle(page)
        assert button.get_attribute("aria-pressed") == "true"
        by_button = shot(page, 0)
        page.locator("#windows button").nth((n + 1) % 4).click()
        page.focus("#plane-0")
        page.keyboard.press(str(n + 1))
        settle(page)
        assert shot(page, 0) == by_button
        seen.add(by_button)
    assert len(seen) > 2, "air, tissue and bone differ between windows"


def test_crops_are_listed_as_on_record_and_reached_by_a_press(page: Any, shown: tuple[Path, Feasible, list[dict[str, Any]]]) -> None:
    rows = shown[2][5:]
    page.select_option("#place", "1")
    settle(page)
    listed = [[cell.strip() for cell in row.locator("td").all_text_contents()] for row in page.locator("#rows tr").all()]
    assert [row[0] for row in listed] == ["global A", "global B", "local 1", "local 2", "local 3"]
    for said, row in zip(listed, rows, strict=True):
        assert said[1] == ", ".join(str(row[f"corner_{axis}"]) for axis in ("depth", "height", "width"))
        assert (said[3], said[4]) == (f"{row['ratio']:.3f}", f"{row['ratio_own']:.3f}")
        assert said[7].startswith(f"IoU {row['iou']:.3f}" if row["iou"] is not None else f"{100 * row['containment']:.1f} % in a global")
    page.locator("#rows button").nth(1).click()
    settle(page)
    assert page.locator("#planes figcaption").nth(0).text_content() == f"axial: depth {rows[1]['corner_depth'] + 6} of 40"
    assert "global B" in page.locator("#plane-0").get_attribute("aria-label")


def test_names_are_text_and_the_page_fits_and_is_accessible(seen: Browser) -> None:
    page = seen.page
    assert page.locator("h1").text_content() == f"Crops of {NAME}"
    assert page.title() == f"Crops of {NAME}"
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert seen.faults() == []
