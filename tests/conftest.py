"""A study as a run leaves it, planted without training: real ledger, real files of trials, real verdicts, made-up metrics."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from ablate import design, gates, verdict
from ablate.ledger import Ledger
from ablate.study import BASELINE, REFERENCES, Arm, Levels, Study, Tune
from ablate.trial import Cause, Outcome, TrialFiles, TrialSpec, accept, merge, metric_line, result_of, signature_of, write_atomic

sys.path.insert(0, str(Path(__file__).parent))

from browsing import browse, chromium  # noqa: F401 (fixtures)

settings.register_profile("repeatable", deadline=None, derandomize=True)  # no time is an assertion, and no seed changes
settings.load_profile("repeatable")

DOCUMENT: dict[str, Any] = {
    "study": "planted",
    "question": "Which change stops DINO-3D from collapsing to uniform prototypes on CT?",
    "trainer": {"callable": "trainer.train:train", "preset": "phantom_cpu"},
    "baseline": {
        "crops.foreground_threshold": 500,
        "crops.foreground_crop_prob": 0.0,
        "crops.localcrops_subset_of_globalcrops": False,
        "crops.min_global_overlap": 0.0,
        "loss.matching": "all_pairs",
    },
    "references": {"untrained": {"loop.steps": 0}},
    "objective": {"metric": "probe/local_to_global_mrr", "direction": "maximize", "smallest_effect": 0.02},
    "guards": [{"metric": "probe/foreground_mutual_information", "at_least": 0.2}, {"metric": "loop/updates_applied", "at_least": 0.95}],
    "floors": [{"metric": "probe/local_to_global_mrr", "floor": "probe/raw_local_to_global_mrr"}],
    "columns": ["probe/prototype_entropy_foreground", "probe/foreground_mutual_information", "train/loss_stability"],
    "questions": [
        {"ask": "Are the prototypes less uniform?", "metric": "probe/prototype_entropy_foreground", "direction": "minimize"},
        {"ask": "Does the loss fall more steadily?", "metric": "train/loss_stability", "direction": "maximize"},
        {"ask": "Are the features more discriminative?", "metric": "probe/local_to_global_mrr", "direction": "maximize"},
    ],
    "phases": [
        {
            "name": "flags",
            "design": "factorial",
            "set": {"crops.foreground_threshold": -500},
            "factors": {
                "crops.foreground_crop_prob": [0.0, 1.0],
                "crops.localcrops_subset_of_globalcrops": [False, True],
                "crops.min_global_overlap": [0.0, 0.3],
            },
        },
        {"name": "matching", "design": "one_at_a_time", "factors": {"loss.matching": ["all_pairs", "hierarchical", "foreground_only"]}},
        {
            "name": "thresholds",
            "design": {"tune": 6},
            "set": {"crops.foreground_crop_prob": 1.0},
            "factors": {
                "crops.foreground_threshold": {"low": -700, "high": 300},
                "crops.min_foreground_ratio": {"low": 0.2, "high": 0.9},
                "loss.matching_threshold": {"low": 0.1, "high": 0.9, "when": {"loss.matching": ["hierarchical"]}},
            },
        },
    ],
}

Metrics = dict[str, float]
Curve = Callable[[Mapping[str, Any], int, int], Metrics]
"""Config, step and replicate to metrics."""


def health(config: Mapping[str, Any]) -> float:
    """0 collapsed, 1 healthy."""
    crops, loss = config["crops"], config.get("loss", {})
    score = 0.45 * (crops["min_global_overlap"] > 0) + 0.4 * bool(crops["localcrops_subset_of_globalcrops"])
    score += 0.1 * crops["foreground_crop_prob"] + 0.08 * (loss.get("matching") == "hierarchical")
    score -= 0.25 * abs(crops.get("min_foreground_ratio", 0.5) - 0.5)
    return min(max(score, 0.0), 1.0)


def curve(config: Mapping[str, Any], step: int, replicate: int) -> Metrics:
    """Metrics that fall or stay at uniform by how healthy the configuration is."""
    dice = random.Random(f"{replicate}/{step}/{json.dumps(config, sort_keys=True)}")
    steps = config["loop"]["steps"]
    grown = min(step / max(steps, 1), 1.0) if steps else 0.0
    well = health(config) * grown if steps else 0.1
    lost = (1 - health(config)) * min(grown * 3, 1.0)
    shared = random.Random(replicate).gauss(0, 0.004)
    return {
        "train/loss_total": 4.16 - 0.9 * well + dice.gauss(0, 0.03),
        "train/prototype_entropy_foreground": 0.86 + 0.139 * lost - 0.2 * well + dice.gauss(0, 0.004),
        "train/foreground_ratio_global": 0.35 + 0.3 * config["crops"]["foreground_crop_prob"] + dice.gauss(0, 0.02),
        "train/loss_stability": 0.55 + 0.3 * well + dice.gauss(0, 0.02),
        "probe/prototype_entropy_foreground": 0.86 + 0.139 * lost - 0.2 * well + dice.gauss(0, 0.003),
        "probe/foreground_mutual_information": max(0.0, 0.5 - 0.5 * lost + 0.3 * well + dice.gauss(0, 0.01)),
        "probe/local_to_global_mrr": 0.285 + 0.05 * well - 0.03 * lost + shared + dice.gauss(0, 0.002),
        "probe/raw_local_to_global_mrr": 0.25,
        "loop/updates_applied": 1.0,
    }


@dataclass
class Planted:
    """A `runs` folder with a study in it."""

    root: Path
    study: Study
    ledger: Ledger
    curve: Curve
    gallery: bytes | None = None

    def spec(self, levels: Levels, replicate: int) -> TrialSpec:
        config = merge({"loop": {"steps": 40}}, {**levels, "seed": replicate})
        return TrialSpec(signature_of(config, {}, "code", "data"), replicate, config, self.study.trainer.callable, "code", "data")

    def begin(self, spec: TrialSpec, upto: int) -> int:
        """An attempt that has reported up to a step and is still running."""
        files = TrialFiles(self.root, spec.signature)
        number = self.ledger.start_attempt(spec.signature, "worker-0")
        attempt = files.attempt(number)
        attempt.directory.mkdir(parents=True)
        write_atomic(files.spec, spec.to_json(), durable=False)
        write_atomic(attempt.began, "{}", durable=False)
        self.report(spec, number, upto)
        return number

    def report(self, spec: TrialSpec, number: int, upto: int) -> None:
        lines = [metric_line(step, self.curve(spec.config, step, spec.replicate)) for step in range(0, upto + 1, 5)]
        TrialFiles(self.root, spec.signature).attempt(number).metrics.write_text("".join(lines))

    def finish(self, spec: TrialSpec, number: int) -> None:
        attempt = TrialFiles(self.root, spec.signature).attempt(number)
        steps = spec.config["loop"]["steps"]  # type: ignore[index]
        final = self.curve(spec.config, steps, spec.replicate) | {"probe/knn_accuracy": 0.5}
        collapsed = bool(steps) and health(spec.config) <= 0.4
        alarm = {"kind": "uniform", "since_step": 10 + 5 * (spec.replicate % 3), "text": "uniform"} if collapsed else None
        attempt.summary.write_text(json.dumps({"collapse": "uniform" if collapsed else "none", "alarm": alarm}))
        attempt.log.write_text("step 40\n")
        if self.gallery is not None:
            (attempt.directory / "gallery.png").write_bytes(self.gallery)
        outcome = Outcome(spec.signature, number, None, "", 12.5, final, (), {"python": "3"}, None)
        write_atomic(attempt.outcome, outcome.to_json(), durable=False)
        accept(self.root, {spec.signature: number})
        self.ledger.finish_attempt(spec.signature, number, cause=None, message="", seconds=12.5)

    def complete(self, spec: TrialSpec) -> None:
        if result_of(self.root, spec.signature) is None:
            steps = spec.config["loop"]["steps"]  # type: ignore[index]
            self.finish(spec, self.begin(spec, steps))

    def fail(self, spec: TrialSpec) -> None:
        number = self.begin(spec, 10)
        self.ledger.finish_attempt(spec.signature, number, cause=Cause.NAN, message="loss is NaN at step 12", seconds=3.0)

    def use(self, phase: str, arm: Arm, replicates: Sequence[int]) -> list[TrialSpec]:
        specs = [self.spec(arm.levels, replicate) for replicate in replicates]
        self.ledger.add_arms(phase, [arm])
        self.ledger.add_trials(phase, arm.name, specs)
        return specs

    def found(self, specs: Sequence[TrialSpec]) -> dict[int, Mapping[str, float]]:
        results = {spec.replicate: result_of(self.root, spec.signature) for spec in specs}
        return {replicate: result.metrics for replicate, result in results.items() if result is not None}

    def run(self, failing: Callable[[str, Arm], bool] = lambda phase, arm: False) -> None:
        """Every phase to its conclusion."""
        carried: Levels = dict(self.study.baseline)
        for phase in self.study.phases:
            points: list[verdict.Point] = []
            replicates: Sequence[int] = range(self.study.replicates_of(phase).start)
            if isinstance(phase.design, Tune):
                for index in range(phase.design.tune):
                    dice = random.Random(index)
                    tuned = {p: round(dice.uniform(r.low, r.high), 3) for p, r in phase.factors.items() if not isinstance(r, list)}
                    arm = Arm(name=f"point {index:02d}", levels=carried | phase.set | tuned)
                    specs = self.use(phase.name, arm, replicates)
                    for spec in specs:
                        self.complete(spec)
                    points.append(verdict.point(self.study, arm, self.found(specs), replicates=len(replicates)))
                best = verdict.best_point(self.study, points)
                assert best is not None
                arms = [Arm(name=BASELINE, levels=carried), Arm(name="tuned", levels=best.levels)]
                replicates = range(1000, 1004)
            else:
                arms = design.expand(phase, carried)
            carried = self._decide(phase.name, arms, replicates, points, failing)
        self.ledger.event("done", "concluded")

    def _decide(
        self,
        name: str,
        arms: Sequence[Arm],
        replicates: Sequence[int],
        points: Sequence[verdict.Point],
        failing: Callable[[str, Arm], bool],
    ) -> Levels:
        references = [Arm(name=n, levels={**self.study.baseline, **levels}) for n, levels in self.study.references.items()]
        origin = self.use(REFERENCES, Arm(name=BASELINE, levels=dict(self.study.baseline)), replicates)
        beside = {arm.name: self.use(REFERENCES, arm, replicates) for arm in references}
        specs = {arm.name: self.use(name, arm, replicates) for arm in arms}
        for arm in arms:
            for spec in specs[arm.name]:
                if failing(name, arm) and spec.replicate == 0:
                    self.fail(spec)
                else:
                    self.complete(spec)
        for spec in [*origin, *(spec for found in beside.values() for spec in found)]:
            self.complete(spec)
        same = {spec.signature for spec in specs[BASELINE]}
        phase = self.study.phase(name)
        concluded = verdict.conclude(
            self.study,
            phase,
            arms,
            {arm: self.found(found) for arm, found in specs.items()},
            origin=self.found(origin),
            references={arm: self.found(found) for arm, found in beside.items()},
            collapse={arm: self._collapse(found) for arm, found in specs.items()},
            same=[arm for arm, found in specs.items() if arm != BASELINE and {s.signature for s in found} == same],
            points=points,
        )
        concluded = gates.pass_through(self.study, phase, concluded)
        self.ledger.conclude(name, concluded.model_dump(mode="json"))
        return dict(concluded.winner_levels)

    def _collapse(self, specs: Sequence[TrialSpec]) -> dict[int, str]:
        results = {spec.replicate: result_of(self.root, spec.signature) for spec in specs}
        return {replicate: str(result.summary["collapse"]) for replicate, result in results.items() if result is not None}


def plant(root: Path, changes: Mapping[str, Any] | None = None, gallery: bytes | None = None) -> Planted:
    """The study frozen under `root`, nothing run yet."""
    document = json.loads(json.dumps(DOCUMENT | dict(changes or {})))
    study = Study.model_validate(document)
    ledger = Ledger(root / study.study / "ledger.db")
    base = {"loop": {"steps": 40}, "crops": {"min_foreground_ratio": 0.3}, "loss": {"matching_threshold": 0.3}}
    ledger.freeze({"study": study.model_dump(mode="json", by_alias=True), "base": base}, "code", "data")
    return Planted(root, study, ledger, curve, gallery)


@pytest.fixture(scope="session")
def planting() -> Callable[..., Planted]:
    """`plant`, for fixtures that choose the folder themselves."""
    return plant


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Planted]:
    """Plants a study under a new `runs` folder: `planted(changes=..., gallery=...)`."""

    def make(**given: Any) -> Planted:
        return plant(tmp_path / "runs", **given)

    return make


def pytest_configure() -> None:
    """A shell that starts the tests in the background lets them ignore Ctrl-C, and so would all that they start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Beside each other, the one long group goes first, so that no core waits for it at the end; alone, fast tests go first."""
    parallel = hasattr(config, "workerinput")
    items.sort(key=lambda item: ("end_to_end" in item.path.parts) != parallel)
