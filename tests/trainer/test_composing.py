"""Words of a command line become settings; what does not fit says what was expected, every word at once."""

from __future__ import annotations

import pytest

from trainer.config import ConfigError, compose


@pytest.mark.parametrize(
    "path", ["/data/Thörax CT (1), [alt]=x", "/data/o'brien", "/data/scans/*.nii.gz", "/data/[ab]*.nii.gz", "~/ct", 'C:\\scans "new"\\']
)
def test_a_text_is_taken_as_it_is(path: str) -> None:
    assert compose([f"data.source={path}", "data.labels=null"]).data.source == path
    assert compose([f"data.source={path}", "data.labels=null"]).data.labels is None


def test_a_text_in_quotes_of_its_own_is_taken_without_them() -> None:
    assert compose(["data.source='a b'"]).data.source == "a b"
    assert compose(["preset=ct_cpu "]).preset == "ct_cpu"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("loop.lr=abc", "loop.lr: expected a number but got 'abc'."),
        ("loop.steps=1.5", "loop.steps: expected a whole number but got 1.5."),
        ("loop.steps=1,2", "loop.steps: expected one value but got several (1,2)."),
        ("crops.global_scale_mm=[96", "crops.global_scale_mm: expected a value but got '[96'."),
        ("model.compile=maybe", "model.compile: expected true or false but got 'maybe'."),
        ("measure.rungs=0.5", "measure.rungs: expected a list but got 0.5."),
    ],
)
def test_a_value_that_does_not_fit_says_what_was_expected(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(["loop.warmup_steps=x", word, "model.checkpoint_activations=yes"])
    assert said in str(error.value)
    assert "loop.warmup_steps: expected a whole number but got 'x'." in str(error.value)
    assert "checkpoint_activations" not in str(error.value)
