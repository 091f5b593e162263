"""The report in a real browser: its pictures, the files of its figures, and no serious fault of accessibility."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Browser
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ablate.results import Results
from ablate.trial import TrialFiles
from dashboards.report import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def report(planting: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a planted study with two pictures a trial, one of them noise, which has to be made smaller."""
    made = planting(tmp_path_factory.mktemp("pictures") / "runs")
    made.run()
    results = Results(made.root, "planted")
    for signature in {use.signature for use in results._uses if results._result(use.signature)}:
        folder = TrialFiles(made.root, signature).attempt(1).directory
        words = PngInfo()
        words.add_itxt("Title", "12 of 64 prototypes hold 90% of 240 held-out crops")
        words.add_itxt("Description", "A row for each of the 8 most used.")
        Image.new("RGB", (1100, 700), (60, 90, 120)).save(folder / "prototypes.png", pnginfo=words)
        noise = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "scatter.png")
    return write(results, made.root / "report.html").as_uri()


@pytest.fixture(params=["light", "dark"])
def seen(request: pytest.FixtureRequest, report: str, browse: Callable[..., Browser]) -> Browser:
    seen = browse(width=1280, dark=request.param == "dark", own=None)
    seen.page.goto(report)
    return seen


@pytest.fixture
def page(seen: Browser) -> Any:
    return seen.page


def widths(page: Any) -> list[float]:
    """Of the pictures that can be seen, in pixels."""
    pictures = page.locator("#pictures .pictures img")
    found: list[float] = pictures.evaluate_all(
        "all => all.filter(image => image.checkVisibility()).map(image => image.getBoundingClientRect().width)"
    )
    return found


def test_pictures_stand_side_by_side_grow_by_keyboard_and_are_accessible(seen: Browser) -> None:
    page = seen.page
    section = page.locator("#pictures")
    section.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('#pictures img')].every(image => image.complete && image.naturalWidth > 0)")
    narrow = widths(page)
    assert len(narrow) == 4, "two names, baseline and winner; the reference is folded"
    button = section.get_by_role("button", name="Full width").first
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    wide = widths(page)
    assert wide[0] > 1.8 * narrow[0]
    assert wide[2:] == narrow[2:], "the other row stays"
    page.keyboard.press("Enter")
    assert widths(page) == narrow
    section.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert len(widths(page)) == 5
    page.set_viewport_size({"width": 390, "height": 800})
    assert max(widths(page)) < 390, "on a phone too"
    assert seen.faults("#pictures") == []


def test_every_figure_is_saved_as_picture_and_as_rows(page: Any, tmp_path: Path) -> None:
    """By keyboard; the rows are what the figure shows."""
    figures = page.locator("figure:has(.plot)")
    assert figures.count() == page.locator("figure:has(.plot) details.downloads").count() >= 5
    figure = figures.filter(has=page.locator('[data-figure="effects-0"]'))
    figure.scroll_into_view_if_needed()
    figure.locator("summary").focus()
    page.keyboard.press("Enter")
    found = {}
    for form in ("PNG", "SVG", "CSV"):
        page.keyboard.press("Tab")
        with page.expect_download() as waited:
            page.keyboard.press("Enter")
        assert waited.value.suggested_filename == f"effects-0.{form.lower()}"
        waited.value.save_as(tmp_path / form)
        found[form] = (tmp_path / form).read_bytes()
    with Image.open(tmp_path / "PNG") as image:
        assert image.size[0] >= 1400, "twice the pixels, for print"
    assert b"<svg" in found["SVG"]
    assert "The best effect on" in unescape(found["SVG"].decode())
    rows = list(csv.DictReader(io.StringIO(found["CSV"].decode("utf-8"), newline="")))
    data = json.loads(page.locator("#effects-0").text_content())["data"]
    shown = {round(float(x), 9) for trace in data for x in (trace.get("x") or []) if isinstance(x, int | float)}
    assert shown
    assert shown <= {round(float(row["x"]), 9) for row in rows if row["x"]}
    assert any(row["x_low"] and float(row["x_low"]) < float(row["x"]) < float(row["x_high"]) for row in rows if row["x"])
    document = json.loads(page.locator("#document").text_content())
    arms = {arm["name"]: arm["effect"] for arm in document["phases"][0]["arms"] if arm["effect"]}
    named = {row["series"]: row for row in rows}
    assert arms.keys() <= named.keys(), "a row an arm, by its name"
    assert all(float(named[name]["x"]) == pytest.approx(effect["mean"]) for name, effect in arms.items())
    unknown = [arm["name"] for arm in document["phases"][0]["arms"] if not arm["effect"]]
    assert all(named[name]["x"] == "" and named[name]["text"] == "no effect known" for name in unknown)
    band = next(row for row in rows if row["series"] == "smaller than the smallest effect")
    assert float(band["x_low"]) == -float(band["x_high"])
    assert "y" not in band, "a row's place on the page is no value"


def test_every_figure_gives_rows(page: Any) -> None:
    """Read before the browser saves them: it lets a page save ten files in a row, no more."""
    page.evaluate("() => { HTMLAnchorElement.prototype.click = () => {}; }")
    page.evaluate("() => { URL.createObjectURL = rows => { window.rows = rows.text(); return '#'; }; }")
    for details in page.locator("figure:has(.plot) details.downloads").all():
        details.evaluate("one => { one.open = true; window.rows = null; }")
        details.get_by_role("button", name="CSV").click()
        page.wait_for_function("() => window.rows")
        rows = list(csv.reader(io.StringIO(page.evaluate("() => window.rows"), newline="")))
        assert len(rows) > 1
        assert all(len(row) == len(rows[0]) for row in rows)
        assert not any(cell.startswith("trace ") for row in rows for cell in row)
        found = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        if details.evaluate("one => one.closest('figure').querySelector('.plot').dataset.group"):
            curve = [row for row in found if row.get("y_low")]
            assert len({(row["series"], row["x"]) for row in curve}) == len(curve) > 5, "the edges of a band are no points of the curve"
            assert all(float(row["y_low"]) <= float(row["y"]) <= float(row["y_high"]) for row in curve)


def test_the_whole_page_has_no_serious_fault_of_accessibility(seen: Browser) -> None:
    seen.page.wait_for_function("() => document.querySelectorAll('.plot .main-svg').length >= document.querySelectorAll('.plot').length")
    assert seen.faults() == []
    seen.page.set_viewport_size({"width": 320, "height": 700})
    block = seen.page.locator(".copy pre").first
    assert block.evaluate("one => one.scrollWidth > one.clientWidth"), "a line that is longer than the page is wide"
    assert seen.faults() == []
