"""The trainer's settings as typed dataclasses: every cure is a field here. No torch; the trainer's one door to Hydra.

Each field may carry metadata that any reader of the schema understands:
``choices`` (allowed values), ``at_least`` / ``at_most`` (inclusive bounds), ``help`` (one sentence, with its unit).
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import threading
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRESETS = Path(__file__).parent / "preset"

OFFERS = {
    "inert": "trainer.config:inert",
    "preflight": "trainer.preflight:preflight",
    "data_hash": "trainer.data:data_hash",
    "expected_seconds": "trainer.config:expected_seconds",
    "headlines": "trainer.config:headlines",
}
"""What this trainer offers beside its schema, by name; a study may name others."""


class ConfigError(ValueError):
    """Settings that cannot be trained with; the message lists every problem with its mend."""


def _field(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class Phantom:
    """The procedural torso CT that stands in for data (``data.source=phantom``)."""

    family: str = _field("torso", "Body shape family.", choices=("torso", "stocky"))
    scans: int = _field(24, "Number of scans.", at_least=3, at_most=100_000)
    size_voxels: int = _field(80, "Edge of the cubic volume in voxels.", at_least=24, at_most=1024)
    spacing_mm: float = _field(5.0, "Edge of a voxel in mm.", at_least=0.1, at_most=20.0)
    noise_hu: float = _field(15.0, "Standard deviation of the noise inside the body, in HU.", at_least=0.0, at_most=500.0)
    air_noise_hu: float = _field(15.0, "Standard deviation of the noise in air, in HU.", at_least=0.0, at_most=500.0)
    seed: int = _field(0, "Seed of the scans; never the replicate's seed.", at_least=0)


@dataclass
class Data:
    """Where scans come from and how they are split. Scans, never crops, are split."""

    source: str = _field("phantom", "`phantom`, or a folder or glob of NIfTI, NRRD, MHA volumes or DICOM series.")
    phantom: Phantom = field(default_factory=Phantom)
    labels: str | None = _field(None, "Folder with `<scan>_*.nii.gz` label volumes; none: no labels.")
    spacing_mm: float | None = _field(
        None, "Resample to this isotropic spacing in mm; none keeps the native one.", at_least=0.1, at_most=20.0
    )
    cache_dir: str | None = _field(None, "Folder for memory-mapped int16 volumes; none: the user's temporary folder.")
    skip_unreadable: bool = _field(False, "Leave unreadable scans out (listed) instead of failing.")
    select_share: float = _field(0.25, "Share of scans for probes that gates and tuning read.", at_least=0.0, at_most=0.5)
    test_share: float = _field(0.25, "Share of scans kept for the final comparison.", at_least=0.0, at_most=0.5)
    rotate_split_below: int = _field(12, "With fewer scans than this the split rotates over replicates.", at_least=0)
    window_low_hu: float = _field(-400.0, "Lower end of the intensity window in HU; maps to -1.", at_least=-2000.0, at_most=4000.0)
    window_high_hu: float = _field(400.0, "Upper end of the intensity window in HU; maps to 1.", at_least=-2000.0, at_most=4000.0)


@dataclass
class Crops:
    """Two global and several local crops a scan, and which of them may show only air."""

    global_size_voxels: int = _field(32, "Edge of a global crop in voxels.", at_least=4, at_most=512)
    local_size_voxels: int = _field(16, "Edge of a local crop in voxels.", at_least=2, at_most=512)
    local_crops: int = _field(2, "Local crops a scan and step.", at_least=0, at_most=32)
    foreground: str = _field("threshold", "What counts as foreground.", choices=("threshold", "body"))
    foreground_threshold: float = _field(-500.0, "Voxels above this are foreground, in HU.", at_least=-1100.0, at_most=4000.0)
    foreground_crop_prob: float = _field(0.0, "Probability that a crop's foreground ratio must hold.", at_least=0.0, at_most=1.0)
    min_foreground_ratio: float = _field(0.3, "Least share of foreground voxels in such a crop.", at_least=0.0, at_most=1.0)
    min_foreground_ratio_global: float | None = _field(
        None, "The same for global crops; none: min_foreground_ratio.", at_least=0.0, at_most=1.0
    )
    min_foreground_ratio_local: float | None = _field(
        None, "The same for local crops; none: min_foreground_ratio.", at_least=0.0, at_most=1.0
    )
    localcrops_subset_of_globalcrops: bool = _field(False, "Local crops lie inside one of the two global crops, on its patch grid.")
    min_global_overlap: float = _field(0.0, "Least IoU of the two global crops; 0: independent.", at_least=0.0, at_most=1.0)


@dataclass
class Augment:
    """Intensity changes of each view, in the window's unit (its full width is 2)."""

    intensity_shift: float = _field(0.02, "Standard deviation of the additive shift.", at_least=0.0, at_most=2.0)
    intensity_scale: float = _field(0.1, "Standard deviation of the multiplicative change.", at_least=0.0, at_most=1.0)
    noise: float = _field(0.0, "Standard deviation of added noise.", at_least=0.0, at_most=2.0)
    flip: bool = _field(False, "Flip each axis with probability one half.")


