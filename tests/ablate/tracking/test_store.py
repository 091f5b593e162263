from __future__ import annotations

import multiprocessing
import socket
import sqlite3
import subprocess
import sys
import urllib.parse
from contextlib import closing
from pathlib import Path

import pytest

from ablate.tracking import store, ui
from ablate.tracking.base import TrackerDown


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_without_an_address_the_store_is_a_file_under_runs(tmp_path: Path) -> None:
    assert store.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.artifact_root(tmp_path) == (tmp_path / "mlflow-artifacts").as_uri()
    assert store.store_state(tmp_path) == (True, f"{tmp_path}/mlflow.db (made by the first run)")


def test_a_server_of_somebodys_decides_about_artifacts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:hunter2@mlflow.example.org")
    assert store.artifact_root(tmp_path) is None
    assert store.ui_hint(tmp_path) == "https://***@mlflow.example.org"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ann:hunter2@db/mlflow",
        "http://ann:hunter2@127.0.0.1:9/x",
        "http://127.0.0.1/?api_token=hunter2&x=1",
        "mysql+pymysql://ann:hunter2@db",
    ],
)
def test_no_secret_of_an_address_is_said(address: str) -> None:
    assert "hunter2" not in store.without_secrets(f"cannot reach '{address}': refused")


def test_a_server_that_is_down_is_seen_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:9")
    ok, seen = store.store_state(tmp_path)
    assert not ok
    assert "hunter2" not in seen


def test_a_damaged_store_is_said_with_its_mend(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to look like one" * 40)
    ok, seen = store.store_state(tmp_path)
    assert not ok
    assert "ablate sync" in seen


def test_mlflows_interface_listens_on_this_machine_only(tmp_path: Path) -> None:
    command = store.ui_command(tmp_path, 5005)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == store.tracking_uri(tmp_path)
    environment = store.ui_environment()
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_comparison_is_an_address_that_names_its_runs() -> None:
    url = urllib.parse.unquote(store.comparison_url("http://127.0.0.1:5000/", "7", ["a", "b"]))
    assert url == 'http://127.0.0.1:5000/#/compare-runs?runs=["a",+"b"]&experiments=["7"]'


def _hold(path: Path, held: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    with store.locked(path, 5):
        held.set()
        done.wait(30)


def test_a_lock_that_another_process_keeps_is_said_and_is_free_when_it_ends(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", held, done))
    other.start()
    assert held.wait(10)
    with pytest.raises(TrackerDown, match="ablate sync"), store.locked(tmp_path / "lock", 0.2):
        pass
    other.kill()
    other.join()
    with store.locked(tmp_path / "lock", 5):
        pass


def test_naming_the_store_imports_no_mlflow() -> None:
    code = "import sys, ablate.tracking.ui, ablate.tracking.mlflow, ablate.tracking.store as m; from pathlib import Path"
    code += "; m.ui_hint(Path('runs')); m.store_state(Path('runs'))"
    code += "; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_port_that_is_taken_gives_way_to_a_free_one_and_every_study_has_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        made.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT, lifecycle_stage TEXT)")
        made.execute("CREATE TABLE experiment_tags (experiment_id INTEGER, key TEXT, value TEXT)")
        made.executemany(
            "INSERT INTO experiments VALUES (?, ?, ?)", [(0, "Default", "active"), (1, "one", "active"), (2, "gone", "deleted")]
        )
        made.executemany("INSERT INTO experiment_tags VALUES (?, 'mlflow.sharedViewState.arms', '{}')", [(1,), (2,)])
        made.commit()
    started: list[list[str]] = []
    monkeypatch.setattr(ui, "_become", lambda command, directory: started.append(command))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ui.serve(tmp_path, taken.getsockname()[1])
        assert started[0][started[0].index("--port") + 1] != str(taken.getsockname()[1])
    printed = capsys.readouterr().out
    assert f"one: http://127.0.0.1:{started[0][started[0].index('--port') + 1]}/#/experiments/1/runs" in printed
    assert "gone" not in printed
    assert "Default" not in printed


def test_the_address_of_a_servers_pages_has_no_user_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.ui_address(tmp_path) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:hunter2@mlflow.example.org:8443/base")
    assert store.ui_address(tmp_path) == "https://mlflow.example.org:8443/base"
