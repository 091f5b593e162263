"""The documentation's pages in a real browser: pictures, search, no request to elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browsing import Browser

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
def seen(site: str, browse: Callable[..., Browser]) -> Browser:
    return browse(width=1400, own=site)


@pytest.fixture
def page(seen: Browser) -> Any:
    return seen.page


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


def test_no_serious_fault_of_accessibility(seen: Browser, site: str) -> None:
    faults = []
    for name in ("index", "COLLAPSE", "reference/study"):
        seen.page.goto(f"{site}/{name}.html")
        seen.page.get_by_role("heading").first.wait_for()
        faults += [f"{name}: {fault}" for fault in seen.faults()]
    assert not faults, "\n".join(faults)
