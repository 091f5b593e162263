"""Which MLflow store a `runs` folder uses, how it is opened, and how it is named without its secrets. Imports no mlflow."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from ablate.tracking.base import TrackerDown

QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
"""Job execution takes 1.4 GB of a server's memory, and nothing here phones home."""

UI_PORT = 5000
"""Where `ablate ui` opens MLflow unless that is taken: so the addresses that a run prints are valid."""

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own defaults wait minutes for a server that is down."""

_SECRET = re.compile(r"(?<=://)[^/@\s'\"]*@")
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:password|token|secret|key)[^=&\s]*=)[^&\s'\"]*")


def default_store(root: Path) -> Path:
    """The SQLite file that is used where MLFLOW_TRACKING_URI names no other store."""
    return root.absolute() / "mlflow.db"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, else the SQLite store of this `runs` folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{default_store(root)}"


def artifact_root(root: Path) -> str | None:
    """Where artifacts go, as a URI; None: the server decides."""
    database = "://" in tracking_uri(root) and not is_remote(root)
    return (root.absolute() / "mlflow-artifacts").as_uri() if database else None


def is_remote(root: Path) -> bool:
    """Whether the store is a server of somebody's, rather than a database."""
    return tracking_uri(root).startswith(("http://", "https://", "databricks"))


def without_secrets(text: str) -> str:
    """The text without user names, passwords and tokens of any address in it."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"):
        secret = os.environ.get(name)
        if secret and len(secret) > 2:
            text = text.replace(secret, "***")
    return _SECRET_QUERY.sub(r"\1***", _SECRET.sub("***@", text))


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock file; the system lets go of it with the process, however that ends.

    Raises:
        TrackerDown: Another process keeps it for longer than `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TrackerDown(f"{path}: another sync has held this for {timeout_s:.0f} s. Run `ablate sync` again later.") from None
                time.sleep(0.1)
        yield


def store_state(root: Path) -> tuple[bool, str]:
    """Whether the store can be used, and what was seen; a store that is yet to be made can."""
    uri = tracking_uri(root)
    if is_remote(root):
        return _server_state(uri)
    path = sqlite_file(uri)
    if path is None:
        return True, f"{without_secrets(uri)} (not looked into)"
    if not path.exists():
        return True, f"{path} (made by the first run)"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.Error as error:
        return False, f"{path}: {error}. Move it away; `ablate sync STUDY` builds it again."
    return True, f"{path} ({runs} runs)"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address; None for every other address."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def _server_state(uri: str) -> tuple[bool, str]:
    if not uri.startswith("http"):
        return True, f"{without_secrets(uri)} (not looked into)"
    address = urllib.parse.urlsplit(uri)
    bare = address._replace(netloc=address.netloc.rpartition("@")[2], path=address.path.rstrip("/") + "/health").geturl()
    try:
        with urllib.request.urlopen(bare, timeout=5) as answer:
            return True, f"{without_secrets(uri)} (answers {answer.status})"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return False, without_secrets(f"{uri}: {error}")


def ui_environment() -> dict[str, str]:
    """The environment of MLflow's server: no jobs, no telemetry."""
    return {**os.environ, **QUIET}


def ui_command(root: Path, port: int) -> list[str]:
    """MLflow's own interface on the right store, on this machine only."""
    return [
        *(sys.executable, "-m", "mlflow", "ui"),
        *("--backend-store-uri", tracking_uri(root)),
        *("--default-artifact-root", artifact_root(root) or (root.absolute() / "mlflow-artifacts").as_uri()),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]


def ui_hint(root: Path) -> str:
    """What to type (or open) to look at MLflow."""
    if is_remote(root):
        return without_secrets(tracking_uri(root))
    return "ablate ui" if root == Path("runs") else f"ablate ui --runs {root}"


def ui_address(root: Path) -> str:
    """Where MLflow's pages are: a server's address without its user, or where `ablate ui` opens them."""
    if not is_remote(root) or not tracking_uri(root).startswith("http"):
        return f"http://127.0.0.1:{UI_PORT}"
    address = urllib.parse.urlsplit(tracking_uri(root))
    return without_secrets(address._replace(netloc=address.netloc.rpartition("@")[2]).geturl())


def comparison_url(base: str, experiment: str, runs: Sequence[str]) -> str:
    """These runs side by side."""
    query = urllib.parse.urlencode({"runs": json.dumps(list(runs)), "experiments": json.dumps([experiment])})
    return f"{base.rstrip('/')}/#/compare-runs?{query}"
