"""A trainer that is a command: any program in any environment, as the study file describes it (`execution/command.py` runs it)."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

Scalar = bool | int | float | str | None
Level = Scalar | list[Scalar]
"""A value that a factor takes."""

Arguments = str | list[str]
"""An argument vector: a list, or one text that is split as a shell would split it. No shell ever runs it."""

PLACEHOLDERS = ("config", "directory", "checkpoint", "seed", "python")
"""`{config}` and so on in a command's arguments; other braces are left as they are."""

VIEWED = ("config", "directory", "seed", "step", "python", "folder")
"""The same in `trainer.viewer`, which looks at one trial."""

DIRECTORY = "command"
"""The command's own folder in its attempt: `{directory}`. It is copied into the attempt that goes on."""

SECRET = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:_|$)", re.IGNORECASE)
"""Names of variables whose values are nobody's business."""

Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _inside(path: str) -> str:
    if path.startswith(("/", "~")) or ".." in path.replace("\\", "/").split("/") or not path.strip():
        raise ValueError(f"expected a file inside {{directory}} but got {path!r}. Write its path from there, such as metrics.jsonl.")
    return path


def _final(how: str) -> str:
    if how != "last" and not re.fullmatch(r"mean_[1-9][0-9]{0,5}", how):
        raise ValueError(f"expected last or mean_N (the mean of the last N steps) but got {how!r}. For example mean_5.")
    return how


def _signal(name: str) -> str:
    if name not in signal.Signals.__members__:
        raise ValueError(f"expected the name of a signal but got {name!r}. For example SIGTERM, SIGINT or SIGUSR1.")
    return name


def _check_pattern(pattern: str) -> None:
    try:
        named = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"expected a regular expression but {pattern!r} is none ({error}). Put it into single quotes.") from error
    if not named.keys() - {"step"}:
        example = r"'step (?P<step>\d+) loss (?P<loss>\S+)'"
        raise ValueError(f"expected a named group for each metric but {pattern!r} has none. For example {example}.")


Inside = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, strict=True)


class Flags(_Strict):
    """How settings become flags."""

    equals: bool = False
    """`--a.b=c` in the place of `--a.b c`."""
    booleans: Literal["value", "switch", "negatable"] = "value"
    """`--x true`; `--x` where true and nothing where false; `--x` where true and `--no-x` where false."""


class Metrics(_Strict):
    """Where a command's metrics are found while it runs."""

    file: Inside | None = None
    """JSON lines in the command's directory: names to numbers, flat or nested (a nested name is `outer/inner`)."""
    step: str = "step"
    """The step's key in such a line."""
    pattern: str | list[str] | None = None
    """Matched against each line of the output: the group `step` is the step, every other named group a metric."""

    @field_validator("pattern")
    @classmethod
    def _regular(cls, pattern: str | list[str] | None) -> str | list[str] | None:
        for one in [pattern] if isinstance(pattern, str) else pattern or []:
            _check_pattern(one)
        return pattern

    @model_validator(mode="after")
    def _one_source(self) -> Metrics:
        if (self.file is None) == (self.pattern is None):
            raise ValueError("expected one of file and pattern. Name the JSON-lines file, or the pattern of its lines of output.")
        return self

    @property
    def patterns(self) -> list[str]:
        """The patterns as a list."""
        return [self.pattern] if isinstance(self.pattern, str) else list(self.pattern or [])


class Checkpoint(_Strict):
    """How a command goes on where an earlier attempt left a checkpoint."""

    file: Inside
    """Its path in the command's directory; with `*` the newest that matches."""
    argument: Arguments
    """Added to the command where the file is there; `{checkpoint}` is its path."""


class Stop(_Strict):
    """How a running command is asked to save a checkpoint and end; after the wait it is killed with all that it started."""

    signal: Annotated[str, AfterValidator(_signal)] = "SIGTERM"
    """The signal that asks."""
    wait_s: float = Field(15.0, ge=0, le=3600)
    """Seconds before it is killed."""
    to: Literal["command", "all"] = "command"
    """Who gets the signal: the command's own process, or it and all that it started."""


class Limits(_Strict):
    """Beyond these a command is ended: it writes garbage, or for ever. The controller would end the whole worker soon after."""

    output_mib: float = Field(128.0, gt=0, le=256)
    """Of its output, in MiB."""
    metrics_mib: float = Field(128.0, gt=0, le=256)
    """Of its file of metrics, in MiB."""


class DataVersion(_Strict):
    """A name for the data in the place of its hash."""

    version: str = Field(min_length=1)
    """The name."""


class Command(_Strict):
    """A program, how it gets its settings, where it leaves its metrics, how it stops and goes on.

    Paths are from `cwd`, and `cwd` is from the folder in which `ablate` is called.
    """

    command: Arguments | None = None
    """The program's arguments. `{config}`, `{directory}`, `{checkpoint}`, `{seed}` and `{python}` are filled in; no shell runs it."""
    cwd: str = "."
    """Where it runs, from the folder of the call; none: there."""
    environment: dict[Variable, str | int | float] = {}
    """Variables on top of those that a worker has. Secrets have no place here: the program inherits what is exported."""
    config: Literal["hydra", "flags", "yaml", "json"] = "flags"
    """Overrides `a.b=c`; flags `--a.b c`; or a file whose path replaces `{config}`."""
    flags: Flags = Flags()
    """How settings become flags, with `config: flags`."""
    base: dict[str, object] | str | None = None
    """The settings that arms change: values, or the program's own YAML or JSON file. A loaded study has the file's values here."""
    hand_over: Literal["all", "changed"] | None = None
    """Whether overrides and flags hand over every setting or what differs from `base`; none: all of values, what differs from a file."""
    seed_key: str = "seed"
    """The setting that holds the replicate's seed. Where the command line says `{seed}`, overrides and flags do not repeat it."""
    metrics: Metrics | None = None
    """Where its metrics are found."""
    rename: dict[str, str] = {}
    """The program's name of a metric to the study's."""
    final: Annotated[str, AfterValidator(_final)] = "last"
    """A trial's metric: its last value, or the mean of its last N."""
    result: Inside | None = None
    """A JSON file of final metrics in the command's directory; they stand over what `final` says."""
    checkpoint: Checkpoint | None = None
    """How it goes on after an interruption; none: from the start."""
    stop: Stop = Stop()
    """How it is asked to end."""
    limits: Limits = Limits()
    """How much it may write."""
    code: list[str] = []
    """Files and folders that decide what is trained; none: the script that the command names and the versioned sources of its folder."""
    data: str | list[str] | DataVersion = []
    """Files and folders that are trained on, or `{version: NAME}`."""

    @property
    def arguments(self) -> list[str]:
        """The command as a list, placeholders as they are."""
        return vector(self.command or [])


COMMAND_OUTCOME = (
    "command", "environment", "config", "flags", "hand_over", "metrics", "rename", "final", "result",
)  # fmt: skip
"""What decides a trial's result beside its config and sources; how it is stopped and goes on does not."""


def vector(arguments: Arguments) -> list[str]:
    """An argument vector as a list.

    Raises:
        ValueError: A quote is open.
    """
    return shlex.split(arguments) if isinstance(arguments, str) else list(arguments)


def filled(argument: str, values: Mapping[str, str]) -> str:
    """An argument with the placeholders that have a value replaced, each once; what is put in is not looked at again."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), argument)
