from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from ablate.results import Results
from ablate.words import number
from dashboards.page import as_json, yaml_block
from dashboards.report import render, write
from dashboards.sections import adopted_arms

NASTY = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>'


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.data: dict[str, str] = {}
        self._inside: list[tuple[str, dict[str, str | None]]] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text.append(data)
        elif self._inside[-1][0] == "script":
            attributes = self._inside[-1][1]
            if attributes.get("type") == "application/json":
                self.data[str(attributes["id"])] = data
            else:
                self.scripts.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(results, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def check_nothing_is_loaded(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:")), f"<{tag} {name}={address[:80]}>"
        assert not any(name.startswith("on") for name in attributes), tag
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_the_report_is_one_file_that_loads_nothing(page: Page, written: Path) -> None:
    check_nothing_is_loaded(page)
    assert written.stat().st_size < 15_000_000
    assert sum("plotly.js v" in script for script in page.scripts) == 1, "plotly is in the page once"


@pytest.mark.parametrize(
    "planted_load", ['<script src="https://cdn.plot.ly/plotly.js"></script>', '<img src="http://x/y.png">', '<a onclick="x()">']
)
def test_a_page_that_loads_something_is_caught(written: Path, planted_load: str) -> None:
    with pytest.raises(AssertionError):
        check_nothing_is_loaded(Page(written.read_text(encoding="utf-8").replace("<main>", f"<main>{planted_load}")))


def test_the_page_holds_the_very_document_of_the_report_command(page: Page, results: Results) -> None:
    assert json.loads(page.data["document"]) == results.document()


def test_every_arm_and_every_number_of_the_document_is_to_be_read(page: Page, results: Results) -> None:
    document = results.document()
    words = page.words
    assert document["question"] in words
    for phase in document["phases"]:
        assert phase["reason"] in words
        for arm in phase["arms"]:
            assert arm["name"] in words
            assert arm["reason"] in words
            values = [*arm["metrics"].values(), *(guard["value"] for guard in arm["guards"])]
            values += [(arm["effect"] or {}).get(end) for end in ("low", "high")]
            assert all(number(value) in words for value in values if value is not None)
            if arm["effect"] is not None:
                assert number(arm["effect"]["mean"], signed=True) in words
    for reference in document["references"].values():
        assert number(reference["metrics"]["probe/local_to_global_mrr"]) in words
    for path, row in document["thresholds"].items():
        assert path in words
        assert all(number(row[end]) in words for end in ("low", "high") if row[end] is not None)
    for warning in document["answer"]["warnings"]:
        assert warning in words


def test_every_question_is_answered_with_its_figures(page: Page, results: Results) -> None:
    asked = results.document()["answer"]["questions"]
    assert len(asked) == 3
    for index, question in enumerate(asked):
        assert question["ask"] in page.words
        assert number(question["baseline"]) in page.words
        assert f"question-{index}" in page.data


def test_what_is_adopted_is_told_once_and_only_where_fresh_replicates_bear_it_out() -> None:
    flags, weighting = {"name": "flags", "winner": "a=1"}, {"name": "weighting", "winner": "baseline"}
    confirmed, refuted = ({"name": "confirmation", "winner": winner} for winner in ("winner", "baseline"))
    assert adopted_arms({"phases": [flags, weighting]}) == ["a=1 (flags)"]
    assert adopted_arms({"phases": [flags, weighting, confirmed]}) == ["a=1 (flags)"]
    assert adopted_arms({"phases": [flags, weighting, refuted]}) == []


def test_each_phase_has_its_effects_and_curves(page: Page, results: Results) -> None:
    for index, phase in enumerate(results.document()["phases"]):
        markers = json.loads(page.data[f"effects-{index}"])["data"]
        assert len(markers) == len(phase["arms"])
        assert f"curves-{index}-0" in page.data
        assert f"curves-{index}-2" in page.data


def test_of_many_arms_the_curves_of_the_best_are_drawn(planting: Callable[..., Any], tmp_path: Path) -> None:
    levels = [round(0.01 * n, 2) for n in range(30)]
    phase = {"name": "many", "design": "one_at_a_time", "factors": {"crops.min_foreground_ratio": levels}}
    made = planting(tmp_path / "runs", changes={"phases": [phase]})
    made.run()
    made.ledger.close()
    results = Results(made.root, "planted")
    found = results.document()["phases"][0]
    page = Page(render(results))
    drawn = {trace["legendgroup"] for trace in json.loads(page.data["curves-0-0"])["data"]}
    assert len(found["arms"]) == 30 + 1
    assert len(drawn) == 12
    assert {"baseline", found["winner"]} <= drawn
    effects = {arm["name"]: arm["effect"]["mean"] for arm in found["arms"] if arm["name"] not in ("baseline", found["winner"])}
    assert min(effects[name] for name in effects.keys() & drawn) >= max(effects[name] for name in effects.keys() - drawn)
    assert "The 12 of 31 arms with the best effects" in page.words


def test_the_alarm_is_said_with_its_steps_and_marked_in_the_curves(page: Page, results: Results) -> None:
    phase = results.document()["phases"][0]
    steps = [alarm["since_step"] for alarm in phase["alarms"] if alarm["arm"] == "baseline"]
    replicates = next(arm["replicates"] for arm in phase["arms"] if arm["name"] == "baseline")
    assert len(steps) == replicates
    assert f"baseline: uniform since steps {min(steps)} to {max(steps)}, in {len(steps)} of {replicates} replicates" in page.words
    shapes = json.loads(page.data["curves-0-0"])["layout"]["shapes"]
    assert median(steps) in [shape["x0"] for shape in shapes]


def test_probes_stand_beside_the_references_and_what_needs_no_learning(page: Page, results: Results) -> None:
    document = results.document()
    last = document["phases"][-1]
    winner = next(arm for arm in last["arms"] if arm["name"] == last["winner"])
    assert "Probes: the winner is above every reference in" in page.words
    row = page.words.partition("Probes: the winner")[2]
    for value in (winner["metrics"]["probe/local_to_global_mrr"], winner["metrics"]["probe/raw_local_to_global_mrr"]):
        assert number(value) in row


def test_every_figure_has_a_text_alternative_and_its_data(page: Page) -> None:
    plots = [attributes for tag, attributes in page.tags if attributes.get("class") == "plot"]
    assert plots
    for plot in plots:
        assert len(plot["aria-label"] or "") > 10
        assert json.loads(page.data[str(plot["data-figure"])])["data"]
    names = [plot["data-figure"] for plot in plots]
    assert len(names) == len(set(names))


def test_every_figure_states_its_finding_and_has_a_caption(page: Page) -> None:
    plots = [attributes for tag, attributes in page.tags if attributes.get("class") == "plot"]
    assert {str(plot["data-figure"]).partition("-")[0] for plot in plots} >= {"question", "effects", "curves", "attribution", "threshold"}
    for plot in plots:
        assert len(str(plot["data-title"])) > 10, plot["data-figure"]
    assert sum(tag == "figcaption" for tag, _ in page.tags) >= len(plots)


def test_the_report_says_on_what_machine_it_ran(page: Page, results: Results) -> None:
    assert results.machines()
    assert f"machine {results.machines()}".replace("machine ", "machine") in page.words


def test_the_galleries_of_baseline_and_winner_stand_side_by_side(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [str(image["alt"]).partition(":")[0] for image in images] == ["The study's baseline", "The winner", "untrained (reference)"]
    assert all(str(image["src"]).startswith("data:image/") for image in images)


def test_a_trial_that_failed_for_good_is_named_with_its_cause(page: Page) -> None:
    assert "loss is NaN at step 12" in page.words
    assert "1 trial failed for good" in page.words


def test_the_block_to_copy_holds_the_changes_as_yaml(page: Page, results: Results) -> None:
    changes = results.document()["answer"]["changes"]
    block = yaml_block({change["path"]: change["becomes"] for change in changes}, {})
    assert yaml.safe_load(block)["crops"]["min_global_overlap"] == 0.3
    assert all(line in "".join(page.text) for line in block.splitlines())


@pytest.mark.parametrize(
    "value", [True, None, 0, -500, 0.3, 1e-5, "none", "off", "a: b # c", "no", "null", "1.0", "", [1, "x"], "2020-01-01", [1e-7], 1e22]
)
def test_any_value_survives_the_yaml_block(value: Any) -> None:
    block = yaml_block({"a.b-c.d": value, "a.e f": 1}, {"a.b-c.d": "was\nsomething # else"})
    assert yaml.safe_load(block) == {"a": {"b-c": {"d": value}, "e f": 1}}


def test_malicious_names_show_as_text(planted: Callable[..., Any], tmp_path: Path) -> None:
    phase = {
        "name": "flags",
        "design": "one_at_a_time",
        "factors": {"loss.matching": ["all_pairs", NASTY], "crops.min_global_overlap": [0.0, 0.3]},
    }
    changes = {"question": f"Is {NASTY} safe?", "phases": [phase], "columns": [NASTY]}
    changes["questions"] = [{"ask": NASTY, "metric": NASTY, "direction": "maximize"}]
    study = planted(changes=changes)
    honest = study.curve
    study.curve = lambda config, step, replicate: honest(config, step, replicate) | {NASTY: float(step + replicate)}
    study.run(failing=lambda phase, arm: NASTY in arm.name)
    page = Page(render(Results(study.root, "planted")))
    check_nothing_is_loaded(page)
    assert f"Is {NASTY} safe?" in page.words
    arms = [arm["name"] for arm in Results(study.root, "planted").document()["phases"][0]["arms"]]
    assert any("<img" in arm for arm in arms)
    assert all(arm in page.words for arm in arms)
    assert [tag for tag, _ in page.tags if tag == "img"] == []
    assert not any("alert(" in script for script in page.scripts)
    assert len(page.scripts) == 2, "plotly and the page's own"


def test_json_in_a_script_element_cannot_end_it() -> None:
    content = json.dumps({"</script>": "<!-- & \u2028"})
    assert not set("<>&\u2028") & set(as_json(content))
    assert json.loads(as_json(content)) == json.loads(content)


def test_a_study_that_has_only_begun_has_a_page_too(planted: Callable[..., Any]) -> None:
    study = planted()
    page = Page(render(Results(study.root, "planted")))
    assert "No phase is concluded yet." in page.words


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_every_figure_and_complains_of_nothing(written: Path, page: Page, tmp_path: Path) -> None:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    flags += " --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --window-size=1200,9000 --dump-dom"
    done = subprocess.run(
        ["chromium", *flags.split(), f"--user-data-dir={tmp_path}", written.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "CONSOLE" not in done.stderr
    figures = sum(attributes.get("class") == "plot" for _, attributes in page.tags)
    assert done.stdout.count('class="plot-container') == figures
