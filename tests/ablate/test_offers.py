from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate.errors import TrainerError
from ablate.offers import Offers, SettingType
from ablate.offers.sources import callable_problem, version
from ablate.plan import trials
from ablate.study import Arm, Finding, Trainer

SCHEMA = '''
"""A toy trainer's settings."""
from __future__ import annotations
import dataclasses, os, sys
from dataclasses import dataclass, field

OFFERS = {"inert": "toy.schema:inert", "preflight": "toy.data:preflight", "data_hash": "toy.data:data_hash",
          "expected_seconds": "toy.schema:expected_seconds", "headlines": "toy.schema:headlines"}

@dataclass
class Loop:
    steps: int = field(default=10, metadata={"at_least": 0, "at_most": 100, "help": "Steps."})
    lr: float = field(default=0.1, metadata={"at_least": 0.0})

@dataclass
class Config:
    preset: str = "plain"
    seed: int = 0
    mode: str = field(default="slow", metadata={"choices": ("slow", "fast")})
    strength: float | None = None
    source: str = "data.txt"
    flag: bool = False
    sizes: list[float] = field(default_factory=lambda: [0.5])
    loop: Loop = field(default_factory=Loop)

def schema(preset=None):
    if preset not in (None, "plain", "long"):
        raise ValueError(f"preset: expected one of plain, long but got {preset!r}.")
    return Config(preset=preset or "plain", loop=Loop(steps=50 if preset == "long" else 10))

def from_mapping(values):
    values = dict(values)
    config = Config(**{**values, "loop": Loop(**values["loop"])})
    if config.mode == "fast" and config.loop.steps > 60:
        raise ValueError("loop.steps: fast takes at most 60 steps. Use slow.")
    return config

def inert(config):
    return ("loop.lr", "strength") if config.loop.steps == 0 else () if config.flag else ("strength",)

def expected_seconds(config):
    return config.loop.steps * 0.5

def headlines():
    return {"columns": ["m/x"], "questions": []}
'''
DATA = """
import os, sys, time
from pathlib import Path
assert "ablate.offers.__main__" not in sys.modules
from toy.schema import Config

def _count(name):
    path = Path("calls.txt")
    path.write_text((path.read_text() if path.exists() else "") + f"{name} {os.getpid()}\\n")

def data_hash(config):
    _count("data_hash")
    return Path(config.source).read_text()

def preflight(config):
    _count("preflight")
    assert isinstance(config, Config)
    if config.loop.steps == 13:
        print("about to crash", file=sys.stderr)
        os._exit(7)
    if config.loop.steps == 14:
        time.sleep(60)
    if config.loop.steps == 15:
        return [{"bogus": 1}]
    if config.loop.lr > 1:
        return [{"level": "error", "path": "loop.lr", "what": "is too large", "value": config.loop.lr, "mend": "Lower it."}]
    return []
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder holds a package `toy` and its data."""
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "schema.py").write_text(SCHEMA)
    (package / "data.py").write_text(DATA)
    (package / "train.py").write_text("import no_such_package\n\ndef train(config, run):\n    return {}\n")
    (tmp_path / "data.txt").write_text("data v1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name == "toy" or name.startswith("toy.")]:
        del sys.modules[name]


def offers(**changes: object) -> Offers:
    return Offers(Trainer.model_validate({"callable": "toy.train:train", "schema": "toy.schema:schema", **changes}))


def calls(folder: Path, name: str) -> list[str]:
    path = folder / "calls.txt"
    return [line for line in path.read_text().splitlines() if line.startswith(f"{name} ")] if path.exists() else []


def test_the_base_is_the_preset_with_the_studys_settings_in_it(toy: Path) -> None:
    assert offers(preset="long").base()["loop"] == {"steps": 50, "lr": 0.1}
    assert offers(preset="long", set={"loop.steps": 7}).base()["loop"] == {"steps": 7, "lr": 0.1}


def test_a_config_holds_base_levels_and_the_replicates_seed_in_the_types_of_the_schema(toy: Path) -> None:
    config = offers().config({"loop.lr": 2, "strength": 1}, 3)
    assert (config["seed"], config["loop"], config["strength"]) == (3, {"steps": 10, "lr": 2.0}, 1.0)
    assert json.dumps(config["loop"]) == '{"steps": 10, "lr": 2.0}'


def test_setting_types_read_bounds_choices_and_null_from_the_schema(toy: Path) -> None:
    types = offers().setting_types()
    assert types is not None
    assert types["loop.steps"] == SettingType(int, at_least=0, at_most=100, help="Steps.")
    assert types["mode"].choices == ("slow", "fast")
    assert types["strength"].optional
    assert types["sizes"] == SettingType(list, item=float)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("loop.steps", 101, "expected a whole number from 0 to 100 but got 101."),
        ("loop.steps", 1.5, "expected a whole number from 0 to 100 but got 1.5."),
        ("loop.steps", True, "expected a whole number from 0 to 100 but got true."),
        ("loop.lr", -1, "expected a number of at least 0 but got -1."),
        ("loop.lr", float("nan"), "expected a number of at least 0 but got nan."),
        ("mode", "fest", "expected one of slow, fast but got 'fest'. Did you mean fast?"),
        ("mode", None, "expected one of slow, fast but got null."),
        ("strength", "x", "expected a number or null but got 'x'."),
        ("flag", "yes", "expected true or false but got 'yes'."),
        ("sizes", [1, "a"], "expected a list of numbers but got [1, 'a']."),
        ("strength", None, None),
        ("loop.lr", 3, None),
        ("sizes", [1, 2.5], None),
    ],
)
def test_a_value_that_a_setting_does_not_take_is_said_in_words(toy: Path, path: str, value: object, problem: str | None) -> None:
    types = offers().setting_types()
    assert types is not None
    assert types[path].problem(value) == problem


