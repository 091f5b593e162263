"""A real browser for every test that looks at a page. It reaches this machine alone, and remembers what went wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

HERE = "http://127.0.0.1:"


@dataclass
class Browser:
    """A page of Chromium, and those that it opens."""

    page: Any
    own: str | None = HERE
    """How addresses begin that it may ask for, beside files and what stands in the page itself; none: no other."""
    noise: tuple[str, ...] = ()
    """What errors may contain without being a fault of ours."""
    problems: list[str] = field(default_factory=list)
    """Errors in the console, exceptions, and requests that were to go elsewhere."""

    def __post_init__(self) -> None:
        self.page.context.route("**/*", self._watch)
        self.page.context.on("console", lambda said: self._note(said.text) if said.type == "error" else None)
        self.page.context.on("weberror", lambda found: self._note(str(found.error)))

    def refuse_dialogs(self) -> None:
        """Count a dialog as a problem."""
        self.page.on("dialog", lambda dialog: (self._note(dialog.message), dialog.dismiss()))

    def faults(self, context: str | None = None) -> list[str]:
        """What axe finds serious on the page as it stands, or on a part of it."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page, context=context).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in serious]

    def _watch(self, route: Any) -> None:
        address = route.request.url
        if urlsplit(address).scheme in ("file", "data", "blob") or (self.own is not None and address.startswith(self.own)):
            route.continue_()
        else:
            self.problems.append(f"request to {address}")
            route.abort()

    def _note(self, said: str) -> None:
        if not any(part in said for part in self.noise):
            self.problems.append(said)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One for a whole session: a second one beside it is refused by playwright."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path is not None, "apt-get install chromium"
    with sync_playwright() as playing:
        started = playing.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Callable[..., Browser]]:
    """Opens a page: `browse(width=390, dark=True, own=None)`. At the test's end none of its pages may have had a problem."""
    opened: list[Browser] = []

    def open_one(*, width: int = 1200, height: int = 900, dark: bool = False, **watched: Any) -> Browser:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        opened.append(Browser(context.new_page(), **watched))
        return opened[-1]

    yield open_one
    for one in opened:
        one.page.context.close()
    found = [problem for one in opened for problem in one.problems]
    assert not found, "\n".join(found)
