"""The study that asks whether the answer of another one holds."""

from __future__ import annotations

from ablate.allocation import allocate
from ablate.conclusion import Metrics
from ablate.study import BASELINE
from ablate.transfer import FIRST_REPLICATE, WINNER, confirming
from benchmarks import early


def draw(name: str, replicate: int) -> Metrics:
    return {"score": 0.3 + 0.3 * (name == "good") + 0.01 * (replicate % 2) * (1 + len(name)), "health": 0.5}


def test_the_winner_is_run_whole_whatever_a_rung_or_its_prospect_says() -> None:
    short = early.study(name="short")
    concluded, _, _ = early.played(short, [BASELINE, "good"], draw)
    assert concluded.winner == "good"
    found = confirming(short, [concluded], early.study(rungs=[20], at_rungs="unlikely", check=0, name="short"), [])
    names = [BASELINE, WINNER]
    assert allocate(found, found.phases[0], names, {}, {}, {}).until is None
    behind = {
        name: {FIRST_REPLICATE + r: {"score": 0.3 - 0.1 * (name == WINNER) + 0.01 * (r % 2) * len(name), "health": 0.5} for r in range(3)}
        for name in names
    }
    assert allocate(found, found.phases[0], names, dict.fromkeys(names, 3), behind, {}).replicates == dict.fromkeys(names, 4)
