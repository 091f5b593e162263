"""The pictures of report and dashboard in docs/images, taken again from a study that has run.

ablate run studies/collapse.yaml && python docs/screenshots.py [RUNS] [STUDY]
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
WIDTH, PHONE = 1200, 390
MARGIN = 16
DRAWN = "() => [...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"


def keep(page: Any, name: str, first: Any, last: Any) -> None:
    """The page from the top of one element to the bottom of another, so that nothing is cut."""
    page.wait_for_timeout(800)  # plotly moves what it has drawn for a while, and says nothing when it is done
    top = max(0, first.evaluate("one => one.getBoundingClientRect().top + window.scrollY") - MARGIN)
    bottom = last.evaluate("one => one.getBoundingClientRect().bottom + window.scrollY") + MARGIN
    clip = {"x": 0, "y": top, "width": page.viewport_size["width"], "height": bottom - top}
    with Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))) as shot:
        shot.convert("RGB").save(IMAGES / f"{name}.png", optimize=True)
    print(f"{name}.png: {(IMAGES / f'{name}.png').stat().st_size / 1024:.0f} KiB")


def report(page: Any, path: Path) -> None:
    """The answer with the first phase's effects, and its curves."""
    page.goto(path.absolute().as_uri())
    page.wait_for_function(DRAWN)
    phase = page.locator("#phase-0")
    keep(page, "report", page.locator("main > *").first, page.locator("#questions"))
    heading = phase.locator("h3", has_text="On the way there")
    keep(page, "report-curves", heading, phase.locator(".grid .card").nth(5))


def dashboard(page: Any, address: str, phase: str, arm: str) -> None:
    """Overview, comparison, and the trial of an arm with its viewer's page."""
    page.goto(address)
    page.locator(".tile").first.wait_for()
    top = page.locator("header")
    keep(page, "dashboard", top, page.get_by_role("heading", name="Failed").locator("xpath=.."))
    page.goto(f"{address}compare?phase={phase}")
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= 6")
    keep(page, "dashboard-compare", top, page.locator(".grid .card").first)
    page.goto(f"{address}trials?state=done&phase={phase}&search={quote(f'/{arm}/')}")
    page.locator("td a").first.click()
    page.get_by_role("button", name="Run the viewer").wait_for()
    page.get_by_role("spinbutton", name="Step").fill("50")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Run the viewer").click()
    page.get_by_role("link", name="open crops.html").wait_for(timeout=120_000)
    page.wait_for_function("() => [...document.images].every(one => one.complete) && document.querySelector('.main-svg')")
    keep(page, "dashboard-trial", top, page.locator(".grid .card").last)
    views = page.get_by_role("heading", name="Look at what it saw").locator("xpath=..")
    keep(page, "dashboard-viewer", views, views)


def main() -> None:
    runs, study = Path(sys.argv[1] if len(sys.argv) > 1 else "runs"), sys.argv[2] if len(sys.argv) > 2 else "collapse"
    ablate = [sys.executable, "-m", "ablate"]
    told = subprocess.run([*ablate, "report", study, "--runs", str(runs), "--json"], check=True, stdout=subprocess.PIPE)
    first = json.loads(told.stdout)["phases"][0]
    subprocess.run([*ablate, "report", study, "--runs", str(runs)], check=True, stdout=subprocess.DEVNULL)
    command = [*ablate, "dashboard", study, "--runs", str(runs), "--no-browser"]
    with sync_playwright() as playing, subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as server:
        try:
            assert server.stdout is not None
            address = next(word for word in server.stdout.readline().split() if urlsplit(word).scheme == "http")
            browser = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
            report(page, runs / study / "report.html")
            dashboard(page, address, first["name"], first["winner"])
            phone = browser.new_page(viewport={"width": PHONE, "height": 844}, color_scheme="light")
            phone.goto(address)
            phone.locator(".tile").first.wait_for()
            keep(phone, "dashboard-phone", phone.locator("header"), phone.locator(".tile").last)
            browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
