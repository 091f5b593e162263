"""Points of a tuning phase, proposed from what is known. The platform's one door to Optuna.

Nothing is stored: the points that were told are replayed, in the order of asking, into a study in memory with the design's seed.
So a rerun, in any process, proposes the same.
"""

from __future__ import annotations

import itertools
import math
import random
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ablate.design import same
from ablate.errors import StudyError
from ablate.offers import SettingType
from ablate.study import Level, Levels, Phase, Range, Tune

if typing.TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

    from ablate.conclusion import Point

ASKS_A_POINT = 25
"""After so many points in a row that are infeasible or known, fewer are returned than were asked for."""


@dataclass(frozen=True)
class Told:
    """A point that ran."""

    levels: Levels
    objective: float | None
    """None: it gave no result."""
    feasible: bool
    """Whether the guards hold."""
    others: tuple[float | None, ...] = ()
    """Of the design's further objectives."""

    @property
    def values(self) -> list[float] | None:
        """All objectives; none where one is missing or not finite."""
        found = [self.objective, *self.others]
        return [value for value in found if value is not None] if all(v is not None and math.isfinite(v) for v in found) else None


class Tuner:
    """Proposes the points of one tuning phase on top of what is carried into it."""

    def __init__(self, phase: Phase, carried: Levels, types: Mapping[str, SettingType] | None, direction: str) -> None:
        """
        Args:
            types: What each setting takes, so that whole numbers stay whole; none: all ranges are of real numbers.
            direction: `maximize` or `minimize`.

        Raises:
            ValueError: Not a tuning phase.
        """
        if not isinstance(phase.design, Tune):
            raise ValueError(f"{phase.name} has the design {phase.design}, which proposes nothing.")
        self._tune = phase.design
        self._factors = phase.factors
        self._ground: Levels = {**carried, **phase.set}
        self._whole = {path for path, setting in (types or {}).items() if setting.kind is int}
        self._directions = [direction, *(goal.direction for goal in self._tune.also)]
        self._last: tuple[_Replay, list[Told], list[_Asked]] | None = None

    def live_factors(self) -> dict[str, Range]:
        """The ranges that matter under what is carried and set."""
        return {path: found for path, found in self._factors.items() if isinstance(found, Range) and found.live(self._ground)}

    def written(self, path: str, value: float) -> Level:
        """A value of a range as its points have it: whole where the setting is, else to a thousandth of the range."""
        factor = self._factors[path]
        assert isinstance(factor, Range)
        if path in self._whole:
            return min(max(round(value), math.ceil(factor.low)), math.floor(factor.high))
        return _rounded(value, factor)

    def propose(self, told: Sequence[Told], count: int, infeasible: Callable[[list[Levels]], list[bool]] | None = None) -> list[Levels]:
        """The next points, each as full levels; the same for the same `told`.

        Args:
            told: Every point proposed so far, in the order in which it was proposed.
            infeasible: Whether each point cannot be trained at all. Such points are told to the sampler and never returned.

        Returns:
            `count` points, all new; fewer where the ranges hold no more, none where no range is live.
        """
        space = self._space()
        if not space:
            return []
        with _quiet():
            replay = self._replayed(list(told), space)
            self._last = None
            asked = replay.ask(count, infeasible or (lambda points: [False] * len(points)))
        self._last = replay, list(told), asked
        return [point.levels for point in asked]

    def _replayed(self, told: list[Told], space: dict[str, BaseDistribution]) -> _Replay:
        """The study after all that was told; goes on from the last call where that is its beginning."""
        if self._last is not None:
            replay, before, asked = self._last
            new = told[len(before) :]
            if (
                told[: len(before)] == before
                and len(new) == len(asked)
                and all(_equal(a.levels, t.levels) for a, t in zip(asked, new, strict=True))
            ):
                replay.finish(asked, new)
                return replay
        replay = _Replay(self._tune, self._directions, space, self._levels)
        start = 0
        for size in self._tune.batches:
            if start < len(told):
                replay.tell(told[start : start + size])
            start += size
        if start < len(told):
            replay.tell(told[start:])
        return replay

    def _space(self) -> dict[str, BaseDistribution]:
        """Live ranges, and lists of levels by their positions (a level may be a list, which Optuna does not take)."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        live = self.live_factors()
        space: dict[str, BaseDistribution] = {}
        for path, factor in self._factors.items():
            if isinstance(factor, list):
                space[path] = CategoricalDistribution(tuple(range(len(factor))))
            elif path in live and path in self._whole:
                space[path] = IntDistribution(math.ceil(factor.low), math.floor(factor.high), log=factor.log)
            elif path in live:
                space[path] = FloatDistribution(factor.low, factor.high, log=factor.log)
        return space

    def _levels(self, params: Mapping[str, object]) -> Levels:
        found: dict[str, Level] = {}
        for path, value in params.items():
            factor = self._factors[path]
            if isinstance(factor, list):
                found[path] = factor[typing.cast(int, value)]
            else:
                found[path] = _rounded(typing.cast(float, value), factor)
        return {**self._ground, **found}


def export(storage: str, name: str, phase: Phase, points: Sequence[Point], direction: str) -> None:
    """A tuning phase as a study in an Optuna storage, a trial a point: its settings, objectives, and whether the guards hold.

    A study of that name is replaced, so that exporting twice is exporting once.

    Raises:
        StudyError: The storage cannot be opened.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    assert isinstance(phase.design, Tune)
    space: dict[str, BaseDistribution] = {}
    for path, factor in phase.factors.items():
        if isinstance(factor, list):
            space[path] = optuna.distributions.CategoricalDistribution([str(level) for level in factor])
        else:
            space[path] = optuna.distributions.FloatDistribution(factor.low, factor.high, log=factor.log)
    with _quiet():
        try:
            if name in optuna.get_all_study_names(storage):
                optuna.delete_study(study_name=name, storage=storage)
            directions = [direction, *(goal.direction for goal in phase.design.also)]
            study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            told = str(error).splitlines()[0]
            raise StudyError(
                "ablate export", [f"{storage}: expected an Optuna storage, such as sqlite:///x.db, but got: {told}."]
            ) from error
        for point in points:
            inside = {path: point.levels[path] for path in space if path in point.levels}
            params = {path: str(value) if isinstance(phase.factors[path], list) else value for path, value in inside.items()}
            values = [point.objective, *point.others]
            known = all(value is not None for value in values)
            study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions={path: space[path] for path in params},
                    values=values if known else None,
                    state=optuna.trial.TrialState.COMPLETE if known else optuna.trial.TrialState.FAIL,
                    user_attrs={
                        "point": point.name,
                        "feasible": point.feasible,
                        "guards": [guard.guard for guard in point.guards if not guard.holds],
                    },
                )
            )


