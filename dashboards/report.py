"""`report.html`: one page that reads like an answer. Question, verdict, what to change; then the evidence; then how it was run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashboards import galleries, markdown, mattered, printing, sections
from dashboards.foretold import foretold
from dashboards.page import page, text

if TYPE_CHECKING:
    from ablate.results import Results


def write(results: Results, path: Path) -> Path:
    """Write the report: self-contained, under 15 MB, no request leaves it.

    Args:
        path: Where to; its folder exists.

    Returns:
        The same path.

    Raises:
        OSError: It cannot be written.
    """
    from ablate.trial import write_atomic

    write_atomic(path, render(results))
    return path


def write_as(results: Results, folder: Path, formats: Collection[str]) -> list[Path]:
    """Write `report.html`, `report.md` and `report.pdf`, as far as asked for; the PDF is printed from the page, which is then there too.

    Raises:
        AblateError: The PDF cannot be printed; the other files are there.
        OSError: A file cannot be written.
    """
    from ablate.trial import write_atomic

    written = []
    if {"html", "pdf"} & set(formats):
        written.append(write(results, folder / "report.html"))
    if "md" in formats:
        write_atomic(folder / "report.md", markdown.render(results))
        written.append(folder / "report.md")
    if "pdf" in formats:
        written.append(printing.pdf(folder / "report.html", folder / "report.pdf"))
    return written


def render(results: Results) -> str:
    """The report as HTML."""
    document = results.document()
    parts = {
        "answer": ("Answer", sections.answer(document)),
        "questions": ("The promises", sections.questions(results, document)),
        **{f"phase-{i}": (f"Phase {phase['name']}", sections.phase(results, document, i)) for i, phase in enumerate(document["phases"])},
        "mattered": ("What mattered", mattered.mattered(document)),
        "thresholds": ("Thresholds", sections.thresholds(document) + mattered.operating(document)),
        "probes": ("Probes", sections.probes(document)),
        "pictures": ("Pictures", _pictures(results, document)),
        "preflight": ("What was foretold", foretold(document)),
        "run": ("How it was run", sections.how(results, document)),
    }
    kept = {name: part for name, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{text(name)}">{text(label)}</a>' for name, (label, _) in kept.items() if name != "answer")
    head = f'<p class="over">ablate · study {text(document["study"])}</p><h1>{text(document["question"])}</h1>'
    body = [f'<section id="{text(name)}">{content}</section>' for name, (_, content) in kept.items()]
    nav = f'<nav aria-label="Sections">{links}</nav>'
    return page(f"{document['study']}: {document['question']}", "\n".join([head, body[0], nav, *body[1:]]), document)


def _pictures(results: Results, document: Mapping[str, Any]) -> str:
    if not document["phases"]:
        return ""
    subject = sections.subject(document)
    return galleries.galleries(results, document, subject, is_winner=sections.is_winner(document, *subject))