@dataclass
class Model:
    """3-D vision transformer and DINO head."""

    patch_size_voxels: int = _field(8, "Edge of a patch in voxels.", at_least=1, at_most=64)
    dim: int = _field(96, "Width.", at_least=12, at_most=4096)
    depth: int = _field(2, "Blocks.", at_least=1, at_most=64)
    heads: int = _field(4, "Attention heads.", at_least=1, at_most=64)
    mlp_ratio: float = _field(4.0, "Hidden width of a block's MLP over dim.", at_least=0.5, at_most=16.0)
    registers: int = _field(0, "Register tokens.", at_least=0, at_most=64)
    positions: str = _field("rotary", "Positions that fit both crop sizes.", choices=("rotary", "learned"))
    pooling: str = _field("mean", "Image feature.", choices=("cls", "mean"))
    layer_scale: float | None = _field(
        None, "Initial LayerScale; none: off. 1e-5 makes all features equal at the start.", at_least=0.0, at_most=1.0
    )
    feature_norm: str = _field("batch", "Normalisation of features before the head.", choices=("none", "batch"))
    head_hidden: int = _field(256, "Hidden width of the head.", at_least=8, at_most=8192)
    head_layers: int = _field(3, "Layers of the head's MLP.", at_least=1, at_most=6)
    bottleneck: int = _field(64, "L2-normalised bottleneck.", at_least=2, at_most=4096)
    prototypes: int = _field(64, "K, the number of prototypes.", at_least=2, at_most=1_048_576)
    head_init: str = _field("orthogonal", "Initial weights of the head.", choices=("orthogonal", "normal"))
    weight_norm: bool = _field(True, "Prototypes of unit norm.")


@dataclass
class Loss:
    """DINO loss over (teacher, student) view pairs."""

    centering: str = _field("sinkhorn", "How the teacher's assignments are balanced.", choices=("sinkhorn", "softmax"))
    sinkhorn_iterations: int = _field(3, "Sinkhorn-Knopp iterations.", at_least=1, at_most=100)
    center_momentum: float = _field(0.9, "Momentum of the softmax centre.", at_least=0.0, at_most=1.0)
    student_temperature: float = _field(0.1, "Student softmax temperature.", at_least=0.001, at_most=10.0)
    teacher_temperature_start: float = _field(0.02, "Teacher temperature at step 0.", at_least=0.001, at_most=10.0)
    teacher_temperature: float = _field(0.02, "Teacher temperature after its warm-up.", at_least=0.001, at_most=10.0)
    teacher_temperature_warmup_steps: int = _field(0, "Steps of linear warm-up of the teacher temperature.", at_least=0)
    foreground_weighting: str = _field(
        "none", "Weight of a pair by its foreground.", choices=("none", "linear", "sqrt", "squared", "threshold", "sigmoid")
    )
    foreground_weighting_scope: str = _field("pair", "`batch_mean` is the plain loss times mean ratio.", choices=("pair", "batch_mean"))
    weighting_threshold: float = _field(0.3, "Ratio at which `threshold` steps and `sigmoid` is one half.", at_least=0.0, at_most=1.0)
    weighting_width: float = _field(0.1, "Width of `sigmoid` in ratio.", at_least=0.001, at_most=1.0)
    matching: str = _field(
        "all_pairs",
        "Which view pairs are compared.",
        choices=("all_pairs", "own_global", "hierarchical", "foreground_only", "background_prototype"),
    )
    matching_threshold: float = _field(
        0.3, "Least foreground ratio of a crop that `matching` treats as foreground.", at_least=0.0, at_most=1.0
    )
    local_pair_min_iou: float = _field(0.0, "Least IoU of two local crops that `hierarchical` pairs.", at_least=0.0, at_most=1.0)
    koleo_weight: float = _field(0.0, "Weight of the KoLeo regulariser on student global features.", at_least=0.0, at_most=10.0)


