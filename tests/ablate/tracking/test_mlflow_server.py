"""Against a real MLflow server that goes away and comes back: training never waits for it, and in the end it holds everything once."""

from __future__ import annotations

import http.server
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ablate.study import Arm
from ablate.tracking.mlflow import sync

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

PHASE = {"name": "flags", "design": "one_at_a_time", "factors": {"crops.min_global_overlap": [0.0, 0.3]}}
SMALL = {"phases": [PHASE], "replicates": {"start": 3, "at_most": 3}}


class Server:
    """A store of its own behind a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.address = f"http://ann:hunter2@127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=quiet, start_new_session=True)
        until(self.answers)

    def answers(self) -> bool:
        with socket.socket() as asking:
            asking.settimeout(0.5)
            return asking.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self) -> None:
        import psutil

        if self._process is not None:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
            self._process.kill()
            self._process.wait()
            self._process = None

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "server.db")) as store:
            return store.execute(query).fetchall()


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.end()


@pytest.fixture
def study(planted: Callable[..., Any], server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    return planted(changes=SMALL)


@pytest.mark.slow
def test_a_server_that_is_down_at_the_start_and_in_the_middle_holds_everything_in_the_end(study: Any, server: Server) -> None:
    controller = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [sys.executable, "-m", "ablate.tracking.mlflow", "--root", str(study.root), "--study", "planted"]
    follower = subprocess.Popen(
        [*command, "--follow", str(controller.pid)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    try:
        assert follower.stdout is not None
        said = follower.stdout.readline()
        assert "not up to date" in said
        assert "hunter2" not in said
        server.start()
        until(lambda: (server.folder / "server.db").exists() and server.rows("SELECT 1 FROM runs"))
        server.end()
        study.run()
        assert "not up to date" in follower.stdout.readline()
        controller.communicate(b"\n")  # the run ends while MLflow is away
        assert follower.wait(timeout=60) == 0
        follower.stdout.close()
    finally:
        for process in (controller, follower):
            if process.poll() is None:
                process.kill()
                process.wait()
    server.start()
    assert "not up to date" not in sync(study.root, "planted")
    signatures = [row[0] for row in server.rows("SELECT value FROM tags WHERE key = 'signature'")]
    assert len(signatures) == len(set(signatures)) == len(list((study.root / "trials").iterdir()))
    doubles = server.rows("SELECT run_uuid, key, step, count(*) FROM metrics GROUP BY 1, 2, 3 HAVING count(*) > 1")
    assert not doubles


@contextmanager
def refusing() -> Iterator[int]:
    """A server that knows nobody."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b"You are not authenticated.")

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening.server_address[1]
        listening.shutdown()
        thread.join()


def test_wrong_credentials_are_one_line_without_them(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study.use("flags", Arm(name="baseline", levels={}), [0])
    with refusing() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:hunter2@127.0.0.1:{port}")
        said = sync(study.root, "planted")
    assert "not up to date" in said
    assert "401" in said
    assert "hunter2" not in said
