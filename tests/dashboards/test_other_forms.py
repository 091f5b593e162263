"""The report as Markdown and as PDF."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from ablate.errors import AblateError
from ablate.results import Results
from ablate.words import number
from dashboards import markdown, printing
from dashboards.report import write_as

NASTY = '<img src=x onerror="alert(1)"> | `x` **b** [l](u) _e_'


def words(page: str) -> str:
    """What a reader of the rendered Markdown sees."""
    html = MarkdownIt("commonmark").enable("table").render(page)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def test_markdown_says_what_the_document_says(results: Results) -> None:
    document, seen = results.document(), words(markdown.render(results))
    assert document["question"] in seen
    for phase in document["phases"]:
        assert phase["reason"] in seen
        for arm in phase["arms"]:
            assert arm["reason"] in seen
            assert all(number(value) in seen for value in [arm["effect"][end] for end in ("low", "high")] if value is not None)
            assert number(arm["effect"]["mean"], signed=True) in seen
            assert arm["total_effect"] is None or number(arm["total_effect"]["mean"], signed=True) in seen
            assert all(metric in seen and number(value) in seen for metric, value in arm["metrics"].items())
    for path, row in document["thresholds"].items():
        assert path in seen
        assert all(number(row[end]) in seen for end in ("low", "high") if row[end] is not None)
    said = [*document["answer"]["headline"], *document["answer"]["warnings"], document["answer"]["fairness"]]
    assert all(sentence in seen for sentence in said)
    assert document["code_version"] in seen
    assert "Probes: the winner is above every reference in" in seen
    for reference in document["references"].values():
        assert number(reference["metrics"]["probe/local_to_global_mrr"]) in seen
    assert all(f"({failed['cause']})" in seen for failed in document["failed_trials"])
    for change in document["answer"]["changes"]:
        assert f"{change['path'].rpartition('.')[2]}:" in seen


@pytest.mark.parametrize(
    "value",
    [NASTY, "- no item", "1. no item", "# no heading", "a\n\n# b", "back\\slash", "> no quote", "a_b_c", "&amp;", "~~~", "$x$", "a|b"],
)
def test_any_text_stays_text(value: str) -> None:
    plain = " ".join(value.split())
    assert words(f"{markdown.text(value)}\n") == plain
    assert words(markdown.table(["head"], [[value]])) == f"head {plain}"
    assert words(f"- {markdown.text(value)}") == plain


def test_malicious_names_stay_text_in_markdown(planted: Callable[..., Any]) -> None:
    phase = {"name": "flags", "design": "one_at_a_time", "factors": {"loss.matching": ["all_pairs", NASTY]}}
    study = planted(changes={"question": f"Is {NASTY} safe?", "phases": [phase]})
    study.run()
    page = markdown.render(Results(study.root, "planted"))
    assert f"Is {NASTY} safe?" in words(page)
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert "<img" not in html
    assert "<a " not in html


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_pdf_is_printed_from_the_page(results: Results, tmp_path: Path) -> None:
    written = write_as(results, tmp_path, ["pdf", "md"])
    assert [path.name for path in written] == ["report.html", "report.md", "report.pdf"]
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md", "report.pdf"]


def test_without_a_browser_it_is_said_what_to_do_and_the_other_files_are_there(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_BROWSER", str(tmp_path / "none"))
    with pytest.raises(AblateError, match=r"expected a Chromium but found none \(ABLATE_BROWSER=.*Install one"):
        write_as(results, tmp_path, ["md", "pdf"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_a_browser_that_does_not_print_leaves_the_old_file(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, old = tmp_path / "broken", tmp_path / "report.pdf"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    old.write_text("old")
    monkeypatch.setenv("ABLATE_BROWSER", str(broken))
    with pytest.raises(AblateError, match="it is broken"):
        printing.pdf(tmp_path / "report.html", old)
    assert old.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "report.pdf"}
