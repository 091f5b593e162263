"""The study file as types. Read this and `trial.py` and you know the design."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from ablate.command import Command
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
    schema_: str | None = Field(None, alias="schema", pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    preset: str | None = None
    set: Levels = {}
    """Settings for every arm and reference of the study."""
    confirm: Levels = {}
    """Settings for the trials of the confirmation, over all others: scans by which nothing was chosen, say."""
    inert: str | None = None
    preflight: str | None = None
    data_hash: str | None = None
    expected_seconds: str | None = None
    headlines: str | None = None

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

CALLABLE_KEYS = ("callable", "schema", "schema_", "preset", "inert", "preflight", "data_hash", "expected_seconds", "headlines")
"""Keys of a trainer that is a callable."""


class Objective(_Strict):
    """What decides: a metric, which way is better, and the smallest effect worth acting on, in the metric's unit."""

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"
    smallest_effect: float = Field(gt=0)

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.direction == "maximize" else -1


class Guard(_Strict):
    """A bound on another metric's mean over replicates that an adopted arm must respect."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None

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
    at_most: int = Field(6, ge=3)
    condemn: int | None = Field(3, ge=1)
    """An arm that breaks the same guard in each of its first so many replicates gets no more; none: it gets `start` whatever they say."""
    check: float = Field(0.125, ge=0, le=1)
    """Share of the arms condemned so, at least one, that run to `start` all the same, to see whether the rule was right; 0: none."""
    first: int = Field(0, ge=0, lt=1000)
    """Number of the first replicate: another one gives fresh seeds."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicates:
        if self.at_most < self.start:
            raise ValueError(f"at_most: expected at least start={self.start} but got {self.at_most}.")
        return self


class Budget(_Strict):
    """What the study may use in all, over restarts; none: no bound."""

    trials: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)
    """Of the controller."""
    gpu_hours: float | None = Field(None, gt=0)
    """Time of all attempts, lost ones too, times the GPUs that their worker held."""


class Gate(_Strict):
    """How a phase ends: whether the study goes on to the next phase, and where else it goes."""

    advance_if: Literal["always", "any_adopted", "none_adopted"] | Solved = "always"
    otherwise: Name | None = None


class Solved(_Strict):
    """Holds when the winner respects all guards and its objective passes a stated value ("helps enough")."""

    solved: float


class Range(_Strict):
    """A tuned factor's interval; `when` names the settings under which it is live."""

    low: float
    high: float
    log: bool = False
    when: dict[str, list[Level]] = {}

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


class Tune(_Strict):
    """A tuning design: so many points, asked in batches of fixed size."""

    tune: int = Field(ge=2, le=10_000)
    sampler: Literal["tpe", "gp", "qmc", "random"] = "tpe"
    batch: int = Field(4, ge=1, le=64)
    seed: int = 0


class Question(_Strict):
    """A question that the report answers with a figure: the winner's metric beside the baseline's."""

    ask: str
    metric: str
    direction: Literal["maximize", "minimize"]


class Confirms(_Strict):
    """What another study found and this one looks at again: longer, larger, on other data."""

    study: Name
    winner: str
    """The arms that it adopted."""
    effect: float
    """Its total effect on the objective of that study, with its interval."""
    low: float | None
    high: float | None


class Floor(_Strict):
    """A metric, and the one that says what the same measure gives without any learning (raw intensities, say)."""

    metric: str
    floor: str


FixedDesign = Literal["factorial", "one_at_a_time", "add_one_in", "leave_one_out", "path"]


class Phase(_Strict):
    """A stage of the study with one design and one gate.

    `factors` vary one setting each; `components` are named bundles of settings that are switched together.
    """

    name: Name
    design: FixedDesign | Tune
    set: Levels = {}
    """Settings of every arm but the baseline."""
    factors: dict[str, list[Level] | Range] = {}
    components: dict[Name, Levels] = {}
    gate: Gate = Gate()
    replicates: Replicates | None = None


class ControllerJob(_Strict):
    """A controller that runs as a job of its own, with `ablate run --detach`; account and qos are those of the workers."""

    partition: str | None = None
    """None: that of the workers."""
    time_min: int = Field(1440, ge=2)
    """Then it stands in the queue again, and the study goes on where it stopped."""
    cpus: int = Field(1, ge=1)
    mem_gib: float | None = Field(None, gt=0)
    additional: dict[str, str | int | bool] = {}
    """Any other option of sbatch, by its long name."""


class Slurm(_Strict):
    """What each worker asks of Slurm."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_min: int = Field(240, ge=1)
    """Time limit of a worker's job; a trial that is not done by then goes on in the next one."""
    gpus_per_worker: int = Field(0, ge=0)
    nodes_per_worker: int = Field(1, ge=1)
    """Nodes over which the tasks of one trial are spread: `gpus_per_worker` are of all of them together, `mem_gib` of each."""
    mem_gib: float | None = Field(None, gt=0)
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
    question: str
    trainer: Trainer
    baseline: Levels
    references: dict[Name, Levels] = {}
    objective: Objective
    guards: list[Guard] = []
    replicates: Replicates = Replicates()
    rungs: list[Annotated[int, Field(ge=1)]] = []
    """Steps before the end at which arms are compared and hopeless ones stop; the trainer must report the objective by then."""
    budget: Budget = Budget()
    alpha: float = Field(0.05, gt=0, lt=0.5)
    executor: Literal["local", "slurm", "inline"] = "local"
    slurm: Slurm = Slurm()
    """With `executor: slurm`."""
    workers: int = Field(2, ge=1, le=1024)
    threads_per_worker: int = Field(1, ge=1, le=1024)
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
        """The last phase, which is in no study file: its arms are the study's baseline and `winner`, what the phases have carried to it."""
        return Phase(name=CONFIRMATION, design="one_at_a_time")

    def phase(self, name: str) -> Phase:
        """The phase of that name, the confirmation among them.

        Raises:
            KeyError: None has it.
        """
        for phase in [*self.phases, self.confirmation]:
            if phase.name == name:
                return phase
        raise KeyError(name)

    def replicates_of(self, phase: Phase) -> Replicates:
        """The phase's own replicates, else the study's."""
        return phase.replicates or self.replicates


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


class Finding(_Strict):
    """What a trainer's preflight says about a configuration before any training."""

    level: Literal["error", "warning", "info"]
    path: str
    what: str
    value: float | str | None = None
    why: str = ""
    mend: str = ""


def nearest(name: str, known: list[str]) -> str:
    """` Did you mean X?` where something is close, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        close = [tails[t] for t in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.7)]
    return f" Did you mean {close[0]}?" if close else ""


Gate.model_rebuild()
