"""What may be asked of a study from the page, and by whom: a browser of this machine, on a page that this server gave it.

The server listens on the loopback address alone. A page of another origin in the same browser is kept out by the `Host` that a request was
meant for (a name that was bound to this machine afterwards), by its `Origin`, and by a token that only the page itself holds. Another user
of the same machine may look, but not ask.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ablate.errors import AblateError
from dashboards.live.record import Status


@dataclass(frozen=True)
class Steering:
    """The commands behind the buttons; each returns a sentence of what it did, and raises `AblateError` where it cannot."""

    status: Callable[[], Status]
    """Where the study stands."""
    stop: Callable[[], str]
    """Ask the study to end; running trials save a checkpoint first."""
    retry: Callable[[str | None, bool], str]
    """Ask for a fresh row of attempts at a failed trial, or at all (none), and whether its phases are decided anew."""
    replicates: Callable[[str, str], str] | None = None
    """Ask for more replicates of an arm of a phase; none: studies cannot be asked for that."""
    view: Callable[[str, str], str] | None = None
    """Run the study's viewer for a trial at a step (empty: the last)."""
    view_end: Callable[[str, str], str] | None = None
    """End a viewer of a trial, by its key."""


@dataclass(frozen=True)
class Asked:
    """A button that was pressed."""

    what: str
    """`stop`, `retry`, `retry_reopen`, `retry_failed`, `replicates`, `view` or `view_end`."""
    of: str = ""
    """A signature, `phase/arm`, `signature/step`, or `signature/key` of a viewer that runs."""

    def question(self, study: str, place: str, command: str = "") -> str:
        """What is asked before it is done.

        Args:
            place: The trial in words.
            command: What would run.
        """
        return {
            "view": f"Run the viewer of {study} for {place}, on this machine?\n\n{command}",
            "view_end": f"End the viewer for {place} now? What it wrote so far is not kept.",
            "stop": f"Stop the study {study}? Running trials save a checkpoint first, and `ablate run` goes on later.",
            "retry": f"Run {place} again, with a fresh row of attempts? A decided phase keeps its decision.",
            "retry_reopen": f"Run {place} again, and decide its phase and all that follow anew?",
            "retry_failed": "Run all failed trials again, each with a fresh row of attempts? Decided phases keep their decision.",
            "replicates": f"Run fresh replicates of {self.of} and of its baseline, as a study of their own? What is decided stays.",
        }[self.what]

    def perform(self, steering: Steering) -> str:
        """Do it; what came of it, or why not."""
        try:
            if self.what == "stop":
                return steering.stop()
            if self.what == "replicates" and steering.replicates is not None:
                phase, _, arm = self.of.partition("/")
                return steering.replicates(phase, arm)
            if self.what in ("view", "view_end") and (do := {"view": steering.view, "view_end": steering.view_end}[self.what]) is not None:
                signature, _, which = self.of.partition("/")
                return do(signature, which)
            if self.what in ("retry", "retry_reopen", "retry_failed"):
                return steering.retry(None if self.what == "retry_failed" else self.of, self.what == "retry_reopen")
        except AblateError as error:
            return str(error)
        return "This study cannot be asked for that."


SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED = "01"
KNOWN = ("stop", "retry", "retry_reopen", "retry_failed", "replicates", "view", "view_end")


def asked(button: object) -> Asked | None:
    """The id of a button as what it asks; none: it is no such button."""
    if not isinstance(button, Mapping) or button.get("ask") not in KNOWN or not isinstance(button.get("of"), str):
        return None
    return Asked(button["ask"], button["of"])


def new_token() -> str:
    """A secret of this server's life."""
    return secrets.token_urlsafe(32)


def same_token(given: object, token: str) -> bool:
    """Whether a page holds the token that it was given."""
    return isinstance(given, str) and secrets.compare_digest(given.encode(), token.encode())


def refusal(*, client: str | None, host: str, method: str, headers: Mapping[str, str]) -> str | None:
    """Why a request is not answered; none: it is.

    Args:
        client: Its address.
        host: The `Host` that it was meant for.
    """
    if not _is_loopback(client or ""):
        return "Only this machine may look."
    if not _names_loopback(host):
        return "Expected the address that `ablate dashboard` printed, on 127.0.0.1 or localhost."
    if method in ("GET", "HEAD"):
        return None
    origin = urlsplit(headers.get("Origin", ""))
    if origin.scheme not in ("http", "https") or origin.netloc != host:
        return "Expected a request of this dashboard's own page."
    if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return "Expected a request of this dashboard's own page."
    return None


def stranger(client_port: int, server_port: int, own: int, tables: Sequence[Path] = SOCKETS) -> bool:
    """Whether another user of this machine holds the other end of a connection; where that is not known: no.

    Args:
        own: The user who runs this server; they and root may ask.
        tables: The kernel's lists of sockets.
    """
    ends = f":{client_port:04X}", f":{server_port:04X}"
    for table in tables:
        try:
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[1].endswith(ends[0]) and row[2].endswith(ends[1]) and row[3] == ESTABLISHED:
                return int(row[7]) not in (0, own)
    return False


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)
