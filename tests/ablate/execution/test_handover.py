"""How a command gets its settings; what Hydra reads is asked of Hydra itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from ablate.command import Command
from ablate.execution.handover import arguments, hydra_value, write_config

CONFIG: dict[str, Any] = {"lr": 1e-05, "net": {"act": "relu", "wide": True, "sizes": [8, 16]}, "note": None, "seed": 3}

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8"))
)


def made(**said: Any) -> list[str]:
    return arguments(Command(**({"command": ["prog"]} | said)), CONFIG, {"seed": "3", "directory": "/d", "config": "/d/config.json"})


def test_flags_come_at_the_end_with_the_seed_last() -> None:
    assert made() == ["prog", "--lr", "1e-05", "--net.act", "relu", "--net.wide", "true", "--net.sizes", "8", "16", "--seed", "3"]


def test_flags_with_an_equals_sign_and_switches() -> None:
    assert made(flags={"equals": True, "booleans": "switch"}) == (
        ["prog", "--lr=1e-05", "--net.act=relu", "--net.wide", "--net.sizes=8,16", "--seed=3"]
    )


def test_a_negatable_switch_says_no() -> None:
    command = Command(command=["p"], flags={"booleans": "negatable"})
    assert arguments(command, {"a": False, "b": True}, {}) == ["p", "--no-a", "--b"]


def test_the_settings_go_where_config_stands() -> None:
    assert made(command=["p", "{config}", "--last"], config="hydra", base={"net": CONFIG["net"]}, hand_over="changed") == [
        "p",
        "lr=1e-05",
        "note=null",
        "seed=3",
        "--last",
    ]


def test_all_settings_of_a_mapping_and_what_differs_from_a_file_are_handed_over() -> None:
    base = {"lr": 1e-05, "net": {"act": "tanh", "wide": True, "sizes": [8, 16]}, "note": None}
    assert made(config="hydra", base=base, hand_over="changed") == ["prog", "net.act=relu", "seed=3"]
    assert made(config="hydra", base=base)[1:3] == ["lr=1e-05", "net.act=relu"]


def test_a_number_of_another_type_is_a_change() -> None:
    command = Command(command=["p"], base={"flag": 1, "same": 2}, hand_over="changed")
    assert arguments(command, {"flag": True, "same": 2}, {}) == ["p", "--flag", "true"]


def test_a_seed_in_the_command_line_is_not_said_twice() -> None:
    assert made(command="prog --random {seed}")[:3] == ["prog", "--random", "3"]
    assert "--seed" not in made(command="prog --random {seed}")


def test_other_braces_stay_and_nothing_is_looked_at_twice() -> None:
    command = Command(command=["awk", "{print}", '{"a": 1}', "{directory}/x"], config="json")
    assert arguments(command, CONFIG, {"directory": "/d{seed}", "seed": "3"}) == ["awk", "{print}", '{"a": 1}', "/d{seed}/x"]


def test_one_text_is_split_without_any_shell() -> None:
    command = Command(command="prog 'a b' $HOME; rm *", config="json")
    assert arguments(command, {}, {}) == ["prog", "a b", "$HOME;", "rm", "*"]


@pytest.mark.parametrize("style", ["yaml", "json"])
def test_a_file_holds_the_whole_config(tmp_path: Path, style: str) -> None:
    command = Command(command=["p", "--config={config}"], config=style)
    path = write_config(command, CONFIG, tmp_path)
    assert path is not None
    assert (json.loads if style == "json" else yaml.safe_load)(path.read_text()) == CONFIG
    assert arguments(command, CONFIG, {"config": str(path)}) == ["p", f"--config={path}"]


@given(scalars | st.lists(scalars, max_size=4))
def test_hydra_reads_every_level_as_it_was(value: Any) -> None:
    parsed = OverridesParser.create().parse_override(f"a.b={hydra_value(value)}").value()
    assert as_plain(parsed) == value
    assert type(as_plain(parsed)) is type(value)


def as_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [as_plain(inner) for inner in value]
    return getattr(value, "text", value)
