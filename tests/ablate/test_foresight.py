"""What a study can show, from trials of its baseline that ran before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.foresight import foresight
from ablate.loading import load
from ablate.offers import Offers
from ablate.plan import plan, trials
from ablate.study import BASELINE, Arm, Study
from ablate.trial import Outcome, TrialFiles, accept

COLLAPSE = Path(__file__).parents[2] / "studies" / "collapse.yaml"


@pytest.fixture(scope="module")
def asked() -> tuple[Study, Offers]:
    study = load(COLLAPSE)
    return study, Offers(study.trainer)


def ran(root: Path, study: Study, offers: Offers, values: list[float]) -> None:
    """Finished trials of the baseline with these objectives."""
    origin = offers.config(study.baseline, 0)
    for one in trials(Arm(name=BASELINE, levels=dict(study.baseline)), range(len(values)), offers, origin):
        files = TrialFiles(root, one.spec.signature).attempt(1)
        files.directory.mkdir(parents=True)
        metrics = {study.objective.metric: values[one.replicate]}
        files.outcome.write_text(Outcome(one.spec.signature, 1, None, "", 1.0, metrics, (), {}, None).to_json())
        accept(root, {one.spec.signature: 1})


def told(root: Path, study: Study, offers: Offers) -> dict[str, Any]:
    found = foresight(study, offers, plan(study, offers), root)
    json.dumps(found, allow_nan=False)
    return found


def test_without_trials_nothing_is_claimed_and_the_way_to_know_is_named(asked: tuple[Study, Offers], tmp_path: Path) -> None:
    found = told(tmp_path, *asked)
    assert found["noise"] is None
    assert "no trial of the baseline" in found["sentences"][0]
    assert "The first phase will" in found["sentences"][0]


def test_the_noise_of_earlier_trials_says_what_can_be_shown(asked: tuple[Study, Offers], tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0.35, 0.02, 12)
    ran(tmp_path, *asked, values.tolist())
    found = told(tmp_path, *asked)
    assert found["noise"]["replicates"] == 12
    assert found["noise"]["deviation"] == pytest.approx(np.sqrt(2) * values.std(ddof=1))
    flags = found["phases"][0]
    assert (flags["name"], flags["arms"], flags["at_most"]) == ("flags", 8, 6)
    assert flags["detectable"] > found["phases"][-1]["detectable"], "one arm needs less than eight"
    assert flags["needed"] > 6
    assert "which are not planned" in found["sentences"][1]


def test_less_noise_shows_smaller_effects(asked: tuple[Study, Offers], tmp_path: Path) -> None:
    ran(tmp_path, *asked, [0.35, 0.351, 0.349, 0.3505])
    found = told(tmp_path, *asked)
    assert found["phases"][0]["needed"] <= 6
    assert "which are not planned" not in found["sentences"][1]
