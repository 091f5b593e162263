"""What the shell is offered at TAB, by the protocol that its own script speaks, of a study that has run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.cli import app
from ablate.ledger import Ledger
from ablate.study import Arm

ABLATE = Path(sys.executable).with_name("ablate")

STUDY = "# What?\nstudy: other\nquestion: Which?\n"


@pytest.fixture(scope="module")
def here(planting: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with study files, another YAML file, and a study that has begun."""
    folder = tmp_path_factory.mktemp("completing")
    (folder / "studies").mkdir()
    (folder / "studies" / "collapse.yaml").write_text(STUDY)
    (folder / "mine.yaml").write_text(STUDY)
    (folder / "config.yaml").write_text("model:\n  study: none\n")
    (folder / "broken.yaml").write_bytes(b"\xff\xfe")
    made = planting(folder / "runs")
    made.use("flags", Arm(name="baseline", levels=dict(made.study.baseline)), range(2))
    made.use("flags", Arm(name="a.b=1.0, it's $(x)", levels={**made.study.baseline, "loss.matching": "hierarchical"}), range(1))
    made.use("matching", Arm(name="c=x", levels={**made.study.baseline, "loss.matching": "foreground_only"}), range(1))
    made.ledger.close()
    return folder


@pytest.fixture
def offered(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The lines that a shell is told at the end of a line; the last word is what is typed of the one in question."""

    def told(**environment: str) -> list[str]:
        monkeypatch.chdir(here)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            app(prog_name="ablate")
        said = capsys.readouterr()
        assert said.err == ""
        return [line for line in said.out.split("\n") if line]

    def complete(line: str = "", **environment: str) -> list[str]:
        words = line.split("\0")
        bash = {"_ABLATE_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
        return told(**(environment or bash))

    return complete


def at(*words: str) -> str:
    return "\0".join(["ablate", *words])


def test_commands_and_options_are_offered(offered: Callable[..., list[str]]) -> None:
    assert {"run", "plan", "status", "dashboard", "explain"} <= set(offered(at("")))
    assert offered(at("expl")) == ["explain"]
    assert "--no-mlflow" in offered(at("run", "--no-m"))
    assert offered(at("report", "x", "--format", "")) == ["html", "md", "pdf"]
    assert offered(at("trials", "--state", "f")) == ["failed"]


def test_study_files_are_offered_and_other_yaml_is_not(offered: Callable[..., list[str]]) -> None:
    assert offered(at("run", "")) == ["mine.yaml", "studies/collapse.yaml"]
    assert offered(at("plan", "studies/c")) == ["studies/collapse.yaml"]
    assert offered(at("report", "")) == ["planted", "mine.yaml", "studies/collapse.yaml"], "what has run comes by its name"
    assert offered(at("status", "")) == ["planted"]
    assert offered(at("status", "--runs", "elsewhere", "")) == []


def test_arms_are_offered_so_that_bash_takes_them_for_one_word(offered: Callable[..., list[str]]) -> None:
    odd = "flags/a.b=1.0, it's $(x)"
    for command in (("explain", "planted"), ("more", "planted"), ("compare", "planted", "flags/baseline")):
        found = offered(at(*command, ""))
        assert [shlex.split(one) for one in found] == [["flags/baseline"], [odd], ["matching/c=x"]], found
        assert offered(at(*command, "matching/c")) == ["matching/c\\=x"], "typed without a quote: the rest is escaped"
        assert shlex.split(offered(at(*command, "flags/a"))[0]) == [odd]
        assert shlex.split("'" + offered(at(*command, "'flags/a.b=1.0, "))[0] + "'") == [odd], "inside a quote it stands as it is"
        assert offered(at(*command, "flags/a.b=1")) == [], "Bash has broken the word already"
    assert offered(at("explain", "studies/none.yaml", "")) == []
    assert offered(at("trials", "planted", "--phase", "")) == ["flags", "matching"]
    assert [shlex.split(one) for one in offered(at("trials", "planted", "--arm", ""))] == [["baseline"], [odd[6:]], ["c=x"]]


def test_trials_are_offered_by_place_and_by_signature(offered: Callable[..., list[str]], here: Path) -> None:
    found = offered(at("logs", ""))
    assert found[:2] == ["flags/baseline/r0", "flags/baseline/r1"]
    assert len(found) == 4
    assert offered(at("retry", "flags/baseline/")) == found[:2]
    ledger = Ledger(here / "runs" / "planted" / "ledger.db", read_only=True)
    signature = ledger.uses()[0].signature
    ledger.close()
    assert signature[:12] in offered(at("logs", signature[:3]))
    assert offered(at("logs", "nothing")) == []


def test_zsh_is_offered_the_names_as_they_are(offered: Callable[..., list[str]]) -> None:
    (line,) = offered(_ABLATE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="ablate trials planted --phase ")[-1:]
    assert line.endswith('"matching"))\'')
    said = "\n".join(offered(_ABLATE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="ablate explain planted m"))
    assert said == "_arguments '*: :((\"matching/c=x\"))'"
    said = "\n".join(offered(_ABLATE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="ablate explain planted flags/"))
    assert said == "_arguments '*: :((\"flags/baseline\"))'", "Zsh evaluates what it is offered: a name that would be torn is not"


@pytest.mark.slow
def test_the_installed_script_works_in_bash(here: Path, tmp_path: Path) -> None:
    """`--install-completion` in a home of its own; then Bash itself calls what was installed."""
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{ABLATE.parent}{os.pathsep}{os.environ['PATH']}"}

    def bash(script: str) -> str:
        told = ["bash", "--norc", "-c", f"{script}\ntrue"]
        return subprocess.run(told, cwd=here, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout

    assert "complete -o default -F _ablate_completion ablate" in bash("ablate --show-completion")
    assert (
        "#compdef ablate"
        in subprocess.run(
            [ABLATE], env=environment | {"_ABLATE_COMPLETE": "source_zsh"}, capture_output=True, encoding="utf-8", timeout=60, check=True
        ).stdout
    )
    assert "bash completion installed" in bash("ablate --install-completion")
    if (zsh := shutil.which("zsh")) is not None:
        ask = '_arguments() { print -r -- $1 }; ablate_words() { eval $(env _TYPER_COMPLETE_ARGS="ablate explain planted " '
        ask += "_ABLATE_COMPLETE=complete_zsh ablate) }; ablate_words"
        done = subprocess.run(
            [zsh, "-f", "-c", ask], cwd=here, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=True
        )
        assert done.stdout.split() == ["*:", ':(("flags/baseline"', '"matching/c=x"))']
        assert done.stderr == ""
    calls = 'source ~/.bashrc; COMP_WORDS=(ablate explain planted "\'flags/b"); COMP_CWORD=3; _ablate_completion ablate; '
    assert bash(f'{calls} printf "%s\\n" "${{COMPREPLY[@]}}"') == "flags/baseline\n"
