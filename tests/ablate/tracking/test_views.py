from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from ablate.tracking.batches import LONGEST_EXPERIMENT_TAG
from ablate.tracking.views import VIEW_TAG, filter_of, view_tags, view_url


@pytest.fixture
def views(planted: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    found = view_tags(planted().study, 1000.5)
    return {key.removeprefix(VIEW_TAG): json.loads(text) for key, text in found.items()}


def test_a_view_has_the_envelope_that_mlflow_lists_in_its_menu(views: dict[str, dict[str, Any]]) -> None:
    assert views.keys() == {"arms", "curves", "trials", "study"}
    for view in views.values():
        assert isinstance(view["name"], str)
        assert view["createdAt"] == view["updatedAt"] == 1_000_500
        assert isinstance(json.loads(view["state"]), dict)


def test_the_arms_view_filters_and_shows_verdict_effect_objective_and_guards(views: dict[str, dict[str, Any]]) -> None:
    state = json.loads(views["arms"]["state"])
    assert state["searchFilter"] == 'tags.study = "planted" AND tags.kind = "arm"'
    shown = [re.sub(r"^\w+\.`(.*)`$", r"\1", column) for column in state["selectedColumns"]]
    assert shown[:4] == ["verdict", "winner", "effect/mean", "effect/low"]
    assert {"probe/local_to_global_mrr", "probe/foreground_mutual_information", "loop/updates_applied"} <= set(shown)


def test_the_curves_view_draws_effects_as_bars_and_what_decides_as_lines(views: dict[str, dict[str, Any]]) -> None:
    state = json.loads(views["curves"]["state"])
    kinds = {chart["metricKey"]: chart["type"] for chart in state["compareRunCharts"]}
    assert kinds["effect/mean"] == "BAR"
    assert kinds["probe/local_to_global_mrr"] == "LINE"
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {s["uuid"] for s in state["compareRunSections"]}


def test_a_view_of_a_study_with_many_long_settings_still_fits_a_tag(planted: Callable[..., Any]) -> None:
    factors = {f"some.very.long.group.of.settings.{'x' * 60}_{index}": [0, 1] for index in range(60)}
    study = planted(changes={"phases": [{"name": "flags", "design": "one_at_a_time", "factors": factors}]}).study
    assert max(map(len, view_tags(study, 0.0).values())) <= LONGEST_EXPERIMENT_TAG


def test_an_address_opens_a_view_without_a_filter_of_its_own() -> None:
    url = urllib.parse.urlsplit(view_url("http://127.0.0.1:5000/", "7", "curves"))
    path, _, query = url.fragment.partition("?")
    asked = urllib.parse.parse_qs(query)
    assert path == "/experiments/7/runs"
    assert asked == {"workflowType": ["machine_learning"], "compareRunsMode": ["CHART"], "viewStateShareKey": ["curves"]}
    assert view_url("", "7", "arms").startswith("#/experiments/7/runs?")


def test_a_filter_is_one_line_that_names_the_study() -> None:
    assert filter_of("collapse", "trial") == 'tags.study = "collapse" AND tags.kind = "trial"'
