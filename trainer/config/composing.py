"""From presets, overrides and mappings to a checked configuration. The trainer's one door to Hydra."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import threading
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config.checks import ConfigError, bounds, nearest, validate
from trainer.config.fields import TrainerConfig

Section = typing.TypeVar("Section")
PRESETS = Path(__file__).parents[1] / "preset"


def schema(preset: str | None = None) -> TrainerConfig:
    """Defaults of a preset as a typed dataclass: paths, types, bounds and choices of every setting.

    Raises:
        ConfigError: No such preset.
    """
    return _copied(_preset(preset or TrainerConfig().preset))


@functools.cache
def _preset(name: str) -> TrainerConfig:
    """What `compose` gives without overrides, and without Hydra, whose import and composing take .2 s of every command."""
    from omegaconf import OmegaConf

    if name not in presets():
        return compose([f"preset={name}"])  # says what is wrong
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainerConfig), OmegaConf.load(PRESETS / f"{name}.yaml")))
    assert isinstance(config, TrainerConfig)
    validate(config)
    return config


def _copied(section: Section) -> Section:
    """Sections and lists anew; `copy.deepcopy` takes ten times as long."""
    copied = copy.copy(section)
    for f in dataclasses.fields(section):  # type: ignore[arg-type]
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            setattr(copied, f.name, _copied(value))
        elif isinstance(value, list):
            setattr(copied, f.name, list(value))
    return copied


def presets() -> tuple[str, ...]:
    """Names of the presets that ship with the trainer."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


_HYDRA = threading.Lock()  # Hydra's compose goes through one global object


def compose(overrides: Sequence[str]) -> TrainerConfig:
    """Compose `preset=NAME key=value ...` into a checked configuration (Hydra's override grammar, no sweeps; texts as they are).

    Raises:
        ConfigError: Unknown preset or key (nearest name suggested), wrong type, value out of bounds, infeasible shapes.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = leaves(TrainerConfig())
    problems = []
    for override in overrides:
        key = override.split("=", 1)[0].strip().lstrip("+~")
        if "=" not in override:
            problems.append(f"{override}: expected key=value. For example loop.steps=100.")
        elif key == "preset":
            name = override.split("=", 1)[1].strip().strip("'\"")
            if name not in presets():
                problems.append(f"preset: expected one of {', '.join(presets())} but got {name!r}.{nearest(name, presets())}")
        elif key not in known:
            problems.append(f"{key}: no such setting.{nearest(key, known)}")
    if problems:
        raise ConfigError("\n".join(problems))
    with _HYDRA:
        GlobalHydra.instance().clear()
        ConfigStore.instance().store(name="trainer_config", node={"defaults": ["trainer_schema", {"preset": "phantom_cpu"}, "_self_"]})
        ConfigStore.instance().store(name="trainer_schema", node=TrainerConfig)
        try:
            with initialize_config_dir(str(PRESETS.parent), job_name="trainer", version_base="1.3"):
                composed = hydra_compose("trainer_config", overrides=[_quoted(override) for override in overrides])
            config = OmegaConf.to_object(composed)
        except (HydraException, OmegaConfBaseException) as error:
            problems = [problem for override in overrides if (problem := _unfit(_quoted(override)))]
            raise ConfigError("\n".join(problems) or " ".join(f"{error} {error.__cause__ or ''}".split())) from error
    assert isinstance(config, TrainerConfig)
    validate(config)
    return config


_PLAIN = re.compile(r"[\w./+*?@%|:-]*", re.ASCII)
"""What Hydra's grammar reads as it stands."""


def _quoted(override: str) -> str:
    """The override with its value in quotes, where it is a text: a path may hold blanks, brackets, commas and letters beyond ASCII."""
    key, _, value = (part.strip() for part in override.partition("="))
    if _expected(key) not in (str, str | None) or value[:1] in ("'", '"') or _PLAIN.fullmatch(value):
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"{key}='{escaped}'"


def _unfit(override: str) -> str | None:
    """Why a single override cannot be taken, with its mend; None: nothing speaks against it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, text = override.partition("=")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return f"{key}: expected a value but got {text!r}. Write a number, true, false, null, a 'text' or a list as [1,2]."
    if parsed.is_sweep_override():
        return f"{key}: expected one value but got several ({text}). Write a list as [1,2]; several trials are a study's."
    expected, value = _expected(key), parsed.value()
    if expected is None or (expected is bool and str(value).lower() in ("yes", "no", "on", "off", "y", "n", "1", "0")):
        return None
    try:
        coerce(expected, value)
    except TypeError as error:
        return None if expected in (str, str | None) else f"{key}: {error}"
    return None


def _expected(path: str) -> Any:
    """The type of a setting; None where there is none of this name (`+` and `~` belong to Hydra)."""
    try:
        owner, name = _owner(TrainerConfig(), path)
        return _hints(type(owner)).get(name)  # type: ignore[arg-type]  # a class is hashable
    except AttributeError:
        return None


def from_mapping(values: Mapping[str, object]) -> TrainerConfig:
    """Build a checked configuration from nested or dotted keys on top of its preset's defaults.

    Raises:
        ConfigError: Every unknown key, wrong type or value out of bounds, one a line.
    """
    flat = dict(_flatten(values))
    preset = flat.get("preset")
    config = schema(str(preset) if preset else None)
    known = leaves(config)
    problems = []
    for path, value in flat.items():
        if path not in known:
            problems.append(f"{path}: no such setting.{nearest(path, known)}")
            continue
        owner, name = _owner(config, path)
        try:
            setattr(owner, name, coerce(_hints(type(owner))[name], value))  # type: ignore[arg-type]  # a class is hashable
        except TypeError as error:
            problems.append(f"{path}: {error}")
    problems += bounds(config)
    if problems:
        raise ConfigError("\n".join(problems))
    validate(config)
    return config


def to_mapping(config: TrainerConfig) -> dict[str, object]:
    """The whole configuration as nested plain values."""
    return dataclasses.asdict(config)


def leaves(config: object, prefix: str = "") -> dict[str, object]:
    """Dotted path to value of every setting."""
    found: dict[str, object] = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found |= leaves(value, f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = value
    return found


def coerce(expected: Any, value: object) -> object:
    """Value as its declared type; whole numbers pass for floats, nothing else is converted.

    Raises:
        TypeError: Another type; the message says which was expected.
    """
    if typing.get_origin(expected) in (types.UnionType, typing.Union):
        options = typing.get_args(expected)
        if value is None and type(None) in options:
            return None
        return coerce(next(o for o in options if o is not type(None)), value)
    if typing.get_origin(expected) is list:
        if isinstance(value, (list, tuple)):
            return [coerce(typing.get_args(expected)[0], item) for item in value]
        raise TypeError(f"expected a list but got {value!r}.")
    if expected is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if expected is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if expected in (bool, str) and isinstance(value, expected):
        return value
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise TypeError(f"expected {words.get(expected, expected)} but got {value!r}.")


@functools.cache
def _hints(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _owner(config: object, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    for parent in parents:
        config = getattr(config, parent)
    return config, name


def _flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
