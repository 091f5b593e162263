"""Descriptions in MLflow: what comes from outside stands there as it was typed."""

from __future__ import annotations

from html import unescape

from markdown_it import MarkdownIt

from ablate.conclusion import ArmVerdict
from ablate.study import Study
from ablate.tracking.notes import arm_note, run_note

NASTY = '<script>alert("x")</script> [a](http://b) *c* `d` & ~e~ | _f_ \\g'


def study() -> Study:
    return Study.model_validate(
        {
            "study": "s",
            "question": f"Does {NASTY} help?",
            "trainer": {"callable": "a:b"},
            "baseline": {"mode": "none"},
            "objective": {"metric": "a`b", "direction": "maximize", "smallest_effect": 0.1},
            "phases": [{"name": "p", "design": "one_at_a_time", "factors": {"mode": ["none", NASTY]}}],
        }
    )


def seen(note: str) -> str:
    """The text of what a reader sees; no element but those that Markdown makes of the note itself."""
    html = MarkdownIt("commonmark").render(note)
    assert "<script" not in html
    assert "<a " not in html
    for tag in ("p", "strong", "ul", "li", "code"):
        html = html.replace(f"<{tag}>", "").replace(f"</{tag}>", "")
    return unescape(html)


def test_a_question_a_reason_and_a_level_stand_as_they_were_typed() -> None:
    told = run_note(study(), [], reported=False)
    assert f"Does {NASTY} help?" in seen(told)
    assert "Objective: a`b, maximized" in seen(told)
    assert "\\<" not in told, "MLflow's Markdown has no such escape, and drops the tag that follows"
    empty = dict.fromkeys(("effect", "total_effect", "p_adjusted", "collapse"))
    said = {"name": NASTY, "levels": {"mode": NASTY}, "verdict": "undecided", "reason": f"1 of {NASTY}.", "guards": []}
    arm = ArmVerdict.model_validate({**said, **empty, "carried": False, "replicates": 3, "metrics": {}})
    found = seen(arm_note(study(), arm, carried_on=False))
    assert f"1 of {NASTY}." in found
    assert f"mode: {NASTY}" in found
