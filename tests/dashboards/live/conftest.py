"""A real browser on a real dashboard. It reaches this machine alone, and remembers what went wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dashboards.live.record import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "ablate" / "cli"))
sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))

from toyplace import Toyplace

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Toyplace]:
    place = Toyplace(tmp_path)
    yield place
    place.end_all()


@pytest.fixture
def record_of() -> Callable[[Path, str], Record]:
    """The record of a study, with the status that the command gives it."""
    from ablate.cli.status import status_of

    return lambda runs, study: Record(runs, study, lambda: status_of(runs, study).model_dump(mode="json"))


@dataclass
class Browser:
    """A page of Chromium."""

    page: Any
    problems: list[str] = field(default_factory=list)
    """Errors in the console, exceptions, and requests that were to leave the machine."""

    def faults(self) -> list[str]:
        """What axe finds serious on the page as it stands."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Callable[..., Browser]]:
    """Opens a page: `browse(width=375, dark=True)`."""
    contexts = []

    def opened(*, width: int = 1200, height: int = 900, dark: bool = False) -> Browser:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        contexts.append(context)
        found = Browser(context.new_page())

        def watch(route: Any) -> None:
            address = urlsplit(route.request.url)
            if address.scheme in ("http", "https", "ws", "wss") and address.hostname != "127.0.0.1":
                found.problems.append(f"request to {route.request.url}")
                route.abort()
            else:
                route.continue_()

        context.route("**/*", watch)
        found.page.on("console", lambda said: found.problems.append(said.text) if said.type == "error" else None)
        found.page.on("pageerror", lambda error: found.problems.append(str(error)))
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def dashboard() -> Callable[[Toyplace, str], str]:
    """Starts `ablate dashboard` in a place, which ends it, and gives its address: `dashboard(place, "toy")`."""

    def start(place: Toyplace, study: str) -> str:
        process = place.start("dashboard", study, "--no-browser")
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found is not None, line + process.stdout.read()
        return found.group()

    return start
