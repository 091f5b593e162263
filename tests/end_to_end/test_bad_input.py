"""Bad input, from a whole `ablate run` to the last sentence: each gap is said in every form of the answer, with what to do."""

from __future__ import annotations

import html
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablate.cli import main

ARMS = {"name": "more", "design": "one_at_a_time", "factors": {"a": [False, True], "b": [False, True]}}
CROSSED = {"name": "more", "design": "factorial", "factors": {"a": [False, True], "b": [False, True]}}
HALVED = {"name": "more", "design": "factorial", "factors": {name: [False, True] for name in "abc"}}
TUNED = {"name": "tuned", "design": {"tune": 4, "sampler": "qmc"}, "factors": {"x": {"low": 0.0, "high": 1.0}}}
UNTRAINED = {"references": {"untrained": {"steps": 0}}}
GUARD = {"guards": [{"metric": "health", "at_least": 0.5}]}
BASE = {"a": False, "b": False}


@dataclass(frozen=True)
class Case:
    """A study with faults, and what everybody who reads its answer must find there."""

    name: str
    faults: list[dict[str, Any]]
    said: list[str]
    """In the terminal, the page, the Markdown, the JSON and what is explained."""
    headline: str
    """How the answer begins."""
    code: int = 0
    gains: dict[str, float] = field(default_factory=dict)
    phase: dict[str, Any] = field(default_factory=lambda: ARMS)
    study: dict[str, Any] = field(default_factory=dict)
    explain: str = "a=true"
    never: str = "Yes: "
    """What no form says."""
    answered: list[str] = field(default_factory=list)
    """In all of these but what is explained."""


