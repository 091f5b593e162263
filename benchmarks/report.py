"""The report of 500 trials: how large it is, and how soon a browser has drawn its figures.

    PYTHONPATH=. python benchmarks/report.py [REPETITIONS]

A study of a factorial, of many levels and of a tuning phase is run with a trainer that only reports: 100 points of each of eight curves
and two pictures of noise, which no compression makes small. Chromium then opens the report from its file, each time in a new context, and
the page itself is asked when its first figure stood and when all did, from the beginning of the navigation. Beside it the report of the
same study with few arms, which tells what plotly alone takes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import ablate, environment
from benchmarks.side import machine, spread

GOAL_S, GOAL_MB = 3.0, 15.0
CHROMIUM = "/usr/bin/chromium"
STUDY = """
study: report
question: How soon does one see what 500 trials found?
trainer: {callable: "benchmarks.nothing:looked_at"}
baseline: {x: 0, t: 0.1, a: 0, b: 0, c: 0, d: 0, e: 0}
references: {untrained: {x: -50}}
objective: {metric: probe/total, direction: maximize, smallest_effect: 0.01}
replicates: {start: 4, at_most: 4, futile: null}
executor: local
workers: 2
phases:
  - {name: flags, design: factorial, factors: FLAGS}
  - {name: levels, design: one_at_a_time, factors: {x: LEVELS}}
  - {name: thresholds, design: {tune: POINTS}, factors: {t: {low: 0.0, high: 1.0}}}
"""

WATCH = """() => {
  const standing = () => {
    const plots = [...document.querySelectorAll('.plot')], drawn = plots.filter(plot => plot.querySelector('.main-svg')).length;
    if (drawn && window.firstDrawn === undefined) window.firstDrawn = performance.now();
    if (drawn && drawn === plots.length && document.readyState === 'complete') window.allDrawn = performance.now();
    else requestAnimationFrame(standing);
  };
  requestAnimationFrame(standing);
}"""
"""Times in milliseconds since the navigation began, taken at the frame after."""


@dataclass(frozen=True)
class Opening:
    """A report as a browser opens it."""

    first_s: float
    all_s: float
    figures: int


def written(folder: Path, *, flags: int, levels: int, points: int) -> tuple[Path, int]:
    """The report of such a study, run and written in a folder, and how many trials it had."""
    values = {"FLAGS": f"{{{', '.join(f'{name}: [0, 1]' for name in 'abcde'[:flags])}}}", "LEVELS": str(list(range(levels)))}
    text = STUDY.replace("POINTS", str(points))
    for name, value in values.items():
        text = text.replace(name, value)
    (folder / "report.yaml").write_text(text, encoding="utf-8")
    for words in (["run", "report.yaml", "--no-mlflow", "--yes"], ["report", "report"]):
        subprocess.run(ablate(*words), cwd=folder, env=environment(), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return folder / "runs/report/report.html", len(list((folder / "runs/trials").glob("*/accepted.json")))


def openings(pages: Sequence[Path], repetitions: int) -> list[list[Opening]]:
    """Each page opened so often, in turn."""
    from playwright.sync_api import sync_playwright

    found: list[list[Opening]] = [[] for _ in pages]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(repetitions):
            for taken, path in zip(found, pages, strict=True):
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                page = context.new_page()
                page.add_init_script(f"({WATCH})()")
                page.goto(path.as_uri())
                page.wait_for_function("() => window.allDrawn !== undefined", timeout=120_000)
                first, whole = page.evaluate("() => [window.firstDrawn, window.allDrawn]")
                taken.append(Opening(first / 1000, whole / 1000, page.locator(".plot").count()))
                context.close()
        browser.close()
    return found


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="report-") as name:
        few, many = Path(name) / "few", Path(name) / "many"
        few.mkdir()
        many.mkdir()
        made = [written(few, flags=1, levels=3, points=4), written(many, flags=5, levels=66, points=21)]
        found = openings([path for path, _ in made], repetitions)
        sizes = [path.stat().st_size / 1e6 for path, _ in made]
    if max(sizes) > GOAL_MB:
        raise RuntimeError(f"report.html: expected at most {GOAL_MB:g} MB but got {max(sizes):.1f}. See which part of the page has grown.")
    print(f"{machine(repetitions)}\n")
    print(f"| trials | file, MB (goal {GOAL_MB:g}) | figures | first figure drawn, s (goal {GOAL_S:g}) | all drawn, s |")
    print("| --- | --- | --- | --- | --- |")
    for (_, trials), size, taken in zip(made, sizes, found, strict=True):
        first, whole = ([getattr(one, name) for one in taken] for name in ("first_s", "all_s"))
        print(f"| {trials} | {size:.1f} | {taken[0].figures} | {spread(first, 2)} | {spread(whole, 2)} |")


if __name__ == "__main__":
    main()
