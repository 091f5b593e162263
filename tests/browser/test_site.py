"""The documentation's pages in a real browser: pictures, search, no request to elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True, capture_output=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(site: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium is not None, "apt-get install chromium"
    outside: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.on("request", lambda asked: None if asked.url.startswith((site, "data:", "blob:")) else outside.append(asked.url))
        opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        yield opened
        browser.close()
    assert outside == []
    assert errors == []


def test_pages_show_their_pictures_and_follow_links(page: Any, site: str) -> None:
    page.goto(f"{site}/index.html")
    page.get_by_role("link", name="What came of it").click()
    page.get_by_role("heading", name="Two together").wait_for()
    page.wait_for_function(
        "() => [...document.images].length >= 5 && [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )


def test_search_finds_a_setting(page: Any, site: str) -> None:
    page.goto(f"{site}/index.html")
    page.get_by_role("textbox", name="Search").focus()
    page.wait_for_function("() => document.querySelector('.md-search-result__meta').textContent.includes('Type to start')")
    page.keyboard.type("min_global_overlap")  # by keys: a field that is filled at once says nothing to the page
    page.locator(".md-search-result__item").first.wait_for()
    assert "min_global_overlap" in page.locator(".md-search-result").inner_text()


def test_no_serious_fault_of_accessibility(page: Any, site: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    faults = []
    for name in ("index", "COLLAPSE", "reference/study"):
        page.goto(f"{site}/{name}.html")
        page.get_by_role("heading").first.wait_for()
        found = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        faults += [f"{name}: {one['id']}: {one['nodes'][0]['html'][:160]}" for one in found]
    assert not faults, "\n".join(faults)
