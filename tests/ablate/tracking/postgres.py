"""A real PostgreSQL for one test, and a real MLflow server with users on top of it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

ADMIN = ("root-of-all", "first-password-1")
ANN = ("ann-the-user", "hunter2-hunter2")


def until(holds: Callable[[], object], process: subprocess.Popen[bytes], log: Path, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        assert time.monotonic() < end, f"it did not answer in time: {log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.1)


def program(name: str) -> str:
    """Debian keeps PostgreSQL's programs off the path."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None)
    assert found is not None, f"{name} is missing: apt-get install postgresql"
    return found


class Postgres:
    """A cluster that only its folder's owner reaches, by a socket in it; PostgreSQL refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(folder, "postgres", "postgres")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        data, log = self.folder / "data", self.folder / "log.txt"
        command = [program("initdb"), "-D", str(data), "-U", "mlflow", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self.user)  # type: ignore[call-overload]
        serve = [program("postgres"), "-D", str(data), "-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        with log.open("wb") as written:
            self._process = subprocess.Popen(serve, stdout=written, stderr=written, cwd="/", start_new_session=True, **self.user)  # type: ignore[call-overload]
        assert self._process is not None
        until(self._answers, self._process, log)
        with closing(self.connect("postgres")) as connection:
            connection.autocommit = True
            for database in ("tracking", "users"):
                connection.cursor().execute(f"CREATE DATABASE {database}")

    def connect(self, database: str) -> Any:
        import psycopg2

        return psycopg2.connect(host=str(self.folder), user="mlflow", dbname=database)

    def address(self, database: str) -> str:
        return f"postgresql+psycopg2://mlflow@/{database}?host={self.folder}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(self.connect("tracking")) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nobody needs the data
            self._process.wait(timeout=30)

    def _answers(self) -> bool:
        import psycopg2

        try:
            self.connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True


class MlflowServer:
    """MLflow with its own users, its store and theirs in PostgreSQL."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.postgres = folder, postgres
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = self.folder / "auth.ini"
        users = self.postgres.address("users")
        settings.write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {users}\nadmin_username = {ADMIN[0]}\n")
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        command += ["--app-name", "basic-auth", "--backend-store-uri", self.postgres.address("tracking")]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test alone",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        log = self.folder / "server.log"
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                command, stdout=written, stderr=written, cwd=self.folder, env=environment, start_new_session=True
            )
        until(lambda: self._healthy(), self._process, log)
        self.ask("users/create", ADMIN, {"username": ANN[0], "password": ANN[1]})

    def ask(self, what: str, who: tuple[str, str], body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.address}/api/2.0/mlflow/{what}", json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(who).encode()).decode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def end(self) -> None:
        if self._process is not None:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
            self._process.kill()
            self._process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def mlflow_on_postgres(folder: Path) -> Iterator[MlflowServer]:
    """Both, running; ended with the context."""
    with TemporaryDirectory(prefix="ablate-pg-", dir="/tmp") as short:  # a socket's path may have 107 characters
        postgres = Postgres(Path(short))
        server = MlflowServer(folder, postgres)
        try:
            postgres.start()
            server.start()
            yield server
        finally:
            server.end()
            postgres.end()
