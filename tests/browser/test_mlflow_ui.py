"""MLflow's own pages, as `ablate ui` opens them, looked at in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from browsing import Browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NASTY = "<img src=x onerror=alert(1)>"
FACTORS: dict[str, list[Any]] = {
    "crops.localcrops_subset_of_globalcrops": [False, True],
    "crops.min_global_overlap": [0.0, 0.3],
}
PHASES = [
    {"name": "flags", "design": "factorial", "factors": FACTORS},
    {"name": "names", "design": "one_at_a_time", "factors": {"loss.matching": ["all_pairs", NASTY]}},
]
OWN_NOISE = ("/users/current", "ResizeObserver", "404 (Not Found)")
"""What MLflow's pages say in the console without any fault of a study: they ask for a user where there are none."""


@pytest.fixture(scope="module")
def served(planting: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A study told to a store that `ablate ui` serves: the line that it prints for the study, and MLflow's address."""
    folder = tmp_path_factory.mktemp("browsed")
    study = planting(folder / "runs", changes={"phases": PHASES, "replicates": {"start": 3, "at_most": 3}})
    study.run()
    study.ledger.close()
    (folder / "runs" / "planted" / "report.html").write_text("<!doctype html><title>r</title><h1>the answer in short</h1>")
    words = ["--runs", str(folder / "runs")]
    command = [sys.executable, "-m", "ablate"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        subprocess.run([*command, "sync", "planted", *words], check=True, capture_output=True, timeout=240)
        with (folder / "ui.log").open("wb") as log:
            server = subprocess.Popen([*command, "ui", "--port", "0", *words], stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    assert server.stdout is not None
    try:
        printed = [server.stdout.readline().decode() for _ in range(2)]
        addresses = [found.group() for line in printed if (found := re.search(r"http://\S+", line))]
        until_it_answers(addresses[0], server)
        yield {"base": addresses[0], "arms": addresses[1]}
    finally:
        for child in psutil.Process(server.pid).children(recursive=True):
            child.kill()
        server.kill()
        server.wait()
        server.stdout.close()


def until_it_answers(address: str, server: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < end, "MLflow did not answer in time"
            time.sleep(0.1)


@pytest.fixture
def page(browse: Callable[..., Browser], served: dict[str, str]) -> Any:
    seen = browse(width=1800, height=1000, own=served["base"], noise=OWN_NOISE)
    seen.refuse_dialogs()
    seen.page.set_default_timeout(90_000)
    return seen.page


def names(page: Any) -> list[str]:
    """The runs of the table, from the top."""
    rows = page.locator(".ag-pinned-left-cols-container [role=row]").evaluate_all(
        "rows => rows.map(row => [Number(row.getAttribute('row-index')), row.innerText])"
    )
    return [next(line for line in text.splitlines() if ": " in line) for _, text in sorted(rows) if ": " in text]


def test_the_address_that_is_printed_opens_the_arms_with_verdict_and_effect(page: Any, served: dict[str, str]) -> None:
    page.goto(served["arms"])
    page.get_by_text("names: baseline").first.wait_for()
    header = page.locator(".ag-header").inner_text()
    assert all(column in header for column in ("verdict", "winner", "effect/mean", "effect/low", "probe/local_to"))
    assert names(page)[0] == "flags: baseline", "in the study's order"
    assert any(NASTY in name for name in names(page)), "a malicious name is text"
    assert page.locator(".ag-center-cols-container").inner_text().count("adopt") == 1
    page.locator(".ag-header").get_by_text("effect/mean", exact=True).click()
    page.wait_for_url("**orderByAsc=false**")
    page.wait_for_function(
        "() => document.querySelector('.ag-pinned-left-cols-container [row-index=\"0\"]')?.innerText.includes('localcrops_subset')"
    )
    assert "min_global_overlap" in names(page)[0], "the largest effect first"


def test_the_views_of_a_study_stand_in_the_menu(page: Any, served: dict[str, str]) -> None:
    page.goto(served["arms"])
    page.get_by_role("button", name="Arms: effect and verdict").click()
    for name in ("Arms: mean curves", "Trials", "Study and report"):
        page.get_by_text(name, exact=True).first.wait_for()


def test_curves_of_the_arms_lie_over_each_other(page: Any, served: dict[str, str]) -> None:
    page.goto(served["arms"].replace("viewStateShareKey=arms", "compareRunsMode=CHART&viewStateShareKey=curves"))
    page.get_by_text("What decides").first.wait_for()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.js-plotly-plot')].some(p => p.querySelectorAll('.scatterlayer .trace').length >= 4)"
    )
    page.wait_for_function(
        "() => [...document.querySelectorAll('.js-plotly-plot')].some(p => p.querySelectorAll('.barlayer .trace').length >= 1)"
    )


def test_the_studys_run_shows_its_report_inline(page: Any, served: dict[str, str]) -> None:
    page.goto(served["arms"].replace("viewStateShareKey=arms", "viewStateShareKey=study"))
    page.get_by_text("study planted", exact=True).first.click()
    page.get_by_text("Which change stops DINO-3D").first.wait_for()
    page.goto(page.url.partition("?")[0].rstrip("/") + "/artifacts/report.html")
    page.frame_locator("iframe").get_by_text("the answer in short").wait_for()
    listed = page.locator("body").inner_text()
    assert all(name in listed for name in ("report.html", "study.yaml", "thresholds.json"))
