"""Every setting of the trainer, as typed dataclasses.

Each field may carry metadata that any reader of the schema understands:
``choices`` (allowed values), ``at_least`` / ``at_most`` (inclusive bounds), ``help`` (one sentence, with its unit).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _field(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


CHECKPOINT = "checkpoint.pt"
"""Its name in the folder of a run."""


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
    labels: str | None = _field(None, "Folder with label volumes of the scans; none: those beside each scan, where there are any.")
    spacing_mm: float | None = _field(
        None, "Resample to this isotropic spacing in mm; none keeps the native one.", at_least=0.1, at_most=20.0
    )
    cache_dir: str | None = _field(None, "Folder for memory-mapped int16 volumes; none: the user's temporary folder.")
    cache_limit_gb: float | None = _field(None, "Greatest size of the cache in GB (oldest use goes first); none: no limit.", at_least=0.001)
    skip_unreadable: bool = _field(False, "Leave unreadable scans out (listed) instead of failing.")
    select_share: float = _field(0.25, "Share of scans for probes that gates and tuning read.", at_least=0.0, at_most=0.5)
    test_share: float = _field(0.25, "Share of scans kept for the final comparison.", at_least=0.0, at_most=0.5)
    rotate_split_below: int = _field(12, "With fewer scans than this the split rotates over replicates.", at_least=0)
    draws_per_scan: int = _field(1, "Places in a row of the batch order that read the same scan.", at_least=1, at_most=1024)
    prefetch_batches: int = _field(
        0,
        "Batches prepared ahead in a thread, for a network on a GPU; on the CPU it takes the network's time. 0: none.",
        at_least=0,
        at_most=64,
    )
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
    localcrops_subset_of_globalcrops: bool = _field(
        False, "Local crops lie inside one of the two global crops, on its patch grid (with scales in mm anywhere inside it)."
    )
    min_global_overlap: float = _field(0.0, "Least IoU of the two global crops; 0: independent.", at_least=0.0, at_most=1.0)
    global_scale_mm: list[float] | None = field(
        default=None,
        metadata={
            "help": "Range [least, greatest] of a global crop's physical edge in mm, resampled to its voxels; none: no resampling. "
            "Patches of crops of different scale do not lie on one grid."
        },
    )
    local_scale_mm: list[float] | None = field(default=None, metadata={"help": "The same for local crops."})


@dataclass
class Augment:
    """Changes of each view, drawn from named streams and applied to the batch on the device.

    Intensities are in the window's unit (its full width is 2) unless a field says HU.
    """

    intensity_shift: float = _field(0.02, "Standard deviation of the additive shift.", at_least=0.0, at_most=2.0)
    intensity_scale: float = _field(0.1, "Standard deviation of the multiplicative change.", at_least=0.0, at_most=1.0)
    noise: float = _field(0.0, "Standard deviation of added noise.", at_least=0.0, at_most=2.0)
    flip: bool = _field(False, "Flip each axis with probability one half.")
    rotate_right_angles: bool = _field(False, "One of the 24 rotations of a cube, drawn uniformly.")
    affine_prob: float = _field(0.0, "Probability of the small affine change.", at_least=0.0, at_most=1.0)
    affine_rotation_degrees: float = _field(10.0, "Greatest rotation about each axis, in degrees.", at_least=0.0, at_most=45.0)
    affine_scale: float = _field(0.1, "Greatest relative change of size, as a share.", at_least=0.0, at_most=0.5)
    window_prob: float = _field(0.0, "Probability of a random HU window in place of data.window_*_hu.", at_least=0.0, at_most=1.0)
    window_shift_hu: float = _field(100.0, "Greatest shift of the window's centre, in HU.", at_least=0.0, at_most=2000.0)
    window_stretch: float = _field(0.25, "Greatest relative change of the window's width, as a share.", at_least=0.0, at_most=0.9)
    gamma_prob: float = _field(0.0, "Probability of a gamma change.", at_least=0.0, at_most=1.0)
    gamma: float = _field(0.3, "Greatest absolute natural logarithm of gamma.", at_least=0.0, at_most=2.0)
    blur_prob: float = _field(0.0, "Probability of a Gaussian blur.", at_least=0.0, at_most=1.0)
    blur_voxels: float = _field(1.0, "Greatest standard deviation of the blur, in voxels.", at_least=0.0, at_most=8.0)


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
    positions_unit: str = _field("crop", "Unit of rotary positions: half the global crop's edge, or 100 mm.", choices=("crop", "mm"))
    pooling: str = _field("mean", "Image feature; `both` is CLS beside the mean of patches.", choices=("cls", "mean", "both"))
    drop_path: float = _field(
        0.0,
        "Probability that a residual branch of the last block is skipped for a crop (linear over depth, student only).",
        at_least=0.0,
        at_most=0.9,
    )
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
    ibot_prototypes: int = _field(64, "Prototypes of iBOT's own head over patches.", at_least=2, at_most=1_048_576)
    compile: bool = _field(False, "Compile the backbone with torch.compile (needs a C++ compiler on CPU).")
    checkpoint_activations: bool = _field(False, "Recompute each block's activations in the backward pass, to save memory.")


@dataclass
class Loss:
    """DINO loss over (teacher, student) view pairs."""

    centering: str = _field("sinkhorn", "How the teacher's assignments are balanced.", choices=("sinkhorn", "softmax"))
    sinkhorn_iterations: int = _field(3, "Sinkhorn-Knopp iterations.", at_least=1, at_most=100)
    sinkhorn_queue: int = _field(
        0, "Past teacher outputs of global crops that Sinkhorn-Knopp balances beside the batch; 0: none.", at_least=0, at_most=1_048_576
    )
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
    koleo_prototypes_weight: float = _field(0.0, "Weight of the same regulariser on the prototypes.", at_least=0.0, at_most=10.0)
    ibot_weight: float = _field(0.0, "Weight of iBOT's masked patch loss on global crops.", at_least=0.0, at_most=10.0)
    ibot_mask_prob: float = _field(0.5, "Share of global crops that are masked.", at_least=0.0, at_most=1.0)
    ibot_mask_ratio_min: float = _field(0.1, "Least share of masked patches in such a crop.", at_least=0.0, at_most=1.0)
    ibot_mask_ratio_max: float = _field(0.5, "Greatest share of masked patches in such a crop.", at_least=0.0, at_most=1.0)
    gram_weight: float = _field(0.0, "Weight of Gram anchoring of patch features.", at_least=0.0, at_most=10.0)
    gram_from_step: int = _field(0, "Step at which the Gram teacher is taken from the teacher.", at_least=0)
    gram_refresh_steps: int = _field(0, "Steps between later Gram teachers; 0: the first one stays.", at_least=0)


@dataclass
class Loop:
    """Optimisation, schedules, checkpoints."""

    steps: int = _field(120, "Optimizer steps; 0 measures the untrained network.", at_least=0)
    batch_size: int = _field(24, "Scans an optimizer step over all ranks (each gives all its crops).", at_least=1, at_most=65536)
    micro_batch_size: int | None = _field(
        None, "Scans at once on one rank, to save memory; the result is that of the whole batch. None: all.", at_least=1
    )
    lr: float = _field(2e-3, "Peak learning rate.", at_least=0.0, at_most=10.0)
    lr_end: float = _field(1e-6, "Final learning rate.", at_least=0.0, at_most=10.0)
    warmup_steps: int = _field(10, "Steps of linear learning-rate warm-up.", at_least=0)
    weight_decay: float = _field(0.04, "Weight decay at the start.", at_least=0.0, at_most=10.0)
    weight_decay_end: float = _field(0.04, "Weight decay at the end (cosine).", at_least=0.0, at_most=10.0)
    ema: float = _field(0.99, "Teacher momentum at the start (cosine to ema_end).", at_least=0.0, at_most=1.0)
    ema_end: float = _field(1.0, "Teacher momentum at the end.", at_least=0.0, at_most=1.0)
    clip_norm: float = _field(3.0, "Gradient norm clip of each of backbone and heads; 0: off.", at_least=0.0)
    layer_decay: float = _field(1.0, "Factor of the learning rate from each block to the one before it.", at_least=0.1, at_most=1.0)
    patch_embedding_lr: float = _field(1.0, "Factor of the patch embedding's learning rate.", at_least=0.0, at_most=10.0)
    freeze_last_layer_steps: int = _field(0, "Steps with a frozen prototype layer.", at_least=0)
    precision: str = _field(
        "float32", "Arithmetic: mixed ones on CUDA only, float64 to check equality.", choices=("float32", "bf16", "fp16", "float64")
    )
    shard_weights: bool = _field(False, "Over several ranks: FSDP2 instead of DDP.")
    device: str = _field("auto", "Where to train.", choices=("auto", "cpu", "cuda"))
    checkpoint_every_steps: int = _field(20, "Steps between checkpoints; 0: only at the end.", at_least=0)
    start_from: str | None = _field(None, "Checkpoint of ours whose student starts the run; none: initial weights of the seed.")
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
    scans_at_most: int = _field(64, "Held-out scans that the probes read; of more the first ones.", at_least=1)
    crops_per_scan: int = _field(32, "Foreground-rich probe crops a held-out scan.", at_least=4, at_most=4096)
    background_crops_per_scan: int = _field(8, "Background probe crops a held-out scan.", at_least=0, at_most=4096)
    seed: int = _field(20_000, "Seed of the probe crops.", at_least=0)
    record_crops: bool = _field(True, "Write crops.parquet and the gallery.")
    pictures: bool = _field(True, "Write prototypes.png and patches.png of held-out scans at the end.")


@dataclass
class TrainerConfig:
    """Everything a trial of the built-in DINO-3D trainer depends on."""

    preset: str = _field("phantom_cpu", "Where the other settings start from.")
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


def sinkhorn_columns(config: TrainerConfig) -> int:
    """B: teacher outputs that Sinkhorn-Knopp balances at once, two of each scan of a step on all ranks; a queue adds whole steps.

    Micro-batches and ranks do not shrink it.
    """
    step = 2 * config.loop.batch_size
    return step * (1 + -(-config.loss.sinkhorn_queue // step))


def ratio_global(crops: Crops) -> float:
    """Least foreground share of a constrained global crop."""
    return crops.min_foreground_ratio if crops.min_foreground_ratio_global is None else crops.min_foreground_ratio_global


def ratio_local(crops: Crops) -> float:
    """Least foreground share of a constrained local crop."""
    return crops.min_foreground_ratio if crops.min_foreground_ratio_local is None else crops.min_foreground_ratio_local