A, BOTH = {"a": True}, {"a": True, "b": True}
CASES = [
    Case(
        "the objective is missing in one replicate of an arm",
        [{"where": A, "seeds": [1], "do": "missing"}],
        [
            "more/a=true: expected score, the objective, in replicate 1 but it was not reported",
            "It reports health.",
            "Let the trainer return it",
            "Left out for a missing or not finite value: replicate 1.",
        ],
        "Yes: a=true (more) is adopted.",
        gains={"a": 0.1},
    ),
    Case(
        "the objective is NaN in so many replicates that none can be judged",
        [{"where": A, "seeds": [0, 2], "do": "nan"}],
        [
            "more/a=true: expected a finite score, the objective, in replicates 0 and 2 but it is NaN or infinite",
            "Let the trainer return a finite value also where training breaks down.",
            "Only 2 of the at least 3 paired replicates that an interval needs.",
        ],
        "Undecided: none of 2 arms is adopted",
        gains={"a": 0.1},
    ),
    Case(
        "the objective is infinite in all of an arm",
        [{"where": A, "do": "infinite"}],
        ["expected a finite score, the objective, in each of 4 replicates", "so nothing is known of its effect"],
        "Undecided: none of 2 arms is adopted. 1 arm could not be judged: a=true.",
        answered=["1 arm could not be judged: a=true."],
    ),
    Case(
        "training breaks down in one replicate of an arm that is better in the others",
        [{"where": A, "seeds": [1], "do": "nan"}],
        [
            "more/a=true: expected a finite score, the objective, in replicate 1 but it is NaN or infinite",
            "Better in the replicates that it came through: score +0.",
            "But it broke down in replicate 1 and the baseline did not",
        ],
        "Undecided: none of 2 arms is adopted. 1 arm may yet help",
        gains={"a": 0.1},
        answered=["Better only where training did not break down: a=true (more)."],
    ),
    Case(
        "training ends by its numbers in one replicate of an arm that is better in the others",
        [{"where": A, "seeds": [1], "do": "diverge"}],
        ["But it broke down in replicate 1 and the baseline did not"],
        "Undecided: none of 2 arms is adopted. 1 arm may yet help",
        code=1,
        gains={"a": 0.1},
        answered=["Better only where training did not break down: a=true (more).", "FloatingPointError: planted divergence"],
    ),
    Case(
        "numbers that are too large to reckon with",
        [{"where": A, "do": "huge"}, {"where": {}, "metric": "health", "do": "huge"}],
        ["expected a finite score, the objective, in each of 4 replicates", "so nothing is known of its effect"],
        "Undecided: none of 2 arms is adopted. 1 arm could not be judged: a=true.",
    ),
    Case(
        "an arm reports its objective under another spelling",
        [{"where": A, "do": "other spelling"}],
        ["expected score, the objective, in each of 4 replicates but it was not reported", "Did you mean SCORE?"],
        "Undecided: ",
    ),
    Case(
        "two metrics are spelled alike",
        [{"where": {}, "do": "both spellings"}],
        ["every arm of more: score, the objective, and SCORE are spelled alike and both reported; the study reads score alone."],
        "Yes: a=true (more) is adopted.",
        gains={"a": 0.1},
    ),
    Case(
        "an arm is constant",
        [{"where": A, "do": "constant"}],
        ["more/a=true: expected score to vary over replicates but it is 0.3 in each of 4. Does the trainer use its seed?"],
        "No: none of 2 arms is adopted.",
    ),
    Case(
        "nothing varies at all",
        [{"where": {}, "do": "constant"}],
        ["every arm of more: expected score to vary over replicates", "Zero variance: all 4 paired differences are 0"],
        "No: none of 2 arms is adopted. The baseline stays.",
        answered=["Equal to their baseline in every replicate, so without effect under these settings: a=true (more) and b=true (more)."],
    ),
    Case(
        "an arm failed in one replicate",
        [{"where": A, "seeds": [0], "do": "fail"}],
        ["Left out for a missing or not finite value: replicate 0."],
        "Yes: a=true (more) is adopted.",
        code=1,
        gains={"a": 0.1},
        answered=[
            "over 3 replicates.",
            "ValueError: planted failure",
            "The arms of more have not all the same replicates: compare them by",
        ],
    ),
    Case(
        "an arm is left with one replicate",
        [{"where": A, "seeds": [0, 1, 3], "do": "fail"}],
        ["more/a=true: expected at least 3 replicates with score but only 1 of 4 gave one.", "ablate retry --failed faulty --reopen"],
        "Undecided: ",
        code=1,
        gains={"a": 0.1},
    ),
    Case(
        "an arm failed in every replicate",
        [{"where": A, "do": "fail"}],
        ["more/a=true: expected a result but 4 trials failed for good and none is left", "No replicate has a result."],
        "Undecided: none of 2 arms is adopted. 1 arm could not be judged: a=true.",
        code=1,
        gains={"a": 0.1},
        answered=["1 arm could not be judged: a=true.", "Nothing is known of a=true (more): no replicate pairs with the baseline's."],
    ),
    Case(
        "every arm but the baseline failed",
        [{"where": A, "do": "fail"}, {"where": {"b": True}, "do": "fail"}],
        ["more/a=true; more/b=true: expected a result but 4 trials failed for good"],
        "Undecided: none of 2 arms is adopted. 2 arms could not be judged: a=true and b=true.",
        code=1,
    ),
    Case(
        "the baseline failed in one replicate",
        [{"where": BASE, "seeds": [3], "do": "fail"}],
        ["Left out for a missing or not finite value: replicate 3."],
        "Yes: a=true (more) is adopted.",
        code=1,
        gains={"a": 0.1},
        answered=["baseline replicate 3 (crash)", "over 3 replicates."],
    ),
    Case(
        "the baseline is NaN in all of its replicates",
        [{"where": BASE, "do": "nan"}],
        ["more/baseline: expected a finite score, the objective, in each of 4 replicates", "so nothing is known of its effect"],
        "Undecided: none of 2 arms is adopted. 2 arms could not be judged: a=true and b=true.",
        gains={"a": 0.1},
        answered=["Nothing is known of a=true (more) and b=true (more): no replicate pairs with the baseline's."],
    ),
    Case(
        "every arm is NaN",
        [{"where": {}, "do": "nan"}],
        ["every arm of more: expected a finite score, the objective, in each of 4 replicates"],
        "Undecided: none of 3 arms is adopted. 3 arms could not be judged: b=true, a=true and a=true, b=true.",
        phase=CROSSED,
    ),
    Case(
        "a reference failed in every replicate",
        [{"where": {"steps": 0}, "do": "fail"}],
        ["references/untrained: expected a result but 4 trials failed for good", "whether it beats untrained is not known"],
        "Undecided: 1 arm of 2 better than the baseline",
        code=1,
        gains={"a": 0.1},
        study=UNTRAINED,
    ),
    Case(
        "no trial reports a guard's metric",
        [{"where": {}, "metric": "health", "do": "missing"}],
        [
            "every arm of more: expected health, which a guard needs, in each of 4 replicates but it was not reported",
            "nothing is adopted without it",
        ],
        "Undecided: none of 2 arms is adopted. 1 arm could not be judged: a=true.",
        gains={"a": 0.1},
        study=GUARD,
        answered=["Not judged for want of a guard's metric: a=true (more)."],
    ),
    Case(
        "a guard's metric is NaN in one replicate",
        [{"where": A, "seeds": [2], "metric": "health", "do": "nan"}],
        ["expected a finite health, which a guard needs, in replicate 2", "A guard's metric is missing or not finite: health in 1 of 4"],
        "Yes: a=true (more) is adopted.",
        gains={"a": 0.1},
        study={**GUARD, "questions": [{"ask": "Healthier?", "metric": "health", "direction": "maximize"}]},
        answered=[
            "3 pairs). Left out for a missing or not finite value: replicate 2.",
            "Each question is answered by an interval of its own",
        ],
    ),
    Case(
        "a cell of a factorial failed",
        [{"where": BOTH, "do": "fail"}],
        ["a=true x b=true is not told apart from a=true and b=true by the cells that have a result. No figure is given for it."],
        "Yes: a=true (more) is adopted.",
        code=1,
        gains={"a": 0.1},
        phase=CROSSED,
        answered=[
            "No replicate has a result in 1 of 4 cells (a=true, b=true)",
            "a=true is not told apart from a=true x b=true by the cells that have a result, so whether it matters is not known",
        ],
    ),
    Case(
        "half of a factorial failed, and less is better",
        [
            {"where": dict(zip("abc", cell, strict=True)), "do": "fail"}
            for cell in ((True, False, False), (False, True, False), (False, False, True), (True, True, True))
        ],
        ["a=true x b=true is not told apart from c=true by the cells that have a result."],
        "Yes: a=true, b=true (more) is adopted.",
        code=1,
        gains={"a+b": -0.1},
        phase=HALVED,
        study={"objective": {"metric": "score", "direction": "minimize", "smallest_effect": 0.02}},
        explain="a=true, b=true",
        answered=[
            "interactions of three and more factors are taken as absent",
            "What is gained stands above 0: that is less score, which is better.",
        ],
    ),
    Case(
        "nobody reports the objective by a rung",
        [],
        [],
        "Yes: a=true (more) is adopted.",
        gains={"a": 0.1},
        study={"rungs": [2]},
        answered=[
            "more: no trial reports score by step 2; no arm is compared there. Let the trainer report it by then, or take that rung out."
        ],
    ),
    Case(
        "points of a tuning phase failed",
        [{"where": {"x": [0.6, 1.0]}, "do": "fail"}],
        [],
        "",
        code=1,
        phase=TUNED,
        explain="tuned",
        answered=["lost a replicate or gave no objective: point", "tuned/point"],
    ),
    Case(
        "every point of a tuning phase failed",
        [{"where": {"x": [0.0, 0.49]}, "do": "fail"}, {"where": {"x": [0.51, 1.0]}, "do": "fail"}],
        [],
        "Undecided: no arm of tuned could be compared with the baseline, which stays.",
        code=1,
        phase=TUNED,
        explain="baseline",
        answered=["No point can be recommended, so none met the baseline.", "none of 4 points is feasible: no replicate gave a result."],
    ),
    Case(
        "the confirmation failed",
        [{"where": A, "seeds": list(range(2000, 2004)), "do": "fail"}],
        [],
        "Not confirmed: a=true (more) was adopted by the replicates that chose, but no fresh replicate of the winner pairs",
        code=1,
        gains={"a": 0.1},
        study={"confirm": True},
        explain="confirmation/winner",
        answered=["The baseline stays.", "confirmation/winner: expected a result but 4 trials failed for good"],
    ),
]


