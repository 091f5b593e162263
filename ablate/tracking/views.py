"""How MLflow's pages look for a study: its views and their addresses. Imports no mlflow.

A view is a tag of the experiment, `mlflow.sharedViewState.KEY`: the state of MLflow's table of runs, under a name, as its own menu "Views"
writes it. `viewStateShareKey=KEY` in the address opens it; MLflow reads it only where the address has no filter of its own.
"""

from __future__ import annotations

import json
import sqlite3
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

from ablate.study import Study
from ablate.tracking.batches import key_of

View = Literal["arms", "curves", "trials", "study"]

VIEW_TAG = "mlflow.sharedViewState."

KIND_TAG = "mlflow.experimentKind"
"""Says that runs come first, not prompts and traces."""

NOTE_TAG = "mlflow.note.content"

METRICS_AT_MOST = 5
"""Columns beside effect and objective: more do not fit a screen."""

LINE = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}
"""A chart of curves as MLflow makes them."""

RUN_NAME = "attributes.`Run Name`"

LEVELS_AT_MOST = 12
"""Columns of settings; MLflow's stores take 5000 characters a view."""


def view_tags(study: Study, created: float) -> dict[str, str]:
    """The study's views as tags of its experiment.

    Args:
        created: When the study began, in seconds since the epoch.
    """
    objective = key_of(study.objective.metric)
    beside = [key_of(name) for name in (*(guard.metric for guard in study.guards), *study.columns)]
    metrics = list(dict.fromkeys([objective, *beside]))[: 1 + METRICS_AT_MOST]
    levels = list(dict.fromkeys(path for phase in study.phases for path in phase.factors))[:LEVELS_AT_MOST]
    effects = ["effect/mean", "effect/low", "effect/high", "effect/p_adjusted"]
    arm = _columns("tags", ["verdict", "winner"]) + _columns("metrics", [*effects, *metrics]) + _columns("tags", ["collapse", "phase"])
    trial = _columns("tags", ["arm", "replicate", "state", "verdict", "collapse"]) + _columns("metrics", metrics)
    winners = [f"winner.{phase.name}" for phase in study.phases]
    views: dict[View, tuple[str, dict[str, object]]] = {
        "arms": ("Arms: effect and verdict", _table(study, "arm", arm)),
        "curves": ("Arms: mean curves", _table(study, "arm", arm) | _charts(["effect/mean"], metrics)),
        "trials": ("Trials", _table(study, "trial", [*trial, *_columns("params", levels)])),
        "study": ("Study and report", _table(study, "study", _columns("tags", winners))),
    }
    return {f"{VIEW_TAG}{key}": _envelope(name, state, created) for key, (name, state) in views.items()}


def filter_of(study: str, kind: str) -> str:
    """What to type into MLflow's search field for a study's runs of one kind: `arm`, `trial` or `study`."""
    return f'tags.study = "{study}" AND tags.kind = "{kind}"'


def view_url(base: str, experiment: str, view: View) -> str:
    """The address of a view of a study; without a base one that is valid on MLflow's own pages."""
    mode = {"compareRunsMode": "CHART"} if view == "curves" else {}
    asked = urllib.parse.urlencode({"workflowType": "machine_learning", **mode, "viewStateShareKey": view})
    return f"{base.rstrip('/')}{'/' if base else ''}#/experiments/{experiment}/runs?{asked}"


def studies_in(store: Path) -> dict[str, str]:
    """The studies that a SQLite store holds views of, by name, newest last, with their experiments; none where it cannot be read."""
    query = (
        "SELECT e.name, e.experiment_id FROM experiments AS e JOIN experiment_tags AS t ON t.experiment_id = e.experiment_id "
        f"WHERE t.key = '{VIEW_TAG}arms' AND e.lifecycle_stage = 'active' ORDER BY e.experiment_id"
    )
    try:
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return {str(name): str(experiment) for name, experiment in connection.execute(query)}
    except sqlite3.Error:
        return {}


def _columns(kind: str, names: Sequence[str]) -> list[str]:
    return [f"{kind}.`{key_of(name)}`" for name in names]


def _table(study: Study, kind: str, columns: Sequence[str]) -> dict[str, object]:
    return {
        "searchFilter": filter_of(study.study, kind),
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": [RUN_NAME, *columns],
        "columnWidths": {RUN_NAME: 320},
        "runsHiddenMode": "FIRST_20_RUNS",
    }


def _charts(bars: Sequence[str], lines: Sequence[str]) -> dict[str, object]:
    """Charts of these metrics first; MLflow adds those of all others below."""
    section = {"uuid": "ablate", "name": "What decides", "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    named = [("BAR", name) for name in bars] + [("LINE", name) for name in lines]
    charts = [
        {
            "uuid": f"ablate-{number}",
            "type": kind,
            "metricSectionId": section["uuid"],
            "metricKey": name,
            "displayName": name,
            "deleted": False,
            "isGenerated": False,
            "runsCountToCompare": 20,
            **(LINE if kind == "LINE" else {}),
        }
        for number, (kind, name) in enumerate(named)
    ]
    return {"compareRunSections": [section], "compareRunCharts": charts, "isAccordionReordered": True}


def _envelope(name: str, state: Mapping[str, object], created: float) -> str:
    """A view with a name stands in the menu "Views" of its experiment."""
    created_ms = int(created * 1000)
    return json.dumps({"name": name, "createdAt": created_ms, "updatedAt": created_ms, "state": json.dumps(state)})
