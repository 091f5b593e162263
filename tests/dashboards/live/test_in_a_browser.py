"""The dashboard as a person uses it: a real study runs, a real browser looks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
from toyplace import Toyplace

from ablate.cli.status import status_of
from ablate.execution.lock import holder
from ablate.results import Results
from dashboards.live.asking import Steering
from dashboards.live.record import Record
from dashboards.live.serve import listen
from dashboards.live.viewing import Viewing

pytestmark = pytest.mark.slow

POINTS = "() => Math.max(0, ...[...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p.data.map(t => t.x.length)))"
RANGE = "() => document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range"


def longer(place: Toyplace, steps: int) -> None:
    """A study whose trials take half a second a step."""
    place.write(step_s=0.5)
    text = (place.directory / "toy.yaml").read_text().replace("[4, 6", f"[{steps}, {steps + 2}").replace("steps: 4}", f"steps: {steps}}}")
    (place.directory / "toy.yaml").write_text(text.replace(", 8]", f", {steps + 4}]"))


def test_it_follows_a_running_study_and_stops_it(place: Toyplace, dashboard: Callable[..., str], browse: Callable[..., Any]) -> None:
    longer(place, 16)
    run = place.start("run", "toy.yaml", "--no-mlflow")
    place.wait_for_attempts(1)
    address = dashboard(place, "toy")
    seen = browse()
    page = seen.page

    page.goto(address)
    page.get_by_role("heading", name="Do more steps add up to more?").wait_for()
    page.get_by_text("running (process").first.wait_for()
    page.evaluate("() => { window.kept = true; window.scrollTo(0, 200); }")
    before = page.locator(".tile .big").first.inner_text()
    page.wait_for_function("was => document.querySelector('.tile .big').innerText !== was", arg=before)
    assert page.evaluate("() => window.kept === true"), "up to date without a reload"
    assert page.evaluate("() => window.scrollY") == 200, "and the position is kept"
    assert seen.faults() == []

    page.get_by_role("link", name="Compare arms").click()
    page.get_by_role("button", name="steps=18").wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    page.wait_for_function(f"() => ({POINTS})() >= 1")
    assert "arm=" not in page.url
    page.get_by_role("button", name="baseline").click()
    page.wait_for_function("() => location.search.includes('arm=')")
    picked = page.url
    assert seen.faults() == []

    other = browse()
    other.page.goto(picked)
    other.page.get_by_role("button", name="baseline").wait_for()
    assert other.page.get_by_role("button", name="baseline").get_attribute("aria-pressed") == "false", "the link shares the choice"

    page.get_by_role("link", name="Trials", exact=True).click()
    page.get_by_role("link", name="running (").click()
    page.locator("td a").first.click()
    page.get_by_text("The end of its log").wait_for()
    page.get_by_text("training from 0").wait_for()
    assert "/trial/" in page.url
    assert seen.faults() == []

    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Stop the study").click()
    page.wait_for_timeout(300)
    assert holder(place.runs, "toy") is not None, "not confirmed, not stopped"
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.get_by_role("button", name="Stop the study").click()
    page.get_by_text("running trials save a checkpoint first.").wait_for(timeout=60_000)
    assert asked == ["Stop the study toy? Running trials save a checkpoint first, and `ablate run` goes on later."]
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 3, output
    page.get_by_text("stopped, resumable").first.wait_for()


def test_zoom_stays_while_new_points_come(place: Toyplace, dashboard: Callable[..., str], browse: Callable[..., Any]) -> None:
    longer(place, 60)
    place.start("run", "toy.yaml", "--no-mlflow")
    place.wait_for_attempts(1)
    seen = browse()
    page = seen.page
    page.goto(dashboard(place, "toy") + "compare")
    page.wait_for_function(f"() => ({POINTS})() >= 4")
    plot = page.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    page.evaluate("() => { document.querySelector('.js-plotly-plot').kept = true; }")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.35, box["y"] + box["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.7, steps=5)
    whole = page.evaluate(RANGE)
    page.mouse.up()
    page.wait_for_function(f"was => ({RANGE})()[1] < was[1] - 0.01", arg=whole)
    zoomed, points = page.evaluate(RANGE), page.evaluate(POINTS)
    page.wait_for_function(f"was => ({POINTS})() >= was + 2", arg=points)
    assert page.evaluate("() => document.querySelector('.js-plotly-plot').kept"), "drawn anew"
    assert page.evaluate(RANGE) == zoomed
    assert page.evaluate("() => document.querySelector('.js-plotly-plot').kept"), "the figure is the same, not a new one"


def test_ctrl_c_ends_the_dashboard_and_leaves_the_study(place: Toyplace, dashboard: Callable[..., str]) -> None:
    longer(place, 16)
    place.start("run", "toy.yaml", "--no-mlflow")
    place.wait_for_attempts(1)
    dashboard(place, "toy")
    server = place.started[-1]
    server.send_signal(signal.SIGINT)
    output, _ = server.communicate(timeout=20)
    assert server.returncode == 0, output
    assert "Traceback" not in output
    assert holder(place.runs, "toy") is not None


@pytest.fixture(scope="module")
def address(results: Results) -> Iterator[str]:
    """The dashboard of a study that is done, in this process."""
    status = lambda: status_of(results.root, "planted").model_dump(mode="json")  # noqa: E731
    record = Record(results.root, "planted", status)
    with Viewing(record) as viewing:
        server = listen(record, Steering(status, str, lambda *_: ""), viewing, 0)
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()


REAL = """
study: real
question: Are the crops seen?
trainer:
  callable: "trainer.train:train"
  preset: phantom_cpu
  viewer: ["{python}", -m, trainer, crops, --view, crops.html, --step, "{step}", "run={directory}"]
  set: {loop.steps: 3, loop.warmup_steps: 1, loop.batch_size: 4, data.phantom.scans: 6, measure.crops_per_scan: 4, measure.pictures: false}
