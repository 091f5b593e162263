"""The documentation as it is built: whole, closed in itself, and of the code as it stands."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "image": "href", "use": "href"}
"""What a browser fetches by itself."""


class Page(HTMLParser):
    """What a page fetches, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        address = given.get(LOADING.get(tag, ""))
        if address and given.get("rel") != "canonical":
            self.fetched.append(address)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(page: str) -> dict[str, list[list[str]]]:
    """Heading to the cells of its table."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| `"):
            found.setdefault(heading, []).append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def test_a_strict_build_has_no_warnings_and_every_page_of_the_folder(site: Path) -> None:
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {path for path in written if not (site / path).exists()} == set()
    assert (site / "search" / "search_index.json").exists()


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    assert {(page.name, address) for page in pages for address in Page(page).fetched if "//" in address.partition("?")[0]} == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()[^;)]*https?:", styles) == []


def test_every_picture_of_a_page_is_there_and_says_what_it_shows() -> None:
    drawn = hook("effects").pictures()
    for page in (ROOT / "docs").glob("*.md"):
        for alternative, picture in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert len(alternative) > 15, f"{page.name}: {picture}"
            assert picture in drawn or (ROOT / "docs" / picture).exists(), f"{page.name}: {picture}"


def test_the_reference_has_every_key_of_a_study_file_with_what_it_is() -> None:
    from ablate.study import Study

    reference = hook("reference")
    found = rows(reference.study_page())
    for model in reference.models_of(Study):
        wanted = {field.alias or name for name, field in model.model_fields.items()}
        assert {cells[0].strip("`") for cells in found[model.__name__]} == wanted
        assert [cells[0] for cells in found[model.__name__] if not cells[3]] == [], f"{model.__name__}: write a docstring under the field"


def test_the_reference_has_every_setting_of_the_trainer_with_its_default() -> None:
    from trainer.config import TrainerConfig, leaves

    found = {cells[0].strip("`"): cells for group in rows(hook("reference").trainer_page()).values() for cells in group}
    assert found.keys() == leaves(TrainerConfig()).keys()
    assert found["crops.foreground_threshold"][2] == "`-500`"
    missing = [name for name, cells in found.items() if not cells[3]]
    assert missing == [], "give the field a `help`"


def test_the_reference_has_every_metric() -> None:
    from trainer.measure.names import METRICS

    found = {cells[0].strip("`") for group in rows(hook("reference").metrics_page()).values() for cells in group}
    assert found == {metric.name for metric in METRICS}


@pytest.mark.parametrize(("study", "phase"), hook("effects").DRAWN)
def test_a_picture_of_effects_shows_each_arm_with_its_verdict_and_effect(study: str, phase: str) -> None:
    document = json.loads((ROOT / "studies" / "reports" / f"{study}.json").read_text())
    arms = [arm for one in document["phases"] if one["name"] == phase for arm in one["arms"] if arm["verdict"] != "baseline"]
    drawn = hook("effects").drawn(study, phase)
    for arm in arms:
        assert f"{arm['verdict']} {arm['effect']['mean']:+.3f}" in drawn
    assert drawn.count("<circle") == len(arms)


def test_every_command_that_a_page_names_exists() -> None:
    import typer.main

    from ablate.cli import app

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    texts = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    named = {(name, word) for name, text in texts.items() for word in re.findall(r"(?:^|`|/)ablate ([a-z]+)", text, re.MULTILINE)}
    assert len(named) > 20
    assert {(name, word) for name, word in named if word not in known} == set()


def test_every_file_that_a_page_names_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        named = re.findall(
            r"`((?:ablate|trainer|studies|docs|examples|benchmarks|tests)/[\w./-]+\.(?:py|md|yaml))`", page.read_text(encoding="utf-8")
        )
        assert [name for name in named if not (ROOT / name).exists()] == [], page.name


def test_the_smallest_study_of_the_guide_is_one(tmp_path: Path) -> None:
    from ablate.study import Study

    text = (ROOT / "docs" / "STUDY.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(study: warmup.*?)```", text, re.DOTALL)
    document: dict[str, Any] = yaml.safe_load(block)
    assert Study.model_validate(document).phases[0].name == "warmup"


def test_the_settings_that_the_story_ends_with_are_the_winners() -> None:
    text = (ROOT / "docs" / "COLLAPSE.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(crops.*?)```", text, re.DOTALL)
    winner = json.loads((ROOT / "studies" / "reports" / "collapse.json").read_text())["winner_levels"]
    told = yaml.safe_load(block)
    assert told == {path: winner[path] for path in told}