def test_problems_name_unknown_settings_bounds_and_what_only_clashes_together(toy: Path) -> None:
    found = offers()
    assert found.problems(found.config({}, 0)) == []
    assert found.problems(found.config({"mode": "fast", "loop.steps": 61}, 0)) == ["loop.steps: fast takes at most 60 steps. Use slow."]
    assert "loop.steps: expected a whole number from 0 to 100 but got 200." in found.problems(found.config({"loop.steps": 200}, 0))
    assert found.problems(found.config({"flog": 1}, 0)) == ["flog: no such setting in toy.schema. Did you mean flag?"]
    with pytest.raises(TrainerError, match="fault of the trainer"):
        found.problems({"loop.steps": 1})


def test_inert_settings_are_replaced_by_the_schemas_own_default(toy: Path) -> None:
    found = offers(preset="long")
    assert found.neutral(found.config({"strength": 0.7}, 0)) == {"strength": None}
    assert found.identity({"strength": 0.7}) == found.identity({"strength": 0.2})
    assert found.identity({"strength": 0.7, "flag": True}) != found.identity({"strength": 0.2, "flag": True})
    assert offers(preset="long").neutral(found.config({"loop.steps": 0}, 0)) == {"loop.lr": 0.1, "strength": None}


def test_a_study_may_name_other_offers_than_the_schemas_module(toy: Path) -> None:
    (toy / "toy" / "mine.py").write_text("def seconds(config):\n    return 99.0\n")
    found = offers(expected_seconds="toy.mine:seconds")
    assert found.expected_seconds(found.config({}, 0)) == 99.0
    assert offers().expected_seconds(found.config({}, 0)) == 5.0
    assert offers().headlines() == {"columns": ["m/x"], "questions": []}


def test_without_a_schema_paths_are_unchecked_and_offers_get_plain_values(toy: Path) -> None:
    (toy / "toy" / "mine.py").write_text("def inert(config):\n    return ['b'] if config['a'] == 0 else []\n")
    found = Offers(Trainer(callable="toy.train:train", preset="p", set={"a": 0}, inert="toy.mine:inert", seed_key="run.seed"))
    assert found.setting_types() is None
    assert found.config({"b.c": 1}, 2) == {"preset": "p", "a": 0, "b": {"c": 1}, "run": {"seed": 2}}
    assert found.problems({"anything": object()}) == []
    assert found.neutral(found.config({}, 0)) == {"b": None}
    assert (found.data_hash({}), found.headlines(), found.expected_seconds({})) == ("", {}, None)


def test_offers_that_read_data_run_in_their_own_process_once_for_all_configs(toy: Path) -> None:
    found, runs = offers(), toy / "runs"
    configs = [found.config({"loop.lr": lr, "flag": True}, replicate) for lr in (0.5, 3.0) for replicate in (0, 1)]
    error = Finding(level="error", path="loop.lr", what="is too large", value=3.0, mend="Lower it.")
    assert found.preflight(configs, runs) == [[], [], [error], [error]]
    processes = {line.split()[1] for line in calls(toy, "preflight")}
    assert len(calls(toy, "preflight")) == 2, "the seed makes no other configuration"
    assert len(processes) == 1
    assert str(os.getpid()) not in processes
    assert "toy.data" not in sys.modules


def test_findings_are_kept_until_code_or_data_change(toy: Path) -> None:
    runs = toy / "runs"
    config = offers().config({"loop.lr": 3.0}, 0)
    first = offers().preflight([config], runs)
    assert offers().preflight([config], runs) == first
    assert len(calls(toy, "preflight")) == 1
    (toy / "data.txt").write_text("data v2")
    offers().preflight([config], runs)
    assert len(calls(toy, "preflight")) == 2
    (toy / "toy" / "train.py").write_text("def train(config, run):\n    return {'m': 1.0}\n")
    offers().preflight([config], runs)
    assert len(calls(toy, "preflight")) == 3
    for kept in (runs / "preflight").iterdir():
        kept.write_text("{torn")
    assert offers().preflight([config], runs) == first


def test_the_data_hash_is_asked_for_once(toy: Path) -> None:
    found = offers()
    assert {found.data_hash(found.config({}, replicate)) for replicate in range(3)} == {"data v1"}
    assert len(calls(toy, "data_hash")) == 1