@dataclass
class Loop:
    """Optimisation, schedules, checkpoints."""

    steps: int = _field(120, "Optimizer steps; 0 measures the untrained network.", at_least=0)
    batch_size: int = _field(24, "Scans a step (each gives all its crops).", at_least=1, at_most=65536)
    lr: float = _field(2e-3, "Peak learning rate.", at_least=0.0, at_most=10.0)
    lr_end: float = _field(1e-6, "Final learning rate.", at_least=0.0, at_most=10.0)
    warmup_steps: int = _field(10, "Steps of linear learning-rate warm-up.", at_least=0)
    weight_decay: float = _field(0.04, "Weight decay at the start.", at_least=0.0, at_most=10.0)
    weight_decay_end: float = _field(0.04, "Weight decay at the end (cosine).", at_least=0.0, at_most=10.0)
    ema: float = _field(0.99, "Teacher momentum at the start (cosine to ema_end).", at_least=0.0, at_most=1.0)
    ema_end: float = _field(1.0, "Teacher momentum at the end.", at_least=0.0, at_most=1.0)
    clip_norm: float = _field(3.0, "Gradient norm clip; 0: off.", at_least=0.0)
    freeze_last_layer_steps: int = _field(0, "Steps with a frozen prototype layer.", at_least=0)
    precision: str = _field("float32", "Arithmetic on CUDA; CPU is always float32.", choices=("float32", "bf16", "fp16"))
    device: str = _field("auto", "Where to train.", choices=("auto", "cpu", "cuda"))
    checkpoint_every_steps: int = _field(20, "Steps between checkpoints; 0: only at the end.", at_least=0)
    stop_on_collapse: bool = _field(False, "End a trial whose collapse is certain (rule in trainer.measure.collapse).")


@dataclass
class Measure:
    """The yardstick. Fixed for all arms: a study may not vary any of it."""

    every_steps: int = _field(5, "Steps between `train/` measures.", at_least=1)
    rungs: list[float] = field(
        default_factory=lambda: [0.5], metadata={"help": "Shares of `loop.steps` at which `probe/` is measured, beside the end."}
    )
    split: str = _field("select", "Which held-out scans the probes read.", choices=("select", "test"))
    temperature: float = _field(0.1, "Softmax temperature of every prototype measure.", at_least=0.001, at_most=10.0)
    foreground_threshold: float = _field(
        -500.0, "Body mask threshold in HU (largest component, holes filled).", at_least=-1100.0, at_most=4000.0
    )
    rich_ratio: float = _field(0.5, "Least body share of a foreground-rich probe crop.", at_least=0.0, at_most=1.0)
    background_ratio: float = _field(0.05, "Greatest body share of a background probe crop.", at_least=0.0, at_most=1.0)
    crops_per_scan: int = _field(32, "Foreground-rich probe crops a held-out scan.", at_least=4, at_most=4096)
    background_crops_per_scan: int = _field(8, "Background probe crops a held-out scan.", at_least=0, at_most=4096)
    seed: int = _field(20_000, "Seed of the probe crops.", at_least=0)
    record_crops: bool = _field(True, "Write crops.parquet and the gallery.")


@dataclass
class TrainerConfig:
    """Everything a trial of the built-in DINO-3D trainer depends on."""

    preset: str = "phantom_cpu"
    seed: int = _field(0, "The replicate: initial weights, split rotation and all random streams.", at_least=0)
    expected_trial_s: float | None = _field(
        None, "Measured seconds of one trial, two at a time on 2 CPU cores; for planning only.", at_least=0.0
    )
    data: Data = field(default_factory=Data)
    crops: Crops = field(default_factory=Crops)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    loop: Loop = field(default_factory=Loop)
    measure: Measure = field(default_factory=Measure)


def ratio_global(crops: Crops) -> float:
    """Least foreground share of a constrained global crop."""
    return crops.min_foreground_ratio if crops.min_foreground_ratio_global is None else crops.min_foreground_ratio_global


