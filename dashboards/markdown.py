"""The report as Markdown: what the page says in words and tables, for a pull request, a wiki or a paper's appendix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ablate.words import between, counted, number, probability
from dashboards import sections, tables
from dashboards.page import yaml_block

if TYPE_CHECKING:
    from ablate.results import Results

Document = Mapping[str, Any]


def render(results: Results) -> str:
    """The report as Markdown; every figure in it is one of `ablate report --json`."""
    document = results.document()
    said = document["answer"]
    parts = [
        f"# {text(document['question'])}",
        f"Study `{document['study']}`, by ablate.",
        *(text(sentence) for sentence in said["headline"]),
        *_changes(document),
        *_list("What is missing", said["lacking"]),
        *_list("What the cures promised", [one["sentence"] for one in said["questions"]]),
        *(part for phase in document["phases"] for part in _phase(document, phase)),
        *_list("What mattered", said["mattered"]),
        *_thresholds(document),
        *_list(
            "Where the thresholds may stand", [line for one in document["phases"] for line in (one["operating"] or {}).get("sentences", [])]
        ),
        *_probes(document),
        *_list(
            "What preflight foretold",
            [f"{one['path']}: {one['what']} {one['mend']}".strip() for one in document["preflight"] if one["level"] != "info"],
        ),
        "## How it was run",
        table(["", ""], [[name, value] for name, value in sections.facts(results, document).items()]),
        *_list(
            f"{counted(len(document['failed_trials']), 'trial')} failed for good",
            [
                f"{one['phase']} / {one['arm']}, replicate {one['replicate']} ({one['cause'] or 'cause not known'}): {one['message']}"
                for one in document["failed_trials"]
            ],
        ),
        *_list("How it was decided", sections.statistics(document)),
        *_list("Keep in mind", [*said["warnings"], said["fairness"]]),
        *_list("Earlier runs of this study", [" ".join(one["changed"]) for one in document["history"]]),
    ]
    return "\n\n".join(parts) + "\n"


def text(value: object) -> str:
    """As plain text: nothing in a name is Markdown, HTML or a line of its own."""
    plain = re.sub(r"\s+", " ", str(value)).strip()
    plain = re.sub(r"[\\`*\[\]<|~$&]|(?<![^\W_])_|_(?![^\W_])|^[-+>#]", lambda found: f"\\{found[0]}", plain)
    return re.sub(r"^(\d+)(?=[.)] )", r"\1\\", plain)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of plain text."""
    lines = [head, ["---"] * len(head)]
    body = [[text(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [[text(cell) for cell in head], lines[1], *body])


def _list(heading: str, items: Sequence[str]) -> list[str]:
    return [f"## {text(heading)}", "\n".join(f"- {text(item)}" for item in items)] if items else []


def _changes(document: Document) -> list[str]:
    changes = document["answer"]["changes"]
    if not changes:
        return ["## What to change in the config: nothing"] if document["phases"] else []
    block = yaml_block(
        {one["path"]: one["becomes"] for one in changes}, {one["path"]: f"was {tables.plain(one['was'])}" for one in changes}
    )
    fence = "`" * (max((len(run) for run in re.findall(r"`+", block)), default=0) + 3)
    return [f"## What to change in the config: {counted(len(changes), 'setting')}", f"{fence}yaml\n{block}\n{fence}"]


def _phase(document: Document, phase: Document) -> list[str]:
    metric = document["objective"]["metric"]
    first = document["phases"][0]["name"] == phase["name"]  # there the phase's baseline is the study's
    rows = [
        [
            arm["name"],
            arm["verdict"],
            _effect(arm["effect"]),
            *([] if first else [_effect(arm["total_effect"])]),
            "" if arm["p_adjusted"] is None else probability(arm["p_adjusted"]),
            "; ".join(f"{guard['guard']} {_broken(guard['value'])}" for guard in arm["guards"] if not guard["holds"]),
            arm["collapse"] or "",
            arm["replicates"],
            number(arm["metrics"].get(metric)),
            arm["reason"],
        ]
        for arm in phase["arms"]
    ]
    rows += [
        [name, "reference", *[""] * (4 if first else 5), found["replicates"], number(found["metrics"].get(metric)), ""]
        for name, found in document["references"].items()
    ]
    total = [] if first else ["against the study's baseline"]
    head = ["arm", "verdict", "effect, interval", *total, "adjusted p", "guards", "collapse", "replicates", metric, "why"]
    return [f"## Phase {text(phase['name'])}", text(phase["reason"]), table(head, rows), *_every_metric(phase)]


def _every_metric(phase: Document) -> list[str]:
    arms = phase["arms"]
    metrics = sorted({metric for arm in arms for metric in arm["metrics"]})
    rows = [[metric, *(number(arm["metrics"].get(metric)) for arm in arms)] for metric in metrics]
    return (
        [f"### All metrics of {text(phase['name'])}", table(["mean over replicates", *(arm["name"] for arm in arms)], rows)] if rows else []
    )


def _broken(value: float | None) -> str:
    return "not reported" if value is None else f"broken ({number(value)})"


def _effect(effect: Document | None) -> str:
    if effect is None or effect["mean"] is None:
        return ""
    return f"{number(effect['mean'], signed=True)}{between(effect['low'], effect['high'])}"


def _thresholds(document: Document) -> list[str]:
    rows = [
        [path, tables.plain(row["recommended"]), number(row["low"]), number(row["high"]), row["status"]]
        for path, row in document["thresholds"].items()
    ]
    return ["## Thresholds", table(["setting", "recommended", "about as good from", "to", "status"], rows)] if rows else []


def _probes(document: Document) -> list[str]:
    compared = sections.beside_references(document)
    if compared is None:
        return []
    heading, names, rows = compared
    return [f"## {text(heading)}", table(["probe, mean over replicates", *names], [[name, *map(number, values)] for name, values in rows])]
