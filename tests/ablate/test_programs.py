"""A study whose trainer is a command: what is checked before anything runs, and what its trials depend on."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.command import Command
from ablate.design import expand
from ablate.errors import StudyError, TrainerError
from ablate.loading import load
from ablate.offers import OFFERED, Offers, program
from ablate.plan import plan, trials
from ablate.study import Study, Trainer, asked_of
from ablate.trial import TrialSpec

BASE = {"lr": 0.1, "model": {"layers": 2, "act": "relu", "wide": False}, "sizes": [1, 2], "seed": 0}


def document(trainer: dict[str, Any], factors: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "study": "own",
        "question": "?",
        "trainer": {"command": ["{python}", "train.py"], "metrics": {"file": "m.jsonl"}, **trainer},
        "baseline": {},
        "objective": {"metric": "loss", "direction": "minimize", "smallest_effect": 0.1},
        "phases": [{"name": "first", "design": "one_at_a_time", "factors": factors or {"lr": [0.1, 1]}}],
        **changes,
    }


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(trainer: dict[str, Any], factors: dict[str, Any] | None = None, *changes: str, **other: Any) -> Study:
    path = Path("study.yaml")
    path.write_text(yaml.safe_dump(document(trainer, factors, **other)))
    return load(path, changes)


def problems(trainer: dict[str, Any], factors: dict[str, Any] | None = None, *changes: str) -> list[str]:
    with pytest.raises(StudyError) as error:
        loaded(trainer, factors, *changes)
    return list(error.value.problems)


def test_a_base_gives_the_baseline_its_values_and_levels_their_type() -> None:
    study = loaded({"base": BASE}, {"lr": [0.1, 1], "model.act": ["relu", "tanh"]})
    assert study.baseline == {"lr": 0.1, "model.act": "relu"}
    arms = {arm.name: arm.levels for arm in expand(study.phases[0], study.baseline)}
    assert list(arms) == ["baseline", "lr=1", "act=tanh"]
    assert isinstance(arms["lr=1"]["lr"], float)
    spec = trials(expand(study.phases[0], study.baseline)[2], [5], Offers(study.trainer), "")[0].spec
    assert spec.config == {**BASE, "model": {"layers": 2, "act": "tanh", "wide": False}, "seed": 5}
    assert TrialSpec.from_json(spec.to_json()) == spec
    assert spec.command is not None
    assert plan(study, Offers(study.trainer)).trials_at_most == 3 * 6 + 2 * 6


def test_a_misspelled_path_is_an_error_with_the_nearest_name() -> None:
    assert problems({"base": BASE}, {"model.layer": [1, 2], "model": [1, 2]}) == [
        "phases[0].factors.model: is a section of trainer.base, not a setting. Name one of its settings, such as model.act.",
        "phases[0].factors.model.layer: no such setting in trainer.base. Did you mean model.layers?",
    ]
    assert problems({"base": BASE}, {"lr.deeper": [1, 2]}) == [
        "phases[0].factors.lr.deeper: no such setting in trainer.base. It has seed, lr, model, sizes."
    ]
    assert problems({"base": BASE, "set": {"lrr": 1}}) == ["trainer.set.lrr: no such setting in trainer.base. Did you mean lr?"]


def test_without_a_base_any_path_is_accepted() -> None:
    assert loaded({}, {"what.ever": [1, "x"]}).trainer.base is None


def test_any_value_may_follow_the_one_in_the_base() -> None:
    assert loaded({"base": BASE}, {"model.wide": [False, "half"], "sizes": [[1, 2], [3]]})


def test_a_section_called_measure_or_a_setting_called_preset_are_the_programs_own() -> None:
    assert loaded({"base": {"measure": {"k": 1}, "preset": "a"}}, {"measure.k": [1, 2], "preset": ["a", "b"]})


def test_ranges_are_whole_where_the_base_is() -> None:
    tuned = {"phases": [{"name": "first", "design": {"tune": 2}, "factors": {"model.layers": {"low": 1, "high": 4}}}]}
    assert loaded({"base": BASE}, **tuned)
    tuned["phases"][0]["factors"] = {"model.layers": {"low": 0.1, "high": 0.5}}
    with pytest.raises(StudyError, match="whole numbers are tuned"):
        loaded({"base": BASE}, **tuned)


@pytest.mark.parametrize("name", ["base.yaml", "base.json"])
def test_the_programs_own_file_is_a_base_of_which_only_changes_are_handed_over(name: str) -> None:
    Path(name).write_text(yaml.safe_dump(BASE) if name.endswith("yaml") else '{"lr": 0.1, "seed": 0}')
    trainer = loaded({"base": name}).trainer
    assert trainer.hand_over == "changed"
    assert isinstance(trainer.base, dict)
    assert trainer.base["lr"] == 0.1
    command = Offers(trainer).command()
    assert command is not None
    assert command["base"] == trainer.base


def test_a_hydra_config_is_composed_with_the_files_beside_it() -> None:
    Path("conf/opt").mkdir(parents=True)
    Path("conf/config.yaml").write_text("defaults:\n  - opt: sgd\n  - _self_\nname: ${opt.kind}_${oc.env:HOME}\nseed: 0\n")
    Path("conf/opt/sgd.yaml").write_text("kind: sgd\nlr: 0.1\n")
    study = loaded({"base": "conf/config.yaml", "config": "hydra"}, {"opt.lr": [0.1, 0.2]})
    assert study.trainer.base == {"opt": {"kind": "sgd", "lr": 0.1}, "name": "${opt.kind}_${oc.env:HOME}", "seed": 0}
    Path("conf/config.yaml").write_text("defaults:\n  - opt: adam\n")
    assert "Could not find 'opt/adam'" in problems({"base": "conf/config.yaml", "config": "hydra"})[0]


def test_a_hydra_config_that_would_import_a_package_is_not_composed() -> None:
    Path("evil.py").write_text("open('ran', 'w')")
    Path("config.yaml").write_text("defaults: [_self_]\nhydra: {searchpath: ['pkg://evil']}\n")
    assert "it searches in a package" in problems({"base": "config.yaml", "config": "hydra"})[0]
    assert not Path("ran").exists()


def test_a_base_that_cannot_be_read_hides_no_other_problem() -> None:
    Path("bad.yaml").write_text("a: [1\n")
    found = problems({"base": "bad.yaml", "final": "mean"})
    assert [line.partition(":")[0] for line in found] == ["trainer.base", "trainer.final"]
    assert "no such file" in problems({"base": "none.yaml"})[0]


def test_every_problem_of_a_command_is_reported_at_once() -> None:
    found = problems(
        {
            "command": ["no-such-program", "x", "{conifg}", "--c={config}", "{checkpoint}"],
            "preset": "p",
            "environment": {"WANDB_API_KEY": "x", "TOKENIZERS_PARALLELISM": "false"},
            "rename": {"a": "loss", "b": "loss"},
            "code": ["none.py"],
            "data": "nowhere",
            "metrics": {"file": "../m.jsonl"},
            "stop": {"signal": "SIGTREM"},
            "final": "mean_0",
            "seed_kye": "s",
        }
    )
    places = [line.split(": ")[0] for line in found]
    assert sorted(set(places)) == sorted(
        {
            "trainer.preset",
            "trainer.environment.WANDB_API_KEY",
            "trainer.rename.a",
            "trainer.rename.b",
            "trainer.code[0]",
            "trainer.data",
            "trainer.command",
            "trainer.metrics.file",
            "trainer.stop.signal",
            "trainer.final",
            "trainer.seed_kye",
        }
    ), found
    text = "\n".join(found)
    assert "no such placeholder: {conifg}. Did you mean config?" in text
    assert "cannot find the program 'no-such-program'" in text
    assert "{checkpoint} has no value" in text
    assert "Did you mean seed_key?" in text
    assert "WANDB_API_KEY: looks like a secret" in text


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"command": "prog 'open"}, "trainer.command: expected an argument vector but No closing quotation"),
        ({"command": []}, "trainer.command: expected a program and its arguments but it is empty"),
        ({"config": "yaml"}, "trainer.command: expected {config} where the path of its yaml file goes"),
        ({"metrics": None}, "trainer.metrics: expected where its metrics are but it is missing"),
        ({"metrics": {"file": "a", "pattern": "(?P<a>x)"}}, "trainer.metrics: expected one of file and pattern"),
        ({"metrics": {"pattern": "(?P<a>x"}}, "trainer.metrics.pattern: expected a regular expression but '(?P<a>x' is none (missing )"),
        (
            {"metrics": {"pattern": ["(?P<a>x)", "loss (.*)"]}},
            "trainer.metrics.pattern: expected a named group for each metric but 'loss (.*)' has none",
        ),
        ({"cwd": "nowhere"}, "trainer.cwd: expected a folder but there is no nowhere"),
        ({"environment": {"A B": "x"}}, "trainer.environment.A B: "),
        ({"environment": {"A": [1]}}, "trainer.environment.A: expected a text or a whole number or a number but got a list"),
        ({"callable": "a:b"}, "trainer: expected one of callable and command"),
        ({"stop": {"wait_s": -1}}, "trainer.stop.wait_s: expected a number of at least 0 and at most 3600 but got -1"),
        ({"config": "toml"}, "trainer.config: expected one of hydra, flags, yaml, json but got 'toml'"),
        ({"checkpoint": {"file": "a.pt"}}, "trainer.checkpoint.argument: expected"),
        ({"checkpoint": {"file": "/a.pt", "argument": "--r {checkpiont}"}}, "trainer.checkpoint.file: expected a file inside {directory}"),
        ({"final": "mean_x"}, "trainer.final: expected last or mean_N"),
        ({"base": 3}, "trainer.base: expected a mapping of keys to values or a text or null but got 3"),
        ({"data": {"version": ""}}, "trainer.data"),
    ],
)
def test_a_problem_says_where_and_what_to_do(trainer: dict[str, Any], words: str) -> None:
    found = problems(trainer)
    assert any(line.startswith(words) for line in found), found
    assert len(found) == 1


def test_rungs_need_a_program_that_goes_on_from_a_checkpoint() -> None:
    with pytest.raises(StudyError, match="rungs: trials pause at a rung and go on from a checkpoint, but"):
        loaded({"base": BASE}, rungs=[10])


def test_keys_of_a_command_have_no_place_beside_a_callable() -> None:
    Path("mine.py").write_text("def train(config, run): ...")
    found = problems({"callable": "mine:train", "command": None})
    assert found == ["trainer.metrics: belongs to a command but this trainer is a callable. Leave it out."]


def test_neither_a_callable_nor_a_command_is_said() -> None:
    assert "trainer: expected one of callable and command" in problems({"command": None, "metrics": None})[0]


def test_settings_are_overridden_on_the_command_line() -> None:
    study = loaded({"base": BASE}, None, "model.layers=3", "trainer.final=mean_4")
    assert (study.trainer.set, study.trainer.final) == ({"model.layers": 3}, "mean_4")
    assert (
        "no such key of a study and no such setting of its trainer. Did you mean model.layers?"
        in problems({"base": BASE}, None, "model.layer=3")[0]
    )


def test_a_value_in_their_own_file_is_not_changed_behind_their_back() -> None:
    Path("base.yaml").write_text("lr: 0.1")
    assert problems({"base": "base.yaml"}, None, "trainer.base.lr=1") == [
        "override trainer.base.lr: the base is a file, base.yaml. To change a setting for all arms, write lr=VALUE."
    ]
    assert loaded({"base": "base.yaml"}, None, "lr=0.2").trainer.set == {"lr": 0.2}


FULL = {
    "command": ["{python}", "train.py", "{config}"],
    "cwd": ".",
    "environment": {"A": 1},
    "config": "hydra",
    "flags": {"equals": True, "booleans": "switch"},
    "base": BASE,
    "hand_over": "all",
    "seed_key": "seed",
    "metrics": {"file": "m.jsonl", "step": "step"},
    "rename": {"a": "b"},
    "final": "mean_3",
    "result": "result.json",
    "checkpoint": {"file": "a.pt", "argument": ["--resume", "{checkpoint}"]},
    "stop": {"signal": "SIGINT", "wait_s": 3, "to": "all"},
    "limits": {"output_mib": 1, "metrics_mib": 2},
    "code": [],
    "data": {"version": "1"},
    "set": {"lr": 0.5},
}

anything = st.recursive(
    st.none() | st.integers(-2, 2) | st.floats(allow_nan=False) | st.text("ab:{}/.*('\"", max_size=4) | st.just("{config}"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["file", "pattern", "argument", "signal", "wait_s", "version", "lr", "x.y", "a b"]), inner, max_size=2
        )
    ),
    max_leaves=6,
)


def test_a_study_that_says_everything_loads() -> None:
    trainer = loaded(FULL).trainer
    assert set(FULL) == {*Command.model_fields, "set"}
    assert trainer.stop.wait_s == 3.0
    assert Trainer.model_validate(trainer.model_dump(by_alias=True)) == trainer


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(FULL)), anything)
def test_no_value_anywhere_in_a_command_breaks_the_loader(key: str, value: object) -> None:
    with contextlib.suppress(StudyError):
        loaded(FULL | {key: value})


REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("example", ["plain_torch", "hydra_app"])
def test_the_examples_load_and_the_page_shows_them_as_they_are(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    path = Path("examples") / example / "study.yaml"
    study = load(path)
    assert 0 < plan(study, Offers(study.trainer)).trials_at_most <= 18
    page = Path("docs/OWN_TRAINER.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```yaml")[1:]]
    [shown] = [yaml.safe_load(block) for block in blocks if f"examples/{example}" in block]
    assert shown["trainer"] == yaml.safe_load(path.read_text())["trainer"]


def test_every_key_of_a_command_is_on_its_page() -> None:
    page = (REPOSITORY / "docs/OWN_TRAINER.md").read_text()
    assert _rows(page, "The keys of a command") == set(Command.model_fields)


def test_every_offer_of_a_callable_is_on_its_page() -> None:
    assert _rows((REPOSITORY / "docs/OWN_TRAINER.md").read_text(), "What a callable may offer") == set(OFFERED)


def _rows(page: str, heading: str) -> set[str]:
    """First cells of the table in a section."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}