baseline: {crops.min_global_overlap: 0.0}
objective: {metric: probe/local_to_global_mrr, direction: maximize, smallest_effect: 0.02}
replicates: {start: 3, at_most: 3}
phases:
  - {name: flags, design: factorial, factors: {crops.min_global_overlap: [0.0, 0.3]}}
"""


def test_the_viewer_is_run_from_a_trials_page_and_its_page_opens(
    place: Toyplace, dashboard: Callable[..., str], browse: Callable[..., Any]
) -> None:
    """The real trainer and its real crop viewer."""
    (place.directory / "real.yaml").write_text(REAL)
    place.ablate("run", "real.yaml", "--no-mlflow", "executor=inline", timeout=240)
    seen = browse(noise=("Content Security Policy",))
    page = seen.page
    page.set_default_timeout(90_000)
    page.goto(dashboard(place, "real") + "trials?state=done")
    page.locator("td a").first.click()
    page.get_by_role("heading", name="Look at what it saw").wait_for()
    assert seen.faults() == []
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width

    asked: list[str] = []

    def press(step: str) -> None:
        page.get_by_role("spinbutton", name="Step").fill(step)
        page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
        page.get_by_role("button", name="Run the viewer").focus()
        page.keyboard.press("Enter")

    press("1")
    page.get_by_text("the viewer runs since").wait_for()
    assert "-m trainer crops --view crops.html --step 1 run=" in asked[0], "what will run is shown before"
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="open crops.html").click()
    crops = opened.value
    crops.wait_for_selector("html[data-ready]")
    assert crops.locator("#planes canvas").count() == 3
    assert crops.locator("#rows tr").count() > 0
    assert crops.evaluate("() => self.origin") == "null", "a stranger to the dashboard"
    assert crops.evaluate("fetch('/').then(() => 'answered', () => 'refused')") == "refused"
    crops.close()
    press("1")
    page.get_by_text("Step 1: its page is there already.").wait_for()
    press("77")
    page.get_by_text("expected 0 to").wait_for()
    assert page.get_by_role("link", name="open crops.html").count() == 1


PAGES = ["/", "/compare?phase=flags", "/trials", "/trials?state=failed", "/nowhere"]


@pytest.mark.parametrize("dark", [False, True])
def test_every_page_fits_a_phone_in_light_and_dark(address: str, browse: Callable[..., Any], dark: bool) -> None:
    seen = browse(width=375, height=700, dark=dark)
    for path in PAGES:
        seen.page.goto(address + path)
        seen.page.locator("h1").wait_for()
        if "compare" in path:
            seen.page.locator(".js-plotly-plot").first.wait_for()
        assert seen.page.evaluate("() => document.documentElement.scrollWidth") <= 375, path
        assert seen.faults() == [], path


def test_it_is_used_by_keyboard_alone(address: str, browse: Callable[..., Any]) -> None:
    seen = browse()
    page = seen.page

    def to(name: str) -> None:
        """Tab until something of that name has the keyboard."""
        for _ in range(60):
            page.keyboard.press("Tab")
            if name in page.evaluate("() => document.activeElement.textContent"):
                return
        raise AssertionError(f"{name} is not to be reached")

    page.goto(address)
    page.locator("h1").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    to("Compare arms")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Compare arms").wait_for()
    to("tuned (")
    before = page.locator("button[aria-pressed=true]").count()
    page.keyboard.press("Space")
    page.wait_for_function("was => document.querySelectorAll('button[aria-pressed=true]').length === was + 1", arg=before)
    page.wait_for_function("() => document.activeElement.textContent.includes('tuned (')")
    to("Metrics: ")
    page.keyboard.press("Enter")
    to("loop/updates_applied")
    page.keyboard.press("Space")
    page.get_by_role("heading", name="loop/updates_applied").wait_for()
    page.wait_for_function("() => document.querySelector('details').open")


def test_a_search_narrows_the_list_while_one_types(address: str, browse: Callable[..., Any]) -> None:
    seen = browse()
    page = seen.page
    page.goto(f"{address}/trials")
    page.locator("input[type=search]").fill("foreground_only")
    page.get_by_text("loss is NaN at step 12").wait_for()
    page.wait_for_function("() => location.search === '?search=foreground_only'")
    assert page.evaluate("() => document.activeElement.tagName") == "INPUT"
    page.go_back()
    page.goto(f"{address}/trials?search=nothing%20such")
    page.get_by_text("No trial fits.").wait_for()
    assert page.locator("input[type=search]").input_value() == "nothing such"


def test_a_server_that_is_gone_is_said(place: Toyplace, dashboard: Callable[..., str], browse: Callable[..., Any]) -> None:
    place.write()
    place.ablate("run", "toy.yaml", "--no-mlflow", "executor=inline")
    seen = browse(noise=("Failed to fetch", "Failed to load", "ERR_CONNECTION", "the server did not respond"))
    seen.page.goto(dashboard(place, "toy"))
    seen.page.locator("h1").wait_for()
    assert not seen.page.locator("#lost").is_visible()
    server = place.started[-1]
    server.kill()
    server.communicate()
    seen.page.locator("#lost").wait_for(state="visible")
