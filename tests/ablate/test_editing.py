"""Found settings put into somebody's own config."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.loading.editing import with_settings
from ablate.loading.reading import parse
from ablate.trial import merge

THEIRS = """# my config, do not touch
crops:            # what is seen
  threshold: 500  # HU
  ratio: 0.3
optimizer: {lr: 1e-3, betas: [0.9, 0.95]}   # fine as it is
name: "run: one"   # quoted
"""


def test_comments_and_all_other_lines_stay() -> None:
    edited = with_settings(
        THEIRS, {"crops.threshold": -412.5, "optimizer.lr": 0.002, "name": "two", "crops.overlap": True, "loss.kind": None}
    )
    assert edited == (
        """# my config, do not touch
loss: {kind: null}
crops:            # what is seen
  overlap: true
  threshold: -412.5  # HU
  ratio: 0.3
optimizer: {lr: 0.002, betas: [0.9, 0.95]}   # fine as it is
name: two   # quoted
"""
    )


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", "{}\n", "a:\n", "a: [1, 2]\n", "a:\n- 1\n- 2\n", "a: &x {b: 1}\nc: *x\n", "a: |\n  text\nb: 1\n"]
)
def test_whatever_stands_there_the_settings_are_right_afterwards(text: str) -> None:
    levels = {"a.b": 0.5, "d": "x: y # z"}
    before = parse(text)[0] or {}
    assert isinstance(before, dict)
    assert parse(with_settings(text, levels))[0] == merge(before, levels)


LEVEL = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(-1e3, 1e3), st.text("ab #:'\"-", max_size=6))
DOCUMENTS: Any = st.dictionaries(
    st.sampled_from("abc"), st.recursive(LEVEL, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=2)), max_size=3
)


@given(DOCUMENTS, st.dictionaries(st.sampled_from(["a", "b.a", "c.a.b", "d"]), LEVEL, max_size=3), st.booleans())
@settings(max_examples=100)
def test_any_document_has_the_settings_and_keeps_the_rest(document: dict[str, Any], levels: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow)
    assert parse(with_settings(text, levels))[0] == merge(parse(text)[0] or {}, levels)  # type: ignore[arg-type]
