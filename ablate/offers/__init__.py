"""What the study's trainer offers beside its callable (DESIGN section 4), called by name and never imported by the platform.

An offer's argument is what the schema's module makes of a config by its `from_mapping`, or without one the nested plain values.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from ablate.command import DIRECTORY, Command
from ablate.errors import TrainerError
from ablate.offers import program, sources
from ablate.offers.child import Child, broke, imported
from ablate.offers.setting import SettingType, setting_types
from ablate.offers.sources import callable_problem
from ablate.study import Finding, Level, Levels, Trainer, nearest
from ablate.trial import flatten, merge, signature_of, write_atomic

__all__ = ["OFFERED", "Config", "Offers", "SettingType", "callable_problem"]

OFFERED = ("inert", "preflight", "data_hash", "expected_seconds", "headlines", "export")
"""The optional offers; a study names them, or the schema's module does in its mapping `OFFERS`."""

Config = dict[str, object]
"""A nested config of plain values."""


class Offers:
    """The study's trainer, seen from the platform."""

    def __init__(self, trainer: Trainer) -> None:
        """Find the trainer and import its schema.

        Raises:
            TrainerError: The schema cannot be imported, or is not a dataclass.
        """
        self.trainer = trainer
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
        self._schema = imported(trainer.schema_, "trainer.schema") if trainer.schema_ else None
        module = sys.modules.get(trainer.schema_.partition(":")[0]) if trainer.schema_ else None
        self._from_mapping = getattr(module, "from_mapping", None)
        offered = getattr(module, "OFFERS", {})
        self._names = {name: getattr(trainer, name) or offered.get(name) for name in OFFERED}
        self._identities: dict[str, tuple[str, ...]] = {}
        self._data_hashes: dict[str, str] = {}
        self._child: Child | None = None

    @property
    def schema_module(self) -> str:
        """Where the settings are known from, as problems name it: the schema's module, or a command's base."""
        if self.trainer.command is not None:
            return "trainer.base"
        return (self.trainer.schema_ or "").partition(":")[0]

    def base(self) -> Config:
        """The config before any level: the preset's values, or a command's base, with `trainer.set` merged in.

        Raises:
            TrainerError: The schema does not know the preset.
        """
        return merge(self._base, {})

    def setting_types(self) -> Mapping[str, SettingType] | None:
        """Dotted path to what each setting takes; none without a schema, or a command's base."""
        return self._types if self._schema or program.base_of(self.trainer) is not None else None

    def command(self) -> dict[str, object] | None:
        """What a worker must know of a trainer that is a command; none of a callable."""
        return self._command

    def problems(self, config: Mapping[str, object]) -> list[str]:
        """What is wrong with a whole config, one line each; settings that only clash together included."""
        types_ = self.setting_types()
        if types_ is None:
            return []
        found = {}
        for path, value in flatten(config):
            if path not in types_:
                found[path] = f"{path}: no such setting in {self.schema_module}.{nearest(path, list(types_))}"
            elif (problem := types_[path].problem(value)) is not None:
                found[path] = f"{path}: {problem}"
        lines = list(found.values())
        if self._from_mapping is not None:
            try:
                self._from_mapping(config)
            except ValueError as error:
                lines += [line for line in str(error).splitlines() if line.partition(":")[0] not in found]
            except Exception as error:
                if not lines:
                    raise TrainerError(broke(f"{self.schema_module}:from_mapping", error)) from error
        return lines

    def config(self, levels: Mapping[str, Level], replicate: int) -> Config:
        """The whole config of a trial: base, levels at their paths, the replicate's seed."""
        changes = {**levels, self.trainer.seed_key: replicate}
        return self._coerced(merge(self._base, changes), of=merge({}, changes))

    def inert(self, config: Mapping[str, object]) -> tuple[str, ...]:
        """Settings without effect under the others; the seed does not matter to it."""
        name = self._names["inert"]
        if name is None:
            return ()
        key = json.dumps(self._without_seed(config), sort_keys=True)
        if key not in self._identities:
            self._identities[key] = tuple(self._call(name, config))
        return self._identities[key]

    def neutral(self, config: Mapping[str, object]) -> Config:
        """Inert path to the value put in its place before hashing: the schema's own default, whatever the preset."""
        return {path: self._defaults.get(path) for path in self.inert(config)}

    def identity(self, levels: Levels) -> str:
        """Equal for two assignments of levels that train the same network; levels that cannot be trained equal themselves alone."""
        config = self.config(levels, 0)
        return signature_of(config, {} if self.problems(config) else self.neutral(config), "", "")

    def expected_seconds(self, config: Mapping[str, object]) -> float | None:
        """Seconds one trial takes by the trainer's own account; for planning only."""
        name = self._names["expected_seconds"]
        return None if name is None else typing.cast("float | None", self._call(name, config))

    def headlines(self) -> Mapping[str, list[object]]:
        """The columns and questions of reports, where the trainer names them."""
        name = self._names["headlines"]
        return {} if name is None else typing.cast("Mapping[str, list[object]]", self._call(name))

    def code_version(self) -> str:
        """Hash of the trainer's sources: every *.py and *.yaml of the callable's top-level package, by relative path and
        content, tests left out; equal on every machine that holds the same files. A command's: `program.code_version`."""
        return self._code_version

    def data_hash(self, config: Mapping[str, object], *, like: Mapping[str, object] | None = None, timeout_s: float = 600.0) -> str:
        """Hash of the data that a config reads, computed in its own process; empty where the trainer offers none.

        Args:
            like: A config whose hash holds for every other that names the same files: what lies outside files stands in the config itself.

        Raises:
            TrainerError: The offer failed; with the end of what it printed.
        """
        if self.trainer.command is not None:
            return self._program_data
        name = self._names["data_hash"]
        if name is None:
            return ""
        plain = self._without_seed(config if like is None or self._texts(config) != self._texts(like) else like)
        key = json.dumps(plain, sort_keys=True)
        if key not in self._data_hashes:
            self._data_hashes[key] = str(self._asked(name, [plain], timeout_s)[0])
        return self._data_hashes[key]

    def preflight(self, configs: Sequence[Mapping[str, object]], root: Path, *, timeout_s: float = 600.0) -> list[list[Finding]]:
        """What the trainer says about each config before any training, from one process for all of them.

        Args:
            root: The `runs` folder; findings are kept in `root/preflight` by config (the seed left out), code and data.

        Raises:
            TrainerError: The offer failed; with the end of what it printed.
        """
        name = self._names["preflight"]
        if name is None or not configs:
            return [[] for _ in configs]
        plain = [self._without_seed(config) for config in configs]
        files = self._kept(name, plain, root)
        found = {file: _read_findings(file) for file in files}
        missing = {file: config for file, config in zip(files, plain, strict=True) if found[file] is None}
        if missing:
            answers = self._asked(name, list(missing.values()), timeout_s)
            (root / "preflight").mkdir(parents=True, exist_ok=True)
            for file, answer in zip(missing, answers, strict=True):
                found[file] = _findings(answer, name)
                write_atomic(file, json.dumps(answer))
        return [found[file] or [] for file in files]

    def export(self, run: Path, folder: Path, *, timeout_s: float = 600.0) -> Path:
        """The file into which the trainer exports the model of a run, in its own process.

        The offer is called with `{"run": ..., "folder": ...}`, both folders, writes one file into the second and returns its name.
        Without one, a command's checkpoint is the file.

        Raises:
            TrainerError: The trainer offers none, or it failed.
        """
        name = self._names["export"]
        if name is None:
            checkpoint = self.trainer.checkpoint
            found = sorted((run / DIRECTORY).glob(checkpoint.file), key=lambda path: path.stat().st_mtime) if checkpoint else []
            if not found:
                raise TrainerError(
                    f"{run}: expected a model to export but the trainer offers none. Name trainer.export: package.module:callable."
                )
            return found[-1]
        with Child() as once:
            written = once.call(name, None, [{"run": str(run.absolute()), "folder": str(folder)}], timeout_s)[0]
        file = folder / Path(str(written)).name
        if not file.is_file():
            raise TrainerError(
                f"{name}: expected a file in {folder} but it returned {written!r}. Return the name of the file that it wrote."
            )
        return file

    @contextlib.contextmanager
    def kept_ready(self) -> Iterator[None]:
        """Inside, all offers that need a process share one, whose imports take longer than most answers."""
        with Child() as self._child:
            try:
                yield
            finally:
                self._child = None

    def _asked(self, name: str, configs: Sequence[Mapping[str, object]], timeout_s: float) -> list[object]:
        if self._child is not None:
            return self._child.call(name, self._reader, configs, timeout_s)
        with Child() as once:
            return once.call(name, self._reader, configs, timeout_s)

    def _kept(self, name: str, plain: Sequence[Mapping[str, object]], root: Path) -> list[Path]:
        """Where the findings of each config are kept."""
        code, data = self.code_version(), [self.data_hash(config, like=plain[0]) for config in plain]
        signatures = [signature_of(c, self.neutral(c), code, f"{read} {name}") for c, read in zip(plain, data, strict=True)]
        return [root / "preflight" / f"{signature}.json" for signature in signatures]

    @property
    def _reader(self) -> str | None:
        """The module whose `from_mapping` makes the argument of the trainer's offers."""
        return self.schema_module if self._from_mapping is not None else None

    @functools.cached_property
    def _preset(self) -> object:
        """The schema's dataclass with the preset's values."""
        assert self._schema is not None
        preset = self.trainer.preset
        arguments = [preset] if preset is not None else []
        if arguments and not inspect.isclass(self._schema) and not inspect.signature(self._schema).parameters:
            raise TrainerError(f"trainer.preset: {self.trainer.schema_} takes no preset but got {preset!r}. Leave trainer.preset out.")
        try:
            instance = self._schema(*arguments)
        except ValueError as error:
            raise TrainerError(f"trainer.preset: {str(error).removeprefix('preset: ')}") from error
        except Exception as error:
            raise TrainerError(broke(self.trainer.schema_ or "", error)) from error
        if not dataclasses.is_dataclass(instance) or isinstance(instance, type):
            raise TrainerError(f"trainer.schema: expected {self.trainer.schema_} to give a dataclass but got {type(instance).__name__}.")
        return instance

    @functools.cached_property
    def _base(self) -> Config:
        values: Config = dict(_plain_values(self._preset)) if self._schema else {}
        if not self._schema and self.trainer.preset is not None:
            values["preset"] = self.trainer.preset
        values |= program.base_of(self.trainer) or {}
        return self._coerced(merge(values, self.trainer.set))

    @functools.cached_property
    def _types(self) -> dict[str, SettingType]:
        base = program.base_of(self.trainer)
        return dict(setting_types(self._preset)) if base is None else program.setting_types(base, self.trainer.seed_key)

    @functools.cached_property
    def _command(self) -> dict[str, object] | None:
        if self.trainer.command is None:
            return None
        fields = set(Command.model_fields) - (set() if self.trainer.hand_over == "changed" else {"base"})
        return self.trainer.model_dump(mode="json", include=fields)

    @functools.cached_property
    def _program_data(self) -> str:
        return program.data_hash(self.trainer)

    @functools.cached_property
    def _defaults(self) -> dict[str, object]:
        """Dotted path to the schema's default without a preset."""
        return {} if self._schema is None else dict(flatten(_plain_values(self._schema())))

    @functools.cached_property
    def _code_version(self) -> str:
        if self.trainer.callable is None:
            return program.code_version(self.trainer)
        return sources.version(self.trainer.callable.partition(":")[0])

    def _coerced(self, config: Config, of: Config | None = None) -> Config:
        """Values as the trainer reads them, of these paths only (none: of all)."""
        types_ = self.setting_types()
        if types_ is None:
            return config
        given = flatten(config if of is None else of)
        return merge(config, {path: types_[path].coerce(value) for path, value in given if path in types_})

    def _without_seed(self, config: Mapping[str, object]) -> Config:
        return merge(config, {self.trainer.seed_key: 0})

    def _texts(self, config: Mapping[str, object]) -> dict[str, object]:
        """Settings whose value is a text of the user's own, so that it may name a file: not one of the schema's choices."""
        known = self.setting_types() or {}

        def own(path: str, value: object) -> bool:
            words = value if isinstance(value, list) else [value]
            return any(isinstance(word, str) for word in words) and not (path in known and known[path].choices)

        return {path: value for path, value in flatten(config) if own(path, value)}

    def _call(self, name: str, *configs: Mapping[str, object]) -> typing.Any:
        """An offer of the trainer; it gets the schema's own type where the schema's module has `from_mapping`."""
        try:
            return imported(name, "trainer")(*(self._from_mapping(c) if self._from_mapping else c for c in configs))
        except TrainerError:
            raise
        except Exception as error:
            raise TrainerError(broke(name, error)) from error


def _plain_values(instance: object) -> dict[str, object]:
    return dataclasses.asdict(typing.cast(typing.Any, instance))


def _read_findings(file: Path) -> list[Finding] | None:
    try:
        return _findings(json.loads(file.read_text()), file.name)
    except (OSError, ValueError, TrainerError):
        return None


def _findings(answer: object, name: str) -> list[Finding]:
    try:
        return [Finding.model_validate(one) for one in typing.cast("list[object]", answer)]
    except (ValidationError, TypeError) as error:
        raise TrainerError(f"{name}: expected findings with level, path and what but got {str(answer)[:200]}.") from error