def test_arms_that_name_other_files_have_a_hash_of_their_own_and_all_others_that_of_the_baseline(toy: Path) -> None:
    found = offers()
    origin = found.config({}, 0)
    unlike = [found.config(levels, 0) for levels in ({"mode": "fast"}, {"loop.steps": 3}, {"seed": 4})]
    assert {found.data_hash(config, like=origin) for config in unlike} == {"data v1"}
    assert len(calls(toy, "data_hash")) == 1, "a choice and a number name no file"
    (toy / "other.txt").write_text("data v2")
    other = found.config({"source": "other.txt"}, 0)
    assert found.data_hash(other, like=origin) == "data v2"
    (planned,) = trials(Arm(name="b", levels={"source": "other.txt"}), [0], found, origin)
    assert planned.spec.data_hash == "data v2"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (13, r"(?s)toy\.data:preflight: failed in its own process \(exit code 7\).*about to crash"),
        (15, "expected findings with level, path"),
    ],
)
def test_an_offer_that_breaks_says_which_and_shows_what_it_printed(toy: Path, steps: int, said: str) -> None:
    found = offers()
    with pytest.raises(TrainerError, match=said):
        found.preflight([found.config({"loop.steps": steps}, 0)], toy / "runs")


def test_an_offer_that_never_ends_is_given_up(toy: Path) -> None:
    found = offers()
    config = found.config({"loop.steps": 14}, 0)
    found.data_hash(config)
    with pytest.raises(TrainerError, match="expected an answer within 3 s"):
        found.preflight([config], toy / "runs", timeout_s=3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "no_such:schema"}, "trainer.schema: cannot import no_such"),
        ({"schema": "toy.schema:shema"}, "none named 'shema'. Did you mean schema?"),
        ({"schema": "toy.train:train"}, "trainer.schema: cannot import toy.train .*no_such_package"),
        ({"preset": "lang"}, "trainer.preset: expected one of plain, long but got 'lang'."),
        ({"schema": "toy.schema:headlines"}, "expected toy.schema:headlines to give a dataclass but got dict"),
        ({"schema": "toy.schema:headlines", "preset": "p"}, "takes no preset"),
    ],
)
def test_a_trainer_that_cannot_be_asked_says_why(toy: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(TrainerError, match=said):
        offers(**changes).base()


def test_a_callable_is_found_without_importing_its_module(toy: Path) -> None:
    assert callable_problem("toy.train:train") is None
    assert "toy.train" not in sys.modules
    assert callable_problem("toy.train:tran") == "toy.train has no tran. Did you mean train?"
    assert "cannot find the module toy.trane" in (callable_problem("toy.trane:train") or "")
    assert "cannot find" in (callable_problem("no_such.deep.module:train") or "")


def test_the_code_version_depends_on_names_and_contents_of_sources_alone(toy: Path) -> None:
    before = version("toy.train")
    elsewhere = toy / "elsewhere"
    shutil.copytree(toy / "toy", elsewhere / "toy")
    (elsewhere / "toy" / "schema.py").write_bytes(SCHEMA.replace("\n", "\r\n").encode())
    script = "from ablate.offers.sources import version; print(version('toy'))"
    moved = subprocess.run([sys.executable, "-c", script], cwd=elsewhere, capture_output=True, text=True, check=True)
    assert moved.stdout.strip() == before

    (toy / "toy" / "tests").mkdir()
    (toy / "toy" / "tests" / "test_it.py").write_text("")
    (toy / "toy" / "__pycache__").mkdir(exist_ok=True)
    (toy / "toy" / "__pycache__" / "old.py").write_text("")
    (toy / "toy" / "notes.md").write_text("")
    assert version("toy") == before
    (toy / "toy" / "preset.yaml").write_text("a: 1")
    with_preset = version("toy")
    (toy / "toy" / "preset.yaml").rename(toy / "toy" / "preset2.yaml")
    assert len({before, with_preset, version("toy")}) == 3


def test_a_single_module_is_its_own_code(toy: Path) -> None:
    (toy / "lonely.py").write_text("def train(config, run): ...\n")
    before = version("lonely")
    (toy / "other.py").write_text("")
    assert version("lonely") == before
    (toy / "lonely.py").write_text("def train(config, run): return {}\n")
    assert version("lonely") != before


def test_a_commands_checkpoint_is_what_it_exports(tmp_path: Path) -> None:
    trainer = Trainer(
        command="python train.py",
        base={"lr": 0.1},
        metrics={"file": "m.jsonl"},
        checkpoint={"file": "*.pt", "argument": "--resume {checkpoint}"},
    )
    with pytest.raises(TrainerError, match=r"trainer\.export"):
        Offers(trainer).export(tmp_path, tmp_path)
    (tmp_path / "command").mkdir()
    for age, name in enumerate(("new.pt", "old.pt")):
        (tmp_path / "command" / name).write_text(name)
        os.utime(tmp_path / "command" / name, (1000 - age, 1000 - age))
    assert Offers(trainer).export(tmp_path, tmp_path).name == "new.pt"