def ratio_local(crops: Crops) -> float:
    """Least foreground share of a constrained local crop."""
    return crops.min_foreground_ratio if crops.min_foreground_ratio_local is None else crops.min_foreground_ratio_local


def expected_seconds(config: TrainerConfig) -> float | None:
    """Seconds one trial takes, where the preset states a measurement; scaled by its steps."""
    if config.expected_trial_s is None:
        return None
    reference = schema(config.preset).loop.steps
    return config.expected_trial_s * (0.2 + 0.8 * config.loop.steps / max(reference, 1))


def headlines() -> dict[str, list[object]]:
    """What tables and reports of a study of this trainer show: columns, and the questions that the cures promised to answer."""

    def question(ask: str, metric: str, direction: str) -> dict[str, str]:
        return {"ask": ask, "metric": metric, "direction": direction}

    return {
        "columns": [
            "probe/prototype_entropy_foreground",
            "probe/foreground_mutual_information",
            "train/loss_stability",
            "train/foreground_ratio_global",
            "train/foreground_ratio_local",
        ],
        "questions": [
            question("Are the prototypes less uniform?", "probe/prototype_entropy_foreground", "minimize"),
            question(
                "Does the loss fall more steadily? (a collapsed run's flat line counts as steady)", "train/loss_stability", "maximize"
            ),
            question("Is it anatomy that is learned, not body against air?", "probe/anatomy_information", "maximize"),
            question("Are the features more discriminative?", "probe/local_to_global_mrr", "maximize"),
        ],
    }


def inert(config: TrainerConfig) -> tuple[str, ...]:
    """Settings without effect on training or on `probe/` measures under the other settings.

    Two configurations that differ only in inert settings train the same network.
    """
    crops, loss, loop = config.crops, config.loss, config.loop
    quiet: list[str] = ["expected_trial_s", "preset", "data.cache_dir"]
    weighted = loss.foreground_weighting != "none"
    matched = loss.matching in ("hierarchical", "foreground_only", "background_prototype")
    biased = crops.foreground_crop_prob > 0
    if not biased:
        quiet += ["crops.min_foreground_ratio", "crops.min_foreground_ratio_global", "crops.min_foreground_ratio_local"]
    elif crops.min_foreground_ratio_global is not None and crops.min_foreground_ratio_local is not None:
        quiet += ["crops.min_foreground_ratio"]
    if not (weighted or matched or biased):
        quiet += ["crops.foreground_threshold", "crops.foreground"]
    if not weighted:
        quiet += ["loss.foreground_weighting_scope"]
    if loss.foreground_weighting not in ("threshold", "sigmoid"):
        quiet += ["loss.weighting_threshold"]
    if loss.foreground_weighting != "sigmoid":
        quiet += ["loss.weighting_width"]
    if not matched:
        quiet += ["loss.matching_threshold"]
    if loss.matching != "hierarchical":
        quiet += ["loss.local_pair_min_iou"]
    if loss.centering == "sinkhorn":
        quiet += ["loss.center_momentum"]
    else:
        quiet += ["loss.sinkhorn_iterations"]
    if loss.teacher_temperature_warmup_steps == 0:
        quiet += ["loss.teacher_temperature_start"]
    if config.data.source == "phantom":
        quiet += ["data.labels", "data.spacing_mm", "data.skip_unreadable"]
    else:
        quiet += [f"data.phantom.{f.name}" for f in dataclasses.fields(Phantom)]
    if loop.steps == 0:
        # An untrained network reads only its initial weights, its normalisation statistics and the yardstick.
        quiet += [f"loss.{f.name}" for f in dataclasses.fields(Loss)]
        quiet += [f"loop.{f.name}" for f in dataclasses.fields(Loop) if f.name not in ("steps", "batch_size", "device", "precision")]
    return tuple(dict.fromkeys(quiet))


def schema(preset: str | None = None) -> TrainerConfig:
    """Defaults of a preset as a typed dataclass: paths, types, bounds and choices of every setting.

    Raises:
        ConfigError: No such preset.
    """
    return copy.deepcopy(_composed(preset))


@functools.cache
def _composed(preset: str | None) -> TrainerConfig:
    """Composing takes 50 ms, and a study asks for its preset once an arm."""
    return compose([f"preset={preset}"] if preset else [])