@dataclass
class _Asked:
    trial: optuna.Trial
    levels: Levels


class _Replay:
    """A study in memory that is brought to where an earlier process stood."""

    def __init__(
        self, tune: Tune, directions: Sequence[str], space: dict[str, BaseDistribution], levels_of: Callable[[Mapping[str, object]], Levels]
    ) -> None:
        import optuna

        self._study = optuna.create_study(directions=directions, sampler=_sampler(tune, len(space)))
        self._space, self._levels_of = space, levels_of
        self._known: list[Levels] = []
        self._worst: list[float] | None = None
        self._foreign = False
        self._signs = [1 if direction == "maximize" else -1 for direction in directions]
        self._penalize = tune.sampler == "cmaes"
        self._left: int | None = None
        if tune.sampler == "grid":
            cells = _grid(space, tune)
            self._left = len(cells)
            for cell in cells:
                self._study.enqueue_trial(cell)
        if tune.sampler == "qmc":
            # The sampler reads its space from the first trial, and would draw the whole first batch independently without one.
            first = {path: dist.to_external_repr(_middle(dist)) for path, dist in space.items()}
            self._study.add_trial(optuna.trial.create_trial(params=first, distributions=space, values=[0.0] * len(directions)))

    def ask(self, count: int, infeasible: Callable[[list[Levels]], list[bool]]) -> list[_Asked]:
        """So many new, feasible points; fewer where too many asks in a row give none."""
        found: list[_Asked] = []
        asks_left = ASKS_A_POINT * count
        while len(found) < count and asks_left > 0:
            asks = min(count - len(found), asks_left)
            if self._left is not None:
                asks = min(asks, self._left)
                self._left -= asks
            if not asks:
                break
            batch = [self._one() for _ in range(asks)]
            asks_left -= len(batch)
            new: list[_Asked] = []
            for asked in batch:
                if any(_equal(asked.levels, levels) for levels in self._known):
                    self._fail(asked)
                else:
                    self._known.append(asked.levels)
                    new.append(asked)
            for asked, bad in zip(new, infeasible([a.levels for a in new]) if new else [], strict=True):
                if bad:
                    self._tell_infeasible(asked)
                else:
                    found.append(asked)
        return found

    def tell(self, batch: Sequence[Told]) -> None:
        """Ask again for a batch that ran, and tell what came of it.

        A point asked for that is not the next of the batch can only have been infeasible then. Where the points do not come
        again at all (another version of Optuna), they are added as they are.
        """
        if self._foreign:
            for told in batch:
                self._add(told)
            return
        waiting = list(batch)

        def was_infeasible(points: list[Levels]) -> list[bool]:
            answers = []
            for levels in points:
                matched = bool(waiting) and _equal(levels, waiting[0].levels)
                if matched:
                    waiting.pop(0)
                answers.append(not matched)
            return answers

        asked = self.ask(len(batch), was_infeasible)
        self.finish(asked, batch[: len(asked)])
        self._foreign = bool(waiting)
        for told in waiting:
            self._add(told)

    def finish(self, asked: Sequence[_Asked], told: Sequence[Told]) -> None:
        """Tell what came of points, in the order of asking."""
        for one, result in zip(asked, told, strict=True):
            self._finish(one, result)

    def _one(self) -> _Asked:
        trial = self._study.ask(self._space)
        return _Asked(trial, self._levels_of(trial.params))

    def _finish(self, asked: _Asked, told: Told) -> None:
        values = told.values
        if values is None:
            self._fail(asked)
            return
        worst = values if self._worst is None else self._worst
        self._worst = [sign * min(sign * a, sign * b) for sign, a, b in zip(self._signs, worst, values, strict=True)]
        asked.trial.set_constraint("guards", 0.0 if told.feasible else 1.0)
        # CMA-ES knows no constraints: a point that breaks a guard must not draw it, however well it scores.
        self._study.tell(asked.trial, values if told.feasible or not self._penalize else self._worst)

    def _tell_infeasible(self, asked: _Asked) -> None:
        if self._penalize and self._worst is None:
            self._fail(asked)
            return
        asked.trial.set_constraint("guards", 1.0)
        self._study.tell(asked.trial, [0.0] * len(self._signs) if self._worst is None else self._worst)

    def _fail(self, asked: _Asked) -> None:
        import optuna

        self._study.tell(asked.trial, state=optuna.trial.TrialState.FAIL)

    def _add(self, told: Told) -> None:
        import optuna

        self._known.append(told.levels)
        inside = {path: value for path, value in told.levels.items() if path in self._space}
        params = {path: self._external(path, value, told.levels) for path, value in inside.items()}
        values = told.values
        if values is None or any(value is None for value in params.values()):
            return
        constraints = {"guards": 0.0 if told.feasible else 1.0}
        trial = optuna.trial.create_trial(params=params, distributions=self._space, values=values, constraints=constraints)
        self._study.add_trial(trial)

    def _external(self, path: str, value: Level, levels: Levels) -> object:
        """The parameter that gives a level; none where the range or list does not hold it."""
        from optuna.distributions import CategoricalDistribution

        distribution = self._space[path]
        if isinstance(distribution, CategoricalDistribution):
            others = {p: d.to_external_repr(_middle(d)) for p, d in self._space.items()}
            return next((c for c in distribution.choices if same(self._levels_of({**others, path: c})[path], value)), None)
        inside = isinstance(value, (int, float)) and distribution._contains(value)
        return value if inside else None


