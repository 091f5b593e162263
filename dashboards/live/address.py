"""Every view has an address: what is shown stands in the path and the query, so that a link to it can be shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

LONGEST = 400
"""Characters of a value in a query; longer ones are cut."""


@dataclass(frozen=True)
class View:
    """What a page shows."""

    page: str = "overview"
    """`overview`, `compare`, `trials` or `trial`; any other is unknown."""
    trial: str = ""
    """Its signature, or a beginning of it."""
    phase: str = ""
    """Empty: all; on the comparison the latest."""
    arms: tuple[str, ...] = ()
    """Picked arms as `phase/arm`; empty: a choice is made."""
    metrics: tuple[str, ...] = ()
    """Metrics that are drawn; empty: a choice is made."""
    state: str = ""
    search: str = ""
    part: int = 1
    """Which part of a long table, from 1."""

    def __post_init__(self) -> None:
        assert self.part >= 1

    @property
    def address(self) -> str:
        """Path and query, the same for the same view."""
        path = {"overview": "/", "trial": f"/trial/{quote(self.trial, safe='')}"}.get(self.page, f"/{quote(self.page, safe='')}")
        given: list[tuple[str, str]] = [("phase", self.phase)] if self.phase else []
        given += [("arm", arm) for arm in self.arms] + [("metric", metric) for metric in self.metrics]
        given += [(key, value) for key, value in (("state", self.state), ("search", self.search)) if value]
        given += [("part", str(self.part))] if self.part > 1 else []
        return path + (f"?{urlencode(given, quote_via=quote)}" if given else "")

    def but(self, **changes: Any) -> View:
        """The same view with another choice, from the first part of its table."""
        return replace(self, **{"part": 1, **changes})


def read(pathname: str | None, search: str | None) -> View:
    """The view of an address; what is not understood of a query is left out."""
    first, _, rest = (pathname or "/").strip("/").partition("/")
    given = parse_qs((search or "").lstrip("?"), max_num_fields=400)

    def one(key: str) -> str:
        return given.get(key, [""])[0][:LONGEST]

    part = one("part")
    return View(
        page=unquote(first) or "overview",
        trial=unquote(rest)[:LONGEST],
        phase=one("phase"),
        arms=tuple(dict.fromkeys(value[:LONGEST] for value in given.get("arm", []))),
        metrics=tuple(dict.fromkeys(value[:LONGEST] for value in given.get("metric", []))),
        state=one("state"),
        search=one("search"),
        part=int(part) if part.isascii() and part.isdigit() and 0 < int(part) < 10**6 else 1,
    )
