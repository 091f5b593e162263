"""Metric points on their way into MLflow: by its API, or, where its store is a database here, as the rows that the API comes to.

MLflow's `log_batch` makes an object of each point and reads the newest value of each metric back before it overwrites it; the same rows
in two statements cost a tenth (benchmarks/metric_points.py; docs/decisions/0009-points-as-rows.md). Whatever is not exactly the store that
this was written for is told by the API.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ablate.tracking.batches import METRICS_A_BATCH

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Engine, Table

Point = tuple[str, float, int, int]
"""Metric, value, time in ms since the epoch, step."""

Writer = Callable[[str, Sequence[Point], dict[str, str]], None]
"""Takes a run's id, points, and tags that are to be told after them."""

DIALECTS = ("sqlite", "postgresql")
"""Databases that know both `ON CONFLICT` and comparisons of rows."""

COLUMNS = frozenset({"key", "value", "timestamp", "step", "is_nan", "run_uuid"})
"""Of MLflow's tables `metrics` and `latest_metrics`; a version with others is left to its API."""


def writer_of(client: MlflowClient) -> Writer:
    """The fastest way into this client's store."""
    tables = _tables(client)
    return by_api(client) if tables is None else by_rows(client, *tables)


def by_api(client: MlflowClient) -> Writer:
    """`log_batch`, a thousand items at a time."""
    from mlflow.entities import Metric, RunTag

    def write(run_id: str, points: Sequence[Point], tags: dict[str, str]) -> None:
        for start in range(0, max(len(points), 1), METRICS_A_BATCH):
            metrics = [Metric(*point) for point in points[start : start + METRICS_A_BATCH]]
            last = start + METRICS_A_BATCH >= len(points)
            client.log_batch(run_id, metrics=metrics, tags=[RunTag(*tag) for tag in tags.items()] if last else [])

    return write


def by_rows(client: MlflowClient, engine: Engine, every: Table, newest: Table) -> Writer:
    """Two statements: each point once, and of each metric the newest, by step, time and value, as MLflow compares them."""
    from mlflow.entities import RunTag
    from sqlalchemy import tuple_
    from sqlalchemy.dialects import postgresql, sqlite

    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[engine.dialect.name]
    once = insert(every).on_conflict_do_nothing()
    latest = insert(newest)
    new, old = latest.excluded, newest.c
    latest = latest.on_conflict_do_update(
        index_elements=["key", "run_uuid"],
        set_={name: new[name] for name in ("value", "timestamp", "step", "is_nan")},
        where=tuple_(new.step, new.timestamp, new.value) > tuple_(old.step, old.timestamp, old.value),
    )

    def write(run_id: str, points: Sequence[Point], tags: dict[str, str]) -> None:
        rows = [_row(run_id, *point) for point in points]
        if rows:
            last = {row["key"]: row for row in sorted(rows, key=lambda row: (row["step"], row["timestamp"], row["value"]))}
            with engine.begin() as connection:
                connection.execute(once, rows)
                connection.execute(latest, [last[key] for key in sorted(last)])
        if tags:
            client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])

    return write


def _row(run_id: str, key: str, value: float, timestamp: int, step: int) -> dict[str, Any]:
    """As MLflow stores it: no NaN, and the greatest number for infinity."""
    nan = math.isnan(value)
    kept = 0.0 if nan else math.copysign(sys.float_info.max, value) if math.isinf(value) else value
    return {"run_uuid": run_id, "key": key, "value": kept, "timestamp": timestamp, "step": step, "is_nan": nan}


def _tables(client: MlflowClient) -> tuple[Engine, Table, Table] | None:
    """The database and its two tables of points; none: this is another store, or another MLflow, than was looked into."""
    try:
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = client._tracking_client.store
        every, newest = SqlMetric.__table__, SqlLatestMetric.__table__
    except (ImportError, AttributeError):
        return None
    if not isinstance(store, SqlAlchemyStore) or store.engine.dialect.name not in DIALECTS:
        return None
    keys = ({"key", "timestamp", "step", "run_uuid", "value", "is_nan"}, {"key", "run_uuid"})
    for table, key in zip((every, newest), keys, strict=True):
        if set(table.columns.keys()) != COLUMNS or set(table.primary_key.columns.keys()) != key:
            return None
    return store.engine, every, newest