def _sampler(tune: Tune, factors: int) -> optuna.samplers.BaseSampler:
    """How many points are drawn evenly first does not depend on how many there will be, so that more points go on where fewer ended."""
    from optuna import samplers

    startup = max(4, min(10, 2 * factors))
    if tune.sampler == "tpe":
        return samplers.TPESampler(seed=tune.seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
    if tune.sampler == "gp":
        return samplers.GPSampler(seed=tune.seed, n_startup_trials=startup, warn_independent_sampling=False)
    if tune.sampler == "qmc":
        return samplers.QMCSampler(seed=tune.seed, scramble=True, warn_independent_sampling=False)
    if tune.sampler == "cmaes":
        return samplers.CmaEsSampler(seed=tune.seed, n_startup_trials=startup, warn_independent_sampling=False)
    if tune.sampler == "nsga2":
        return samplers.NSGAIISampler(seed=tune.seed, population_size=max(4, tune.tune // 4))
    return samplers.RandomSampler(seed=tune.seed)


def _grid(space: Mapping[str, BaseDistribution], tune: Tune) -> list[dict[str, object]]:
    """The largest regular grid of at most so many points, ends included, in an order that the seed shuffles; lists are whole."""
    from optuna.distributions import CategoricalDistribution

    counts = {path: len(d.choices) if isinstance(d, CategoricalDistribution) else 1 for path, d in space.items()}
    growing = [path for path, d in space.items() if not isinstance(d, CategoricalDistribution)]
    while growing:
        path = min(growing, key=counts.__getitem__)
        wider = {**counts, path: counts[path] + 1}
        if math.prod(wider.values()) > tune.tune or len(_ladder(space[path], wider[path])) < wider[path]:
            growing.remove(path)
        else:
            counts = wider
    cells = [dict(zip(space, cell, strict=True)) for cell in itertools.product(*(_ladder(d, counts[path]) for path, d in space.items()))]
    random.Random(tune.seed).shuffle(cells)
    return cells[: tune.tune]


def _ladder(distribution: BaseDistribution, count: int) -> list[object]:
    """So many values from end to end, the middle for one; fewer where whole numbers run out."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    shares = [0.5] if count == 1 else [i / (count - 1) for i in range(count)]
    low, high = float(distribution.low), float(distribution.high)
    values = [low * (high / low) ** share if distribution.log else low + share * (high - low) for share in shares]
    if isinstance(distribution, IntDistribution):
        return list(dict.fromkeys(round(value) for value in values))
    return [min(max(value, low), high) for value in values]


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna's log lines and notices of experimental features are not the user's business."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _middle(distribution: BaseDistribution) -> float:
    """An inner value of a distribution, in its internal form."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    assert isinstance(distribution, (CategoricalDistribution, FloatDistribution, IntDistribution))
    return 0.0 if isinstance(distribution, CategoricalDistribution) else float(distribution.low)


def _rounded(value: float, ends: Range) -> float:
    """To a thousandth of the range or finer (1000 HU: whole HU), as a person would write a threshold; whole numbers stay."""
    if isinstance(value, int):
        return value
    scale = abs(value) if ends.log and value else ends.high - ends.low
    digits = 3 - math.floor(math.log10(scale))
    return min(max(round(value, digits), ends.low), ends.high)


def _equal(one: Levels, other: Levels) -> bool:
    return one.keys() == other.keys() and all(same(value, other[path]) for path, value in one.items())
