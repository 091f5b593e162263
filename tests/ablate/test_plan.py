from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablate import design
from ablate.loading import load
from ablate.offers import Offers
from ablate.plan import FRESH_REPLICATE, Plan, inert_factors, plan, trials
from ablate.study import BASELINE, Arm, Study, Tune

REPOSITORY = Path(__file__).parents[2]
COLLAPSE = REPOSITORY / "studies" / "collapse.yaml"


@pytest.fixture(scope="module")
def study() -> Study:
    return load(COLLAPSE, ["expected_trial_s=12"])


@pytest.fixture(scope="module")
def offers(study: Study) -> Offers:
    return Offers(study.trainer)


def phases(found: Plan) -> dict[str, tuple[int, int]]:
    return {phase.name: (phase.arms, phase.trials) for phase in found.phases}


def test_a_trial_is_an_arm_with_a_replicates_seed(study: Study, offers: Offers) -> None:
    arm = Arm(name=BASELINE, levels=study.baseline)
    origin = offers.config(study.baseline, 0)
    planned = trials(arm, range(3), offers, origin)
    assert [p.replicate for p in planned] == [0, 1, 2]
    assert [p.spec.config["seed"] for p in planned] == [0, 1, 2]
    assert len({p.spec.signature for p in planned}) == 3
    assert {(p.spec.trainer, p.spec.data_hash, p.spec.code_version) for p in planned} == {
        ("trainer.train:train", offers.data_hash(origin), offers.code_version())
    }


def test_signatures_ignore_inert_settings_and_nothing_else(study: Study, offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    def signature(**levels: object) -> str:
        arm = Arm(name="x", levels={**study.baseline, **{k.replace("__", "."): v for k, v in levels.items()}})  # type: ignore[dict-item]
        return trials(arm, [0], offers, offers.config(study.baseline, 0))[0].spec.signature

    assert signature() == signature(crops__foreground_threshold=-500, crops__min_foreground_ratio=0.5)
    assert signature(crops__foreground_crop_prob=1.0) != signature(crops__foreground_crop_prob=1.0, crops__foreground_threshold=-500)
    before = signature()
    assert len({before, signature(loop__lr=0.1), signature(loss__centering="softmax")}) == 3
    monkeypatch.setattr(offers, "data_hash", lambda config, like: "other")
    assert signature() != before


def test_the_collapse_study_counts_each_signature_once(study: Study, offers: Offers) -> None:
    """All off trains the same network as the baseline, so eight of the nine arms are new; the reference runs once."""
    found = phases(plan(study, offers))
    start, most = study.replicates.start, study.replicates.at_most
    assert found["flags"] == (9, (8 + 1) * most)
    assert found["weighting"] == (7, 6 * most + most - start), "the carried winner may have stopped at the start"
    points = study.phases[2].design
    assert isinstance(points, Tune)
    fresh = 2 + 1  # the tuned point and what is carried, and the reference; the study's baseline waits for the confirmation
    assert found["thresholds"] == (points.tune + 2, points.trials(points.replicates or start) + fresh * most)
    assert found["confirmation"] == (2, (2 + 1) * most)


def test_the_plan_bounds_what_any_winner_leads_to(study: Study, offers: Offers) -> None:
    """Walks the phases with every possible winner of the first and counts what would run."""
    bound = {phase.name: phase.trials for phase in plan(study, offers).phases}
    first = design.expand(study.phases[0], study.baseline)
    ran = {p.spec.signature for arm in first for p in trials(arm, range(4), offers, None)}
    for winner in first:
        second = {p.spec.signature for arm in design.expand(study.phases[1], winner.levels) for p in trials(arm, range(4), offers, None)}
        assert len(second - ran) <= bound["weighting"]


def test_what_is_finished_is_not_planned_again(study: Study, offers: Offers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "data_hash", lambda config, like: "data")
    origin = offers.config(study.baseline, 0)
    done = {p.spec.signature for arm in design.expand(study.phases[0], study.baseline) for p in trials(arm, range(2), offers, origin)}
    before, after = phases(plan(study, offers)), phases(plan(study, offers, finished=done))
    assert before["flags"][1] - after["flags"][1] == len(done) == 16
    assert after["weighting"] == before["weighting"]


def test_more_replicates_in_a_later_phase_are_run_for_the_carried_winner_too(offers: Offers) -> None:
    grown = load(COLLAPSE, ["phases.weighting.replicates={start: 8, at_most: 8}"])
    found = phases(plan(grown, offers))
    references = 2 * 2
    assert found["weighting"] == (7, 6 * 8 + 4 + references)


def test_the_document_says_the_cost_with_its_arithmetic(study: Study, offers: Offers) -> None:
    document = plan(study, offers, seconds_per_trial=15.0).document()
    assert set(document) >= {"study", "phases", "trials_at_most", "cost"}
    assert [set(phase) for phase in document["phases"]] == [{"name", "design", "arms", "trials"}] * 4  # type: ignore[attr-defined]
    total = sum(phase["trials"] for phase in document["phases"])  # type: ignore[attr-defined]
    assert document["trials_at_most"] == total
    cost = document["cost"]
    assert isinstance(cost, dict)
    assert math.isclose(cost["hours"], total * 15 / 2 / 3600)
    assert cost["arithmetic"] == f"{total} trials x 15 s / 2 workers = {total * 15 / 2 / 60:.0f} min"
    assert cost["source"] == "measured in this study"
    json.dumps(document, allow_nan=False)


def test_without_any_time_for_a_trial_the_cost_is_unknown(offers: Offers) -> None:
    untimed = load(COLLAPSE, ["expected_trial_s=null", "executor=inline"])
    cost = plan(untimed, Offers(untimed.trainer)).document()["cost"]
    assert isinstance(cost, dict)
    assert (cost["trial_s"], cost["hours"], cost["source"], cost["workers"]) == (None, None, "unknown", 1)


def test_the_study_that_ships_fits_its_own_budget(study: Study, offers: Offers) -> None:
    found = plan(study, offers)
    assert study.budget.trials is not None
    assert found.trials_at_most <= study.budget.trials


def test_factors_without_effect_on_top_of_a_winner_are_named_by_path(study: Study, offers: Offers) -> None:
    thresholds = study.phases[2]
    assert inert_factors(thresholds, study.baseline, offers) == []
    switched_off = thresholds.model_copy(update={"set": {"crops.foreground_crop_prob": 0.0}})
    assert inert_factors(switched_off, study.baseline, offers) == ["crops.foreground_threshold", "crops.min_foreground_ratio"]
    assert inert_factors(switched_off, {**study.baseline, "loss.matching": "hierarchical"}, offers) == ["crops.min_foreground_ratio"]


def test_planning_imports_nothing_heavy_and_starts_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, json; from pathlib import Path\n"
        "from ablate.loading import load; from ablate.offers import Offers; from ablate.plan import plan\n"
        f"study = load(Path({str(COLLAPSE)!r})); plan(study, Offers(study.trainer)).document()\n"
        "heavy = ('torch', 'numpy', 'optuna', 'mlflow', 'pandas', 'scipy', 'submitit', 'sqlalchemy', 'hydra')\n"
        "print(json.dumps([m for m in heavy if m in sys.modules]))"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    assert time.monotonic() - begin < 10, "generous: this machine may be busy"
    assert FRESH_REPLICATE == 1000
    assert list(tmp_path.iterdir()) == []