QUICK = {
    "the objective is NaN in so many replicates that none can be judged",
    "an arm failed in every replicate",
    "training ends by its numbers in one replicate of an arm that is better in the others",
    "numbers that are too large to reckon with",
    "no trial reports a guard's metric",
    "half of a factorial failed, and less is better",
}
"""The others take half a minute together."""


class Desk:
    """A folder with a study in it; the commands are typed there, in this process."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.monkeypatch, self.capsys = directory, monkeypatch, capsys
        monkeypatch.chdir(directory)
        monkeypatch.setenv("COLUMNS", "200")

    def write(self, faults: list[dict[str, Any]], **changes: Any) -> None:
        document = {
            "study": "faulty",
            "question": "What helps?",
            "trainer": {
                "callable": "faulty_trainer:train",
                "set": {"faults": json.dumps(faults), "gains": json.dumps(changes.pop("gains", {}))},
            },
            "baseline": {"a": False, "b": False, "c": False, "x": 0.5, "steps": 3},
            "objective": {"metric": "score", "direction": "maximize", "smallest_effect": 0.02},
            "replicates": {"start": 4, "at_most": 4},
            "executor": "inline",
            "attempts": 1,
            "confirm": False,
            **changes,
        }
        (self.directory / "faulty.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def ablate(self, *command: str) -> tuple[int, str]:
        """The exit code and what was printed, as one line."""
        self.monkeypatch.setattr(sys, "argv", ["ablate", *command])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return code or 0, one_line(printed.out + printed.err)

    def answers(self) -> dict[str, str]:
        """What each form of the report says, as one line."""
        code, document = self.ablate("report", "faulty", "--json")
        assert code == 0
        assert self.ablate("report", "faulty", "--format", "html", "--format", "md")[0] == 0
        page = (self.directory / "runs/faulty/report.html").read_text(encoding="utf-8")
        seen = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
        markdown = (self.directory / "runs/faulty/report.md").read_text(encoding="utf-8")
        return {
            "json": one_line(texts(json.loads(document))),
            "page": one_line(html.unescape(re.sub(r"<[^>]*>", " ", seen))),
            "markdown": one_line(re.sub(r"\\(.)", r"\1", markdown)),
        }


def texts(node: object) -> str:
    """Every text of a document."""
    if isinstance(node, dict):
        return " ".join(texts(value) for value in node.values())
    return " ".join(map(texts, node)) if isinstance(node, list) else str(node)


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name, marks=[] if case.name in QUICK else pytest.mark.slow) for case in CASES])
def test_what_is_missing_is_said_wherever_the_answer_is_read(desk: Desk, case: Case) -> None:
    desk.write(case.faults, gains=case.gains, phases=[case.phase], **case.study)
    code, terminal = desk.ablate("run", "faulty.yaml", "--no-mlflow")
    assert code == case.code, terminal
    forms = {"terminal": terminal, **desk.answers()}
    explained = desk.ablate("explain", "faulty", case.explain)
    assert explained[0] == 0
    for form, words in [*forms.items(), ("explained", explained[1])]:
        for sentence in [*case.said, *([] if form == "explained" else [case.headline, *case.answered])]:
            assert one_line(sentence) in words, f"{form} does not say: {sentence}\n{words}"
    if not case.headline.startswith("Yes") or case.never != "Yes: ":
        assert not [form for form, words in forms.items() if case.never in words]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            {"do": "fail"},
            "no replicate of its baseline has a result. references/baseline r0, attempt 1: crash: ValueError: planted failure",
        ),
        (
            {"do": "other spelling"},
            "no replicate of its baseline reports score. more/baseline: expected score, the objective, in each of 4 replicates",
        ),
    ],
    ids=["failed", "spelled otherwise"],
)
@pytest.mark.parametrize("where", [pytest.param({}, id="the whole phase", marks=pytest.mark.slow), pytest.param(BASE, id="the baseline")])
def test_a_phase_without_its_baseline_ends_with_the_reason_and_the_mend(
    desk: Desk, where: dict[str, Any], fault: dict[str, Any], sentence: str
) -> None:
    desk.write([{"where": where, **fault}], gains={"a": 0.1}, phases=[ARMS])
    code, terminal = desk.ablate("run", "faulty.yaml", "--no-mlflow")
    assert code == 1
    assert "faulty: phase more cannot be decided, since" in terminal
    assert sentence in terminal
    assert "else move runs/faulty away; and run again." in terminal
    for form, words in {"terminal": terminal, **desk.answers()}.items():
        assert "No phase is concluded yet." in words, form
        assert ("planted failure" if fault["do"] == "fail" else "Did you mean SCORE?") in words, form
        assert "Yes: " not in words, form


def test_directions_and_guards_that_contradict_each_other_are_refused_before_anything_runs(desk: Desk) -> None:
    objective = {"metric": "score", "direction": "minimize", "smallest_effect": 0.02}
    guards = [{"metric": "score", "at_least": 0.2}, {"metric": "health", "at_least": 0.9}, {"metric": "health", "at_most": 0.5}]
    desk.write([], phases=[ARMS], objective=objective, guards=guards)
    code, said = desk.ablate("run", "faulty.yaml", "--no-mlflow")
    assert code == 2
    assert "guards[0].at_least: forbids what the objective asks for: less of score is better. Take it out, or turn the direction." in said
    assert (
        "guards[1].at_least: no value of health is at least 0.9 and keeps guards[2].at_most: 0.5 too, so nothing could be adopted." in said
    )
    assert not (desk.directory / "runs").exists()
