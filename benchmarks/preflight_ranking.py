"""How well preflight alone ranks the arms of a study against what training then showed.

    PYTHONPATH=. python benchmarks/preflight_ranking.py [REPORT.json] [PHASE]

The score of an arm is minus the number of warnings that preflight has about it: stated before any training, not fitted. Printed are
Kendall's rank correlation of the score with the measured objective, and how often an arm that did not collapse scores above one
that did (AUC; ties count one half). The report is what `ablate report STUDY --json` prints; by default that of the exhaustive run, in
which no arm stopped before its end.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from scipy.stats import kendalltau

from trainer.config import schema
from trainer.preflight import preflight

ROOT = Path(__file__).parents[1]
EXHAUSTIVE = ROOT / "studies/reports/collapse_exhaustive.json"


def main(report: Path, phase: str) -> None:
    """Print a line an arm, then the two figures."""
    document = json.loads(report.read_text())
    found = next(one for one in document["phases"] if one["name"] == phase)
    objective = document["objective"]["metric"]
    rows = []
    for arm in found["arms"]:
        levels = {**document["baseline"], **arm["levels"]}
        warnings = [one for one in preflight({"preset": schema().preset, **levels}) if one["level"] == "warning"]
        rows.append((arm["name"], -len(warnings), float(arm["metrics"][objective]), arm["collapse"]))
    print(f"| arm | warnings before training | {objective} | collapse |\n| --- | --- | --- | --- |")
    for name, score, value, collapse in sorted(rows, key=lambda row: row[2]):
        print(f"| {name} | {-score} | {value:.3f} | {collapse or 'none'} |")
    tau = kendalltau([r[1] for r in rows], [r[2] for r in rows]).statistic
    print(f"\nKendall's tau of score and {objective}: {tau:.2f}, {len(rows)} arms.")
    healthy = [score for _, score, _, collapse in rows if collapse in (None, "none")]
    collapsed = [score for _, score, _, collapse in rows if collapse not in (None, "none")]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(healthy, collapsed)]
    print(
        f"AUC of healthy ({len(healthy)}) against collapsed ({len(collapsed)}): {sum(wins) / len(wins):.2f}."
        if wins
        else "AUC: one group is empty"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else EXHAUSTIVE, sys.argv[2] if len(sys.argv) > 2 else "flags")