# what a trial depends on


def command(**said: Any) -> Trainer:
    return Trainer(**({"command": ["{python}", "train.py"], "metrics": {"file": "m"}} | said))


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_code_is_the_script_that_the_command_names() -> None:
    Path("train.py").write_text("1")
    before = program.code_version(command())
    Path("other.py").write_text("1")
    assert program.code_version(command()) == before
    Path("train.py").write_text("2")
    assert program.code_version(command()) != before


def test_code_is_the_versioned_sources_beside_the_script_as_they_stand() -> None:
    Path("train.py").write_text("1")
    Path("helper.py").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    before = program.code_version(command())
    Path("notes.md").write_text("x")
    Path("study.yaml").write_text(yaml.safe_dump(document({})))
    Path("scratch.py").write_text("not versioned")
    git("add", "notes.md", "study.yaml")
    git("commit", "-qm", "a text and the study itself")
    assert program.code_version(command()) == before, "neither decides what is trained"
    Path("helper.py").write_text("2")
    edited = program.code_version(command())
    assert edited != before
    git("commit", "-qam", "second")
    assert program.code_version(command()) == edited, "the same files"


def test_named_code_is_that_alone_and_modules_are_found() -> None:
    Path("pack/inner").mkdir(parents=True)
    Path("pack/inner/a.py").write_text("1")
    Path("train.py").write_text("1")
    named, module = command(code=["pack"]), command(command=["{python}", "-m", "pack.inner.a"])
    before = program.code_version(named), program.code_version(module)
    Path("train.py").write_text("2")
    assert (program.code_version(named), program.code_version(module)) == before
    Path("pack/inner/a.py").write_text("2")
    assert program.code_version(named) != before[0]
    assert program.code_version(module) != before[1]
    with pytest.raises(TrainerError, match=r"trainer.code: no such file or folder: none"):
        program.code_version(command(code=["none"]))


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ({"command": ["{python}", "train.py", "--amp"]}, False),
        ({"final": "mean_5"}, False),
        ({"environment": {"A": 1}}, False),
        ({"rename": {"a": "b"}}, False),
        ({"stop": {"wait_s": 1}}, True),
        ({"checkpoint": {"file": "a", "argument": "--r"}}, True),
        ({"limits": {"output_mib": 1}}, True),
    ],
)
def test_what_decides_a_result_is_part_of_the_code(said: dict[str, Any], same: bool) -> None:
    assert (program.code_version(command()) == program.code_version(command(**said))) is same


