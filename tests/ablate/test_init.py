"""`ablate init`: what it writes loads, plans and, where nothing is missing, runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ablate.cli import app
from ablate.cli.init import Kind, init
from ablate.errors import StudyError
from ablate.loading import load
from ablate.offers import Offers
from ablate.plan import plan

THEIRS = {
    "model": {"layers": 3, "dropout": 0.5, "name": "resnet", "odd key: x": 1},
    "optim": {"lr": 3e-4, "nesterov": True, "betas": [0.9, 0.99]},
    "seed": 1,
    "num_workers": 4,
    "stages": [{"a": 1}],
    "nothing": None,
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_of_study_loads_and_plans(kind: Kind) -> None:
    said = init(Path("mine.yaml"), kind, None, force=False)
    assert said[-1].startswith("wrote mine.yaml")
    study = load(Path("mine.yaml"))
    assert study.study == "mine"
    assert plan(study, Offers(study.trainer)).trials_at_most > 0
    assert Path("mine.yaml").read_text().count("#") > 8


@pytest.mark.parametrize("kind", [Kind.COMMAND, Kind.CALLABLE])
@pytest.mark.parametrize("name", ["their.yaml", "their.json"])
def test_their_config_becomes_base_and_factors(kind: Kind, name: str) -> None:
    Path(name).write_text(json.dumps(THEIRS) if name.endswith("json") else yaml.safe_dump(THEIRS, sort_keys=False))
    init(Path("mine.yaml"), kind, Path(name), force=False)
    study = load(Path("mine.yaml"))
    assert study.phases[0].factors == {
        "model.layers": [1, 3, 6],
        "model.dropout": [0.25, 0.5, 0.75],
        "model.odd key: x": [1, 2],
        "optim.lr": [0.0001, 0.0003, 0.0009],
        "optim.nesterov": [True, False],
    }
    text = Path("mine.yaml").read_text()
    assert "# model.name: [resnet, ...]" in text
    assert "# num_workers: [2, 4, 8]" in text
    assert "# seed: [1, 2]" in text
    config = Offers(study.trainer).config(study.baseline, 0)
    assert config["optim"] == THEIRS["optim"]


def test_a_hydra_config_is_handed_over_as_overrides() -> None:
    Path("conf/opt").mkdir(parents=True)
    Path("conf/config.yaml").write_text("defaults:\n  - opt: sgd\n  - _self_\nseed: 0\n")
    Path("conf/opt/sgd.yaml").write_text("lr: 0.1\n")
    init(Path("mine.yaml"), Kind.COMMAND, Path("conf/config.yaml"), force=False)
    study = load(Path("mine.yaml"))
    assert (study.trainer.config, study.trainer.hand_over) == ("hydra", "changed")
    assert list(study.phases[0].factors) == ["opt.lr"]


def test_a_config_of_texts_alone_still_gives_a_study() -> None:
    Path("t.yaml").write_text("a: x\nseed: 1\n")
    init(Path("mine.yaml"), Kind.COMMAND, Path("t.yaml"), force=False)
    assert load(Path("mine.yaml")).phases[0].factors == {"a": ["x", "ANOTHER"]}
    Path("t.yaml").write_text("a: [[1], [2]]\n")
    with pytest.raises(StudyError, match="no setting that could be varied"):
        init(Path("other.yaml"), Kind.COMMAND, Path("t.yaml"), force=False)
    assert not list(Path().glob("*other*"))


def test_many_settings_make_no_large_study() -> None:
    Path("t.yaml").write_text("".join(f"s{index}: 1.0\n" for index in range(40)))
    init(Path("mine.yaml"), Kind.COMMAND, Path("t.yaml"), force=False)
    assert len(load(Path("mine.yaml")).phases[0].factors) == 8
    assert "# s39: [0.5, 1.0, 2.0]" in Path("mine.yaml").read_text()


keys = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="_- :#"), min_size=1, max_size=8)
values = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.text(st.characters(codec="ascii"), max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, values | st.dictionaries(keys, values, min_size=1, max_size=3), min_size=1, max_size=5))
def test_whatever_their_config_says_the_study_loads(theirs: dict[str, Any]) -> None:
    Path("t.json").write_text(json.dumps(theirs))
    try:
        init(Path("mine.yaml"), Kind.COMMAND, Path("t.json"), force=True)
    except StudyError as error:
        assert "stands twice" in str(error) or "defaults" in theirs, error  # noqa: PT017
    else:
        assert load(Path("mine.yaml")).phases[0].factors


def test_nothing_is_written_over_without_force() -> None:
    runner = CliRunner()
    Path("study.yaml").write_text("mine")
    with pytest.raises(StudyError, match=r"is there already.*--force"):
        runner.invoke(app, ["init"], catch_exceptions=False)
    assert Path("study.yaml").read_text() == "mine"
    done = runner.invoke(app, ["init", "--force"])
    assert done.exit_code == 0, done.output
    assert "wrote study.yaml" in done.output
    assert load(Path("study.yaml")).trainer.command is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer", "comand"], "expected one of command, callable, builtin but got 'comand'"),
        (["--from-config", "none.yaml"], "no such file"),
        (["--from-config", "x.yaml", "--trainer", "builtin"], "--from-config: the built-in trainer knows its settings"),
    ],
)
def test_a_call_that_cannot_work_is_told_why(arguments: list[str], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert not Path("study.yaml").exists()


def test_a_folder_gets_a_study_of_its_own_name() -> None:
    Path("my runs").mkdir()
    init(Path("my runs"), Kind.COMMAND, None, force=False)
    assert load(Path("my runs/study.yaml")).study == "my_runs"
