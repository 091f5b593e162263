"""Points as rows are what MLflow's own API makes of them."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.tracking.mlflow import connected
from ablate.tracking.points import Point, Writer, by_api, by_rows, writer_of

# MLflow itself still uses what SQLAlchemy and others deprecate.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

Store = tuple[Any, Callable[[], str], Path]

values = st.one_of(st.floats(-9, 9), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-320]))
points = st.tuples(st.sampled_from(["loss", "train/entropy", "a b"]), values, st.integers(0, 2), st.integers(0, 3))
tellings = st.lists(st.lists(points, max_size=8), min_size=1, max_size=4)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = connected(tmp_path)
    experiment = client.create_experiment("points")
    return client, lambda: str(client.create_run(experiment).info.run_id), tmp_path / "mlflow.db"


def kept(database: Path, run: str, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as opened:
        columns = "key, value, timestamp, step, is_nan"
        return opened.execute(f"SELECT {columns} FROM {table} WHERE run_uuid = ? ORDER BY 1, 3, 4, 2, 5", (run,)).fetchall()


def check(store: Store, fast: Writer, told: list[list[Point]]) -> None:
    client, new_run, database = store
    runs = []
    for write in (fast, by_api(client)):
        run = new_run()
        for some in told:
            write(run, some, {"told": str(len(some))})
        runs.append(run)
    for table in ("metrics", "latest_metrics"):
        assert kept(database, runs[0], table) == kept(database, runs[1], table)
    assert client.get_run(runs[0]).data.tags["told"] == str(len(told[-1]))


@given(tellings)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_the_api_whatever_is_told_twice_or_out_of_order(store: Store, told: list[list[Point]]) -> None:
    check(store, writer_of(store[0]), told)


def test_the_default_store_takes_rows(store: Store) -> None:
    assert writer_of(store[0]).__qualname__.startswith(by_rows.__name__)


def test_keeping_the_last_told_instead_of_the_newest_is_caught(store: Store) -> None:
    client, _, _ = store
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
    from sqlalchemy.dialects.sqlite import insert

    def careless(run: str, some: list[Point], tags: dict[str, str]) -> None:
        rows = [{"run_uuid": run, "key": k, "value": v, "timestamp": t, "step": s, "is_nan": False} for k, v, t, s in some]
        with client._tracking_client.store.engine.begin() as connection:
            for table in (SqlMetric.__table__, SqlLatestMetric.__table__):
                connection.execute(insert(table).prefix_with("OR REPLACE"), rows)
        for key, value in tags.items():
            client.set_tag(run, key, value)

    with pytest.raises(AssertionError):
        check(store, careless, [[("loss", 1.0, 0, 5)], [("loss", 2.0, 0, 1)]])  # type: ignore[arg-type]


def test_another_mlflow_or_another_store_is_told_by_its_api(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from ablate.tracking import points as room

    client = store[0]
    with monkeypatch.context() as patch:
        patch.setattr(room, "COLUMNS", room.COLUMNS | {"unit"})
        other = writer_of(client)
        check(store, other, [[("loss", 1.0, 0, 0)], []])
        assert other.__qualname__.startswith(by_api.__name__)
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "_tracking_client", None, raising=False)
        patch.delattr(client, "_tracking_client", raising=False)
        assert writer_of(client).__qualname__.startswith(by_api.__name__)
    server = MlflowClient("http://127.0.0.1:9")  # nothing is asked of it
    assert writer_of(server).__qualname__.startswith(by_api.__name__)


def test_a_large_telling_by_the_api_is_cut_into_what_it_takes(store: Store) -> None:
    check(store, writer_of(store[0]), [[("loss", float(step), 0, step) for step in range(2500)]])