def test_code_and_data_are_the_same_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place in ("here", "there/deeper"):
        folder = tmp_path / place
        (folder / "data").mkdir(parents=True)
        (folder / "train.py").write_text("1")
        (folder / "data/x.bin").write_bytes(b"abc")
        monkeypatch.chdir(folder)
        found.append((program.code_version(command()), program.data_hash(command(data=["data"]))))
    assert found[0] == found[1]


def test_data_is_hashed_by_content_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.data_hash(command()) == ""
    Path("d").mkdir()
    Path("d/a").write_bytes(b"1")
    before = program.data_hash(command(data="d"))
    Path("d/a").write_bytes(b"2")
    assert program.data_hash(command(data=["d"])) != before
    assert program.data_hash(command(data={"version": "v1"})) != program.data_hash(command(data={"version": "v2"}))
    monkeypatch.setattr(program, "WHOLE_BYTES", 10)
    monkeypatch.setattr(program, "SAMPLE_BYTES", 2)
    seen = set()
    for content in (b"0123456789abc", b"0123456789abd", b"0123456x89abc", b"x123456789abc", b"0123456789abcd"):
        Path("d/a").write_bytes(content)
        seen.add(program.data_hash(command(data="d")))
    assert len(seen) == 5


def test_a_viewer_belongs_to_either_kind_of_trainer_and_is_no_part_of_the_question() -> None:
    Path("train.py").write_text("")
    Path("mine.py").write_text("def train(config, run): ...")
    words = ["{python}", "show.py", "{config}", "{directory}", "--seed", "{seed}", "--step", "{step}"]
    plain, shown = loaded({"base": BASE}), loaded({"base": BASE, "viewer": words})
    assert shown.trainer.viewer == words
    assert asked_of(plain) == asked_of(shown)
    arm = expand(plain.phases[0], plain.baseline)[0]
    one, other = (trials(arm, [0, 1], Offers(study.trainer), "") for study in (plain, shown))
    assert [trial.spec.signature for trial in one] == [trial.spec.signature for trial in other]
    assert Study.model_validate(shown.model_dump(mode="json", by_alias=True)).trainer.viewer == words
    callable_ = {"callable": "mine:train", "command": None, "metrics": None, "viewer": "show '{directory}'"}
    assert loaded(callable_, {"lr": [0.1, 1]}).trainer.viewer == "show '{directory}'"


@pytest.mark.parametrize(
    ("viewer", "said"),
    [
        (["show", "{directry}", "{checkpoint}"], ["{directry}", "{checkpoint}"]),
        ("show 'open", ["expected an argument vector but No closing quotation. Close the quote, or write a list."]),
        ([], ["expected a program and its arguments but it is empty."]),
        ("", ["expected a program and its arguments but it is empty."]),
        (7, ["trainer.viewer: expected"]),
    ],
)
def test_a_viewer_is_checked_with_the_rest_of_the_file(viewer: object, said: list[str]) -> None:
    Path("train.py").write_text("")
    found = problems({"base": BASE, "viewer": viewer}, {"nothing_of_this_name": [1, 2]})
    own = "\n".join(line for line in found if line.startswith("trainer.viewer"))
    assert own != ""
    assert all(words in own for words in said)
    assert any("nothing_of_this_name" in line for line in found), "all at once"
