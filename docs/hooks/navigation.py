"""Pages that `mkdocs.yml` does not name: decisions by their number, any other under "More"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]


def on_config(config: Any) -> Any:
    """Called by mkdocs before it looks at the navigation."""
    named = set(_pages(config["nav"]))
    missing = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.rglob("*.md")) if path.relative_to(DOCS).as_posix() not in named]
    decisions = [page for page in missing if page.startswith("decisions/")]
    others = [page for page in missing if page not in decisions]
    config["nav"].append({"Decisions": [{_title(page): page} for page in decisions]})
    if others:
        config["nav"].append({"More": [{_title(page): page} for page in others]})
    return config


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for inner in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages(inner)


def _title(page: str) -> str:
    heading = next((line for line in (DOCS / page).read_text(encoding="utf-8").splitlines() if line.startswith("# ")), page)
    return heading.removeprefix("# ")
