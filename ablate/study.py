"""The study file as types. Read this and `trial.py` and you know the design."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from ablate.command import Arguments, Command
from ablate.command import Level as Level

Levels = dict[str, Level]
"""Dotted config path to value."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A name that is also a safe file name."""

BASELINE = "baseline"
"""The name of the reference arm in every phase."""

CONFIRMATION = "confirmation"
"""The name of the last phase, which holds the study's winner against the study's baseline on fresh replicates."""

REFERENCES = "references"
"""The phase name under which the ledger keeps the trials of the study's references, and of its own baseline."""


STEERING = (
    "budget",
    "executor",
    "workers",
    "gpus",
    "trials_per_gpu",
    "tasks_per_trial",
    "timeout_min",
    "stall_min",
    "memory_per_trial_gib",
    "attempts",
    "slurm",
)
"""Keys of a study file that say how and where it runs, not what it asks: they may change between two runs."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)


class Trainer(Command, _Strict):
    """Who trains: an importable callable and what it offers beside (DESIGN section 4), or a command and how it is run."""

    callable: str | None = Field(None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:callable`, called as `train(config, run)`. A study names this or `command`."""
    schema_: str | None = Field(None, alias="schema", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:callable` that gives the trainer's config as dataclasses without torch: by it paths, types and bounds are checked."""
    preset: str | None = None
    """The schema's preset that all arms start from."""
    set: Levels = {}
    """Settings for every arm and reference of the study."""
    confirm: Levels = {}
    """Settings for the trials of the confirmation, over all others: scans by which nothing was chosen, say."""
    inert: str | None = None
    """Offer: settings without effect under the others."""
    preflight: str | None = None
    """Offer: what will go wrong with a config, before any training."""
    data_hash: str | None = None
    """Offer: the hash of the data that a config reads."""
    expected_seconds: str | None = None
    """Offer: seconds that a trial takes, for planning."""
    headlines: str | None = None
    """Offer: columns, questions and floors of tables and reports."""
    export: str | None = None
    """Offer: writes a run's model into a folder, for `ablate sync --register`."""
    viewer: Arguments | None = None
    """The command that shows what a trial saw as an HTML page, for the dashboard to run: a list, or one text. `{directory}` is the folder
    of the trial's last attempt, `{config}` its settings as a JSON file (under `config`), `{seed}` its replicate, `{step}` a step that it
    reported, `{python}` this Python, `{folder}` the folder in which the dashboard was called. No result depends on it."""

    @model_validator(mode="after")
    def _one_kind(self) -> Trainer:
        if (self.callable is None) == (self.command is None):
            raise ValueError(
                "expected one of callable and command. Name the Python callable (package.module:name), or the command line of your program."
            )
        return self

    @model_serializer(mode="wrap")
    def _of_its_kind(self, whole: SerializerFunctionWrapHandler) -> dict[str, object]:
        said: dict[str, object] = whole(self)
        return {key: value for key, value in said.items() if key not in (CALLABLE_KEYS if self.command is not None else COMMAND_KEYS)}

    @property
    def name(self) -> str:
        """The callable, or the command as one would type it."""
        return self.callable or shlex.join(self.arguments)


COMMAND_KEYS = tuple(key for key in Command.model_fields if key != "seed_key")
"""Keys of a trainer that is a command."""

CALLABLE_KEYS = ("callable", "schema", "schema_", "preset", "inert", "preflight", "data_hash", "expected_seconds", "headlines", "export")
"""Keys of a trainer that is a callable."""


class Objective(_Strict):
    """What decides: a metric, which way is better, and the smallest effect worth acting on, in the metric's unit."""

    metric: str
    """Its name, as trials report it."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Which way is better."""
    smallest_effect: float = Field(gt=0)
    """A smaller difference to the baseline is not worth acting on, in the metric's unit."""

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.direction == "maximize" else -1


class Guard(_Strict):
    """A bound on another metric's mean over replicates that an adopted arm must respect."""

    metric: str
    """Its name, as trials report it."""
    at_least: float | None = None
    """Lower bound of its mean over replicates."""
    at_most: float | None = None
    """Upper bound of its mean over replicates."""

    @model_validator(mode="after")
    def _one_bound(self) -> Guard:
        if self.at_least is None and self.at_most is None:
            raise ValueError("expected at_least or at_most (or both). Add the bound that an arm must respect.")
        return self

    def holds(self, value: float) -> bool:
        """Whether a mean respects the bounds; NaN never does."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = [f">= {self.at_least:g}"] if self.at_least is not None else []
        bounds += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        return f"{self.metric} {' and '.join(bounds)}"


class Replicates(_Strict):
    """How many paired replicates an arm gets: all of them `start`, then one more at a time while its verdict is open."""

    start: int = Field(4, ge=3)
    """Replicates that every arm gets."""
    at_most: int = Field(6, ge=3)
    """Replicates that an arm whose verdict is open may get."""
    condemn: int | None = Field(3, ge=1)
    """An arm that breaks the same guard in each of its first so many replicates gets no more; none: it gets `start` whatever they say."""
    futile: int | None = Field(3, ge=2)
    """From so many replicates on an arm whose predicted chance of adoption is small gets no more; none: only from `start` on. A fixed
    design, whose `start` is its `at_most`, runs whole, but for what a rung stops."""
    at_rungs: Literal["worse", "unlikely"] = "worse"
    """Who stops at a rung for the objective: arms that are shown to be worse than the baseline there; or those too that would hardly be
    adopted, were the end as the rung shows it. The second spares more, and loses more arms that start slowly."""
    check: float = Field(0.125, ge=0, le=1)
    """Share of the arms given up so, at least one, that run on all the same, to see whether the rule was right; 0: none."""
    first: int = Field(0, ge=0, lt=1000)
    """Number of the first replicate: another one gives fresh seeds."""

    @property
    def asked_from(self) -> int:
        """From how many replicates on an arm is asked for its prospect; `start`: at the looks alone."""
        return self.start if self.futile is None or self.start == self.at_most else min(self.futile, self.start)

    @model_validator(mode="after")
    def _ordered(self) -> Replicates:
        if self.at_most < self.start:
            raise ValueError(f"at_most: expected at least start={self.start} but got {self.at_most}.")
        return self


class Budget(_Strict):
    """What the study may use in all, over restarts; none: no bound."""

    trials: int | None = Field(None, ge=1)
    """Trials that this study may start."""
    hours: float | None = Field(None, gt=0)
    """Of the controller."""
    gpu_hours: float | None = Field(None, gt=0)
    """Time of all attempts, lost ones too, times the GPUs that their worker held."""


class Gate(_Strict):
    """How a phase ends: whether the study goes on to the next phase, and where else it goes."""

    advance_if: Literal["always", "any_adopted", "none_adopted"] | Solved = "always"
    """When the study goes on to the next phase."""
    otherwise: Name | None = None
    """The phase that comes instead; none: the study ends."""


class Solved(_Strict):
    """Holds when the winner respects all guards and its objective passes a stated value ("helps enough")."""

    solved: float
    """The value of the objective, in its unit, that the winner must pass."""


class Range(_Strict):
    """A tuned factor's interval; `when` names the settings under which it is live."""

    low: float
    """Its lower end."""
    high: float
    """Its upper end."""
    log: bool = False
    """Whether points are spread by the logarithm."""
    when: dict[str, list[Level]] = {}
    """Setting to the values under which this one matters."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low: expected less than high={self.high:g} but got {self.low:g}.")
        if self.log and self.low <= 0:
            raise ValueError(f"low: a logarithmic range must be above 0 but starts at {self.low:g}.")
        return self

    def live(self, levels: Mapping[str, object]) -> bool:
        """Whether the settings under which this range matters hold."""
        return all(levels.get(path) in allowed for path, allowed in self.when.items())


class Goal(_Strict):
    """A further objective of a tuning phase."""

    metric: str
    """What is measured."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Which way is better."""

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.direction == "maximize" else -1


class Tune(_Strict):
    """A tuning design: so many points, asked in batches of fixed size."""

    tune: int = Field(ge=2, le=10_000)
    """How many points are measured."""
    sampler: Literal["tpe", "gp", "qmc", "cmaes", "nsga2", "grid", "random"] = "tpe"
    """Who proposes them: tree-structured Parzen estimator, Gaussian process, quasi-random, CMA evolution strategy, the largest regular grid
    of at most so many points, or random."""
    batch: int = Field(4, ge=1, le=64)
    """Points asked at once, before any of them is told."""
    seed: int = 0
    """Seed of the sampler."""
    replicates: int | None = Field(None, ge=2)
    """Replicates of each point; none: as many as an arm's `start`. For the same trials more points with fewer replicates find more: the
    noise is taken from all points together. With a single one it would not be known, and the operating range too sure of itself."""
    halve: bool = False
    """Whether the worse half of each batch is measured no further than its first replicate; where the study has rungs, than the first of
    them. It bounds the operating range all the same."""
    also: list[Goal] = []
    """Objectives beside the study's own, for a Pareto front; the study's own decides."""

    more: list[Annotated[int, Field(ge=1, le=10_000)]] = []
    """Points that later calls of `ablate tune --points` added, a number for each call: the sampler goes on where the one before ended."""

    @property
    def points(self) -> int:
        """How many in all."""
        return self.tune + sum(self.more)

    @property
    def batches(self) -> list[int]:
        """Sizes of the batches in which points are asked for; those of the first call stay as they were when more are added."""
        return [min(self.batch, count - start) for count in (self.tune, *self.more) for start in range(0, count, self.batch)]

    def trials(self, replicates: int) -> int:
        """Trials of all points, each measured on so many replicates at most."""
        whole = [batch if not self.halve else -(-batch // 2) for batch in self.batches]
        return self.points + sum(whole) * (replicates - 1)

    @model_validator(mode="after")
    def _one_for_cmaes(self) -> Tune:
        if self.also and self.sampler == "cmaes":
            raise ValueError("also: expected one objective with sampler cmaes. Take tpe, gp, qmc, grid or random for several.")
        if self.also and self.halve:
            raise ValueError(
                "halve: expected one objective, by which the worse half is told, but `also` names more. Leave one of them out."
            )
        return self


class Question(_Strict):
    """A question that the report answers with a figure: the winner's metric beside the baseline's."""

    ask: str
    """The question, as the report shows it."""
    metric: str
    """The metric that answers it."""
    direction: Literal["maximize", "minimize"]
    """Which way is yes."""


class Confirms(_Strict):
    """What another study found and this one looks at again: longer, larger, on other data."""

    study: Name
    """Its name."""
    winner: str
    """The arms that it adopted."""
    effect: float
    """Its total effect on the objective of that study, with its interval."""
    low: float | None
    """Lower end of that interval."""
    high: float | None
    """Upper end of that interval."""


class Floor(_Strict):
    """A metric, and the one that says what the same measure gives without any learning (raw intensities, say)."""

    metric: str
    """The learned measure."""
    floor: str
    """The same without learning."""


FixedDesign = Literal["factorial", "one_at_a_time", "add_one_in", "leave_one_out", "path"]


class Phase(_Strict):
    """A stage of the study with one design and one gate.

    `factors` vary one setting each; `components` are named bundles of settings that are switched together.
    """

    name: Name
    """Its name, in tables, tags and `otherwise`."""
    design: FixedDesign | Tune
    """How arms follow from factors or components; or `{tune: N}`."""
    set: Levels = {}
    """Settings of every arm but the baseline."""
    factors: dict[str, list[Level] | Range] = {}
    """Setting to its values; in a tuning phase to its range."""
    components: dict[Name, Levels] = {}
    """Name to a bundle of settings that is switched as one."""
    gate: Gate = Gate()
    """How the phase ends."""
    replicates: Replicates | None = None
    """The phase's own; none: the study's."""

    @property
    def off(self) -> Levels:
        """Of a factorial the first level of each factor: what a level is held against where the baseline says nothing of the setting."""
        return {path: levels[0] for path, levels in self.factors.items() if isinstance(levels, list)} if self.design == "factorial" else {}

    @model_validator(mode="after")
    def _sampled(self) -> Phase:
        if isinstance(self.design, Tune) and self.design.sampler == "cmaes":
            ranges = sum(isinstance(factor, Range) for factor in self.factors.values())
            if ranges < 2:
                raise ValueError(f"design.sampler: cmaes needs at least two ranges but factors has {ranges}. Take tpe, gp, qmc or grid.")
        return self


class ControllerJob(_Strict):
    """A controller that runs as a job of its own, with `ablate run --detach`; account and qos are those of the workers."""

    partition: str | None = None
    """None: that of the workers."""
    time_min: int = Field(1440, ge=2)
    """Then it stands in the queue again, and the study goes on where it stopped."""
    cpus: int = Field(1, ge=1)
    """CPU cores."""
    mem_gib: float | None = Field(None, gt=0)
    """Memory in GiB; none: the partition's default."""
    additional: dict[str, str | int | bool] = {}
    """Any other option of sbatch, by its long name."""


class Slurm(_Strict):
    """What each worker asks of Slurm."""

    partition: str | None = None
    """None: the cluster's default."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    time_min: int = Field(240, ge=1)
    """Time limit of a worker's job; a trial that is not done by then goes on in the next one."""
    gpus_per_worker: int = Field(0, ge=0)
    """GPUs of one worker."""
    nodes_per_worker: int = Field(1, ge=1)
    """Nodes over which the tasks of one trial are spread: `gpus_per_worker` are of all of them together, `mem_gib` of each."""
    mem_gib: float | None = Field(None, gt=0)
    """Memory of one worker in GiB; none: the partition's default."""
    max_workers: int | None = Field(None, ge=1, le=1024)
    """Jobs at a time; none: `workers`."""
    array: bool = False
    """Submit workers that are needed at the same time as one array of jobs."""
    pending_min: float | None = Field(None, gt=0)
    """A job that has waited so long in the queue is said to."""
    pending_then: Literal["wait", "take_back"] = "wait"
    """What becomes of it then: `take_back` goes on with the jobs that run, and ends the study's run where none does."""
    controller: ControllerJob | None = None
    """None: a controller in the background is a process of the machine that it was started on."""
    additional: dict[str, str | int | bool] = {}
    """Any other option of sbatch, by its long name."""


class Study(_Strict):
    """One question, with its phases, arms and rule of decision."""

    study: Name
    """Its name, and that of its folder under `runs/`."""
    question: str
    """What it asks, in a sentence."""
    trainer: Trainer
    """Who trains."""
    baseline: Levels
    """Settings of the arm that all others are compared with."""
    references: dict[Name, Levels] = {}
    """Further arms in every table that do not compete: name to settings beside the baseline's."""
    objective: Objective
    """What decides."""
    guards: list[Guard] = []
    """What an adopted arm must respect."""
    replicates: Replicates = Replicates()
    """How many paired replicates an arm gets."""
    rungs: list[Annotated[int, Field(ge=1)]] = []
    """Steps before the end at which the arms of a phase are compared; hopeless ones, and those that break a guard, stop. The trainer must
    report the objective by then, and a guard's metric where it is to condemn anybody there. A tuned point that meets what is carried,
    and the confirmation, run past them."""
    budget: Budget = Budget()
    """What it may use in all."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """Rate of wrong adoptions in a phase, over all its arms."""
    executor: Literal["local", "slurm", "inline"] = "local"
    """Where workers run: processes of this machine, jobs of Slurm, or within the command itself."""
    slurm: Slurm = Slurm()
    """With `executor: slurm`."""
    workers: int = Field(2, ge=1, le=1024)
    """Trials at a time."""
    threads_per_worker: int = Field(1, ge=1, le=1024)
    """CPU threads of one worker."""
    gpus: list[int] | None = None
    """GPUs of this machine that workers share out, by number; none: all that are shown; an empty list: left as they are."""
    trials_per_gpu: int = Field(1, ge=1, le=64)
    """Workers on one GPU."""
    tasks_per_trial: int = Field(1, ge=1, le=1024)
    """Processes that train one trial together, each with `threads_per_worker` threads; the trainer finds torch's variables
    (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, ...) and its rank 0 alone reports and writes. On GPUs, one for each."""
    timeout_min: float | None = Field(None, gt=0)
    """Longest time of one attempt."""
    stall_min: float | None = Field(None, gt=0)
    """Longest time between two reports of an attempt; then it counts as hanging, and the next goes on from its checkpoint."""
    memory_per_trial_gib: float | None = Field(None, gt=0)
    """Memory that a trial may take; one that takes more is ended, and no more workers start than fit into what is free."""
    attempts: int = Field(3, ge=1, le=20)
    """Tries at a trial before it has failed for good."""
    columns: list[str] = []
    """Metrics shown in every table beside the objective; none: what the trainer's `headlines` offer names."""
    questions: list[Question] = []
    """What the report answers for the winner; none: what the trainer's `headlines` offer names."""
    floors: list[Floor] = []
    """Probes that the report shows beside what needs no learning; none: what the trainer's `headlines` offer names."""
    confirms: Confirms | None = None
    """Set by `ablate confirm`."""
    confirm: bool = True
    """Whether what was adopted meets the study's baseline once more, on replicates that chose nothing: the headline effect is theirs."""
    otherwise: str | None = Field(None, pattern=r"\.ya?ml$")
    """The study to run where this one ends with nothing adopted: a file, from the folder of this study's file."""
    phases: list[Phase] = Field(min_length=1)
    """What is tried, in this order."""

    @model_validator(mode="after")
    def _tasks_fit(self) -> Study:
        tasks, nodes, gpus = self.tasks_per_trial, self.slurm.nodes_per_worker, self.slurm.gpus_per_worker
        problems = []
        if tasks > 1 and self.executor == "inline":
            problems.append(f"tasks_per_trial: expected 1 with executor=inline, which is one process, but got {tasks}. Use executor=local.")
        if tasks > 1 and self.trials_per_gpu > 1:
            problems.append(f"trials_per_gpu: expected 1 with tasks_per_trial={tasks} but got {self.trials_per_gpu}. Set one of them to 1.")
        if self.executor == "slurm" and tasks % nodes:
            problems.append(
                f"tasks_per_trial: expected a multiple of slurm.nodes_per_worker={nodes} but got {tasks}. Give every node as many."
            )
        if self.executor == "slurm" and gpus % nodes:
            problems.append(f"slurm.gpus_per_worker: expected a multiple of nodes_per_worker={nodes} but got {gpus}. It counts all nodes.")
        if problems:
            raise ValueError(" ".join(problems))
        return self

    @property
    def confirmation(self) -> Phase:
        """The last phase, which is in no study file: its arms are the study's baseline and `winner`, what the phases have carried to it.

        Its one effect is the headline, so that it is measured on `start` replicates whatever its prospect is, and stops at no rung.
        """
        own = self.replicates.model_copy(update={"futile": None, "at_rungs": "worse"})
        return Phase(name=CONFIRMATION, design="one_at_a_time", replicates=own)

    def phase(self, name: str) -> Phase:
        """The phase of that name, the confirmation among them.

        Raises:
            KeyError: None has it.
        """
        for phase in [*self.phases, self.confirmation]:
            if phase.name == name:
                return phase
        raise KeyError(name)

    def rungs_of(self, phase: Phase) -> list[int]:
        """Steps at which the phase's arms are compared before their end: none where one arm alone meets what is carried.

        That one effect is what such a phase is run for.
        """
        return [] if phase.name == CONFIRMATION or isinstance(phase.design, Tune) else sorted(self.rungs)

    def replicates_of(self, phase: Phase) -> Replicates:
        """The phase's own replicates, else the study's."""
        return phase.replicates or self.replicates

    def replicates_of_points(self, phase: Phase) -> range:
        """The replicates on which each point of a tuning phase is measured."""
        counts = self.replicates_of(phase)
        own = phase.design.replicates if isinstance(phase.design, Tune) else None
        return range(counts.first, counts.first + (own or counts.start))


def asked_of(study: Study) -> str:
    """What a study asks, as one text: without how it runs, and without keys left at their defaults, since later versions have more."""
    document = study.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"trainer": {"viewer"}})
    return json.dumps({key: value for key, value in document.items() if key not in STEERING}, sort_keys=True)


def steered(document: Mapping[str, object]) -> dict[str, object]:
    """What a study's document says of `STEERING`."""
    return {key: document[key] for key in STEERING if key in document}


class Arm(_Strict):
    """One assignment of levels: all settings that differ from the trainer's preset."""

    name: str
    levels: Levels

    def changes(self, other: Arm) -> tuple[str, ...]:
        """Paths at which the two differ."""
        paths = sorted(self.levels.keys() | other.levels.keys())
        missing = object()
        return tuple(p for p in paths if self.levels.get(p, missing) != other.levels.get(p, missing))


class Map(_Strict):
    """A quantity over two settings."""

    x: str
    """What the columns are, with its unit; so for the rows and the quantity."""
    xs: list[float]
    y: str
    ys: list[float]
    z: str
    rows: list[list[float]]
    """One for each of `ys`, with a value for each of `xs`."""

    @model_validator(mode="after")
    def _rectangular(self) -> Map:
        if len(self.rows) != len(self.ys) or any(len(row) != len(self.xs) for row in self.rows):
            raise ValueError(f"rows: expected {len(self.ys)} of {len(self.xs)} values but got {[len(row) for row in self.rows]}")
        return self


class Finding(_Strict):
    """What a trainer's preflight says about a configuration before any training."""

    level: Literal["error", "warning", "info"]
    path: str
    what: str
    value: float | str | None = None
    why: str = ""
    mend: str = ""
    map: Map | None = None
    """To choose levels from; drawn in the report."""


def plain_name(name: str) -> str:
    """A name without case and punctuation: names that have the same one are spelled alike."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def nearest(name: str, known: list[str]) -> str:
    """` Did you mean X?` where something is close, else nothing."""
    close = [k for k in known if k != name and plain_name(k) == plain_name(name)] or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        close = [tails[t] for t in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.7)]
    return f" Did you mean {close[0]}?" if close else ""


Gate.model_rebuild()