def presets() -> tuple[str, ...]:
    """Names of the presets that ship with the trainer."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


_HYDRA = threading.Lock()  # Hydra's compose goes through one global object


def compose(overrides: Sequence[str]) -> TrainerConfig:
    """Compose `preset=NAME key=value ...` into a checked configuration (Hydra's override grammar, no sweeps).

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
                composed = hydra_compose("trainer_config", overrides=list(overrides))
            config = OmegaConf.to_object(composed)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(" ".join(f"{error} {error.__cause__ or ''}".split())) from error
    assert isinstance(config, TrainerConfig)
    validate(config)
    return config


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
    problems += _bounds(config)
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


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """` Did you mean X?` where something is close, else nothing."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        tails = {n.rsplit(".", 1)[-1]: n for n in names}
        close = [tails[t] for t in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.7)]
    return f" Did you mean {close[0]}?" if close else ""


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


def validate(config: TrainerConfig) -> None:
    """Check bounds, choices and the shapes that only fit together.

    Raises:
        ConfigError: Every problem, one a line, with its mend.
    """
    problems = _bounds(config)
    m, c, d, loop = config.model, config.crops, config.data, config.loop
    for name in ("global_size_voxels", "local_size_voxels"):
        if getattr(c, name) % m.patch_size_voxels:
            problems.append(
                f"crops.{name}: expected a multiple of model.patch_size_voxels={m.patch_size_voxels} but got {getattr(c, name)}."
            )
    if c.local_size_voxels > c.global_size_voxels:
        problems.append(
            f"crops.local_size_voxels: expected at most crops.global_size_voxels={c.global_size_voxels} but got {c.local_size_voxels}."
        )
    if m.dim % m.heads:
        problems.append(f"model.dim: expected a multiple of model.heads={m.heads} but got {m.dim}.")
    elif m.positions == "rotary" and (m.dim // m.heads) % 6:
        problems.append(
            f"model.dim: rotary positions on 3 axes need dim / heads to be a multiple of 6 but got {m.dim} / {m.heads}. "
            "Set model.positions=learned or change dim."
        )
    if d.window_low_hu >= d.window_high_hu:
        problems.append(f"data.window_low_hu: expected less than data.window_high_hu={d.window_high_hu} but got {d.window_low_hu}.")
    if d.source == "phantom" and d.phantom.size_voxels < c.global_size_voxels:
        problems.append(
            f"data.phantom.size_voxels: a scan of {d.phantom.size_voxels} voxels is smaller than a global crop of {c.global_size_voxels}. "
            "Make the scan larger or crops.global_size_voxels smaller."
        )
    if d.select_share + d.test_share > 0.8:
        problems.append(
            f"data.select_share: select and test together may take at most 0.8 of the scans but take {d.select_share + d.test_share}."
        )
    if loop.steps and loop.warmup_steps >= loop.steps:
        problems.append(f"loop.warmup_steps: expected fewer than loop.steps={loop.steps} but got {loop.warmup_steps}.")
    if config.loss.matching == "hierarchical" and c.local_crops < 2:
        problems.append("loss.matching: hierarchical pairs local crops with each other and needs crops.local_crops of at least 2.")
    if any(not 0 < share < 1 for share in config.measure.rungs):
        problems.append(f"measure.rungs: expected shares between 0 and 1 (exclusive) but got {config.measure.rungs}.")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _bounds(config: object, prefix: str = "") -> list[str]:
    problems = []
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value, path, meta = getattr(config, f.name), prefix + f.name, f.metadata
        if dataclasses.is_dataclass(value):
            problems += _bounds(value, path + ".")
            continue
        if value is None:
            continue
        if "choices" in meta and value not in meta["choices"]:
            problems.append(
                f"{path}: expected one of {', '.join(meta['choices'])} but got {value!r}.{nearest(str(value), meta['choices'])}"
            )
        if isinstance(value, float) and value != value:
            problems.append(f"{path}: expected a number but got NaN.")
        if "at_least" in meta and value < meta["at_least"]:
            problems.append(f"{path}: expected at least {meta['at_least']} but got {value}.")
        if "at_most" in meta and value > meta["at_most"]:
            problems.append(f"{path}: expected at most {meta['at_most']} but got {value}.")
    return problems


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
