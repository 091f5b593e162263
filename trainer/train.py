"""Train one DINO-3D model: what a trial runs. Reads top to bottom; the parts are in step, measure, loss, model and data."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from trainer import checkpoint
from trainer.checkpoint import replacing
from trainer.config import ConfigError, TrainerConfig, from_mapping
from trainer.data import Batch, Scan, Split, batches, load_scans, split_scans
from trainer.measure import Probe, TrainMeasures, alarm, certain_collapse, classify
from trainer.model import embed, embed_patches
from trainer.numerics import device_of, first_gives, rank, ranks
from trainer.speed import keep_freed_memory, peak_memory_gib, product_rate, step_flops
from trainer.step import GLOBALS, Learner, NotFinite, StepResult, of_all_ranks, together

_LOG = logging.getLogger("trainer.train")
CALIBRATION_BATCHES = 4
"""Training batches from which an untrained network's feature norm learns its statistics."""
OF_THE_MACHINE = ("loop/samples_per_second", "loop/model_flop_utilisation", "loop/peak_memory_gib")
"""Measures of where a trial ran; reported on the way and kept in its summary, but no part of its result, which any machine gives again."""
HISTORY = 32
"""Measures kept for the rule of `loop.stop_on_collapse`."""


class Run(Protocol):
    """Where a trial lives and whom it tells."""

    @property
    def directory(self) -> Path:
        """Private to this attempt; checkpoints and artifacts live here."""

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take measures; False: save a checkpoint and return now."""


class NonFiniteLoss(ArithmeticError):
    """The one NaN policy: a loss or gradient that is not finite ends the trial; the last finite state is kept."""


@dataclass
class Progress:
    """How far a trial is; goes into the checkpoint."""

    step: int = 0
    """Batches seen, skipped ones included."""
    applied: int = 0
    unmatched_locals: int = 0
    seconds: float = 0.0
    """In steps: data, update and training measures, without probes."""
    data_seconds: float = 0.0
    stopped: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def train(config: Mapping[str, object], run: Run) -> dict[str, float]:
    """Train, or go on from the checkpoint in `run.directory`; on CPU the result is that of an uninterrupted run, bit for bit.

    Every `measure.every_steps` the run hears `train/` and `loop/` measures, at `measure.rungs` and at the end `probe/` too.
    At the end `summary.json`, `crops.parquet`, `gallery.png`, `prototypes.png` and `patches.png` are written beside the checkpoint.

    Args:
        config: Nested or dotted settings on top of their preset; see trainer.config.

    Returns:
        The last `train/` and `loop/` and the final `probe/` measures. Where `report` answered False: those it was
        told, and nothing but the checkpoint is written.

    Raises:
        ConfigError, DataError, ProbeError, CheckpointError: Before any training; the message says the mend.
        NonFiniteLoss: The loss or its gradient is not finite.
    """
    settings = from_mapping(config)
    device = device_of(settings)
    progress = Progress()
    with collected_warnings(progress.warnings), together(device):
        return _train(settings, device, progress, run)


def _train(settings: TrainerConfig, device: torch.device, progress: Progress, run: Run) -> dict[str, float]:
    check_ranks(settings)
    keep_freed_memory()
    directory = first_gives(run.directory)
    scans = load_scans(settings)
    split = split_scans(settings, len(scans))
    probe = Probe(scans, split.test if settings.measure.split == "test" else split.select, settings)
    learner, measures = Learner(settings, device), TrainMeasures(settings, scans)
    speed = Speed.of(settings, device)
    resumed = resume(directory, settings, learner, measures, progress)
    if not resumed and settings.loop.start_from is not None:
        learner.start_from(checkpoint.starting_weights(Path(settings.loop.start_from), settings))

    feed = batches(scans, split.train, settings, progress.step, rank(), ranks())
    try:
        drawn = opened(feed) if progress.step < settings.loop.steps or not resumed else feed
        if settings.loop.steps == 0 and not resumed:  # the checkpoint holds what calibration found
            calibrate(learner, drawn)
        while progress.step < settings.loop.steps and progress.stopped is None:
            advance(learner, measures, progress, drawn, settings, directory)
            if is_measured(progress.step, settings):
                metrics = measures.metrics() | loop_measures(progress, settings, speed)
                progress.history = [*progress.history, metrics][-HISTORY:]
                if settings.loop.stop_on_collapse:
                    progress.stopped = first_gives(certain_collapse(progress.history, progress.step, settings.loop.steps))
                if progress.step in rungs(settings):
                    metrics = metrics | probed(probe, learner)
                if progress.step < settings.loop.steps and progress.stopped is None and not told(run, progress.step, metrics):
                    save(directory, settings, learner, measures, progress)
                    return metrics
            if is_saved(progress.step, settings):
                save(directory, settings, learner, measures, progress)
    finally:
        feed.close()

    metrics = measures.metrics() | loop_measures(progress, settings, speed) | probed(probe, learner)
    save(directory, settings, learner, measures, progress)
    if settings.measure.pictures:
        draw_pictures(directory, settings, probe, learner)
    if rank() == 0:
        if settings.measure.record_crops:
            seen = next(batches(scans, split.train, settings, max(progress.step - 1, 0)))
            write_crops(directory, settings, scans, measures, seen)
        write_summary(directory, summary_of(metrics, progress, scans, split) | {"data": settings.data.source})
    told(run, progress.step, metrics)
    return {name: value for name, value in metrics.items() if name not in OF_THE_MACHINE}


def check_ranks(settings: TrainerConfig) -> None:
    """Raises: ConfigError: The batch cannot be divided among the ranks."""
    if settings.loop.batch_size % ranks():
        raise ConfigError(
            f"loop.batch_size: expected a multiple of the {ranks()} processes but got {settings.loop.batch_size}. "
            "Each takes an equal share of a step's scans."
        )


def told(run: Run, step: int, metrics: Mapping[str, float]) -> bool:
    """Report measures, by the first rank alone; whether to go on, the same on every rank."""
    return first_gives(run.report(step, metrics) if rank() == 0 else True)


def advance(
    learner: Learner, measures: TrainMeasures, progress: Progress, feed: Iterator[Batch], settings: TrainerConfig, directory: Path
) -> None:
    """One batch, one update, its measures."""
    started = time.perf_counter()
    batch = next(feed)
    progress.data_seconds += time.perf_counter() - started
    try:
        result = learner.step(batch, progress.step)
    except NotFinite as error:
        kept = "The state before it is kept in the checkpoint."
        if learner.is_finite():
            save(directory, settings, learner, measures, progress)
        else:
            kept = "The weights are not finite either; the last checkpoint is kept as it was."
        raise NonFiniteLoss(
            f"step {progress.step} of {settings.loop.steps}: expected a finite loss and gradient but {error}. {kept} "
            "Lower loop.lr, raise loss.teacher_temperature, or check the data's intensities."
        ) from error
    progress.step += 1
    progress.applied += result.applied
    batch, result = of_all_ranks(batch, result)
    progress.unmatched_locals += result.unmatched_locals
    record(learner, measures, batch, result, with_outputs=is_measured(progress.step, settings))
    progress.seconds += time.perf_counter() - started


def record(learner: Learner, measures: TrainMeasures, batch: Batch, result: StepResult, *, with_outputs: bool) -> None:
    """Hand a step to the training measures; outputs (of the student's global crops) on measuring steps only."""
    outputs: dict[str, Any] = dict.fromkeys(("student_logits", "features", "ratio"))
    if with_outputs and result.logits is not None and result.features is not None and result.targets is not None:
        outputs = {
            "student_logits": plain(result.logits),
            "features": plain(result.features),
            "teacher_probs": plain(result.targets),
            "prototypes": plain(learner.prototypes()),
            "ratio": batch.ratio[:, :GLOBALS].T.reshape(-1),
        }
    measures.update(batch, losses=result.losses, crop_losses=result.crop_losses, gradient_norms=result.gradient_norms, **outputs)


def plain(tensor: Tensor) -> Float32[np.ndarray, "*shape"]:
    """For numpy."""
    return tensor.float().cpu().numpy()


def opened(feed: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, of which the first is drawn at once: it opens its scans before the clock of the steps runs."""
    return itertools.chain([next(feed)], feed)


def calibrate(learner: Learner, feed: Iterator[Batch]) -> None:
    """Give an untrained network the normalisation statistics of training crops; its weights stay as drawn."""
    for _ in range(CALIBRATION_BATCHES):
        learner.calibrate(next(feed))


def resume(directory: Path, settings: TrainerConfig, learner: Learner, measures: TrainMeasures, progress: Progress) -> bool:
    """Take up the state of the checkpoint in the directory; False: there is none.

    Raises:
        CheckpointError: It is unreadable or belongs to another configuration.
    """
    state = checkpoint.load(directory, settings, learner.device)
    if state is None:
        return False
    learner.load_state_dict(state["learner"])
    measures.load_state_dict(state["measures"])
    earlier = state["progress"].pop("warnings")
    progress.warnings[:] = list(dict.fromkeys([*earlier, *progress.warnings]))
    for name, value in state["progress"].items():
        setattr(progress, name, value)
    return True


def save(directory: Path, settings: TrainerConfig, learner: Learner, measures: TrainMeasures, progress: Progress) -> None:
    """Keep all that the rest of the run depends on. Every rank must call it; the first one writes."""
    state = {"learner": learner.state_dict(), "measures": measures.state_dict(), "progress": asdict(progress)}
    if rank() == 0:
        checkpoint.save(directory, settings, state)


def rungs(settings: TrainerConfig) -> set[int]:
    """Steps at which the probe is measured, beside the end."""
    return {round(share * settings.loop.steps) for share in settings.measure.rungs}


def is_measured(step: int, settings: TrainerConfig) -> bool:
    """Whether measures are reported after this many steps."""
    return step % settings.measure.every_steps == 0 or step == settings.loop.steps or step in rungs(settings)


def is_saved(step: int, settings: TrainerConfig) -> bool:
    """Whether a checkpoint is due after this many steps; the end saves its own."""
    every = settings.loop.checkpoint_every_steps
    return every > 0 and step % every == 0 and step < settings.loop.steps


@dataclass(frozen=True)
class Speed:
    """What steps are compared with."""

    device: torch.device
    step_flops: float
    product_rate: float
    """Floating-point operations a second of this device's own matrix product, in the precision of training."""

    @classmethod
    def of(cls, settings: TrainerConfig, device: torch.device) -> Speed:
        return cls(device, step_flops(settings), product_rate(device, settings.loop.precision))


def loop_measures(progress: Progress, settings: TrainerConfig, speed: Speed) -> dict[str, float]:
    """`loop/updates_applied`: updates over steps. `loop/data_fraction`: share of the steps' time spent waiting for data, but for the first
    batch, which opens its scans before any step.

    `loop/samples_per_second`: scans. `loop/model_flop_utilisation`: arithmetic of the model over that of the device's own matrix
    product in the same time, on each rank. `loop/peak_memory_gib`: of the device, on CPU of the process.
    `train/unmatched_locals`: share of local crops without any partner, in [0, 1]. Nothing before the first step.
    """
    if not progress.step:
        return {}
    steps_per_second = progress.step / max(progress.seconds, 1e-9)
    found = {
        "loop/updates_applied": progress.applied / progress.step,
        "loop/steps_per_second": steps_per_second,
        "loop/samples_per_second": steps_per_second * settings.loop.batch_size,
        "loop/data_fraction": progress.data_seconds / max(progress.seconds, 1e-9),
        "loop/model_flop_utilisation": steps_per_second * speed.step_flops / ranks() / speed.product_rate,
        "loop/peak_memory_gib": peak_memory_gib(speed.device),
    }
    if settings.crops.local_crops:
        crops = progress.step * settings.loop.batch_size * settings.crops.local_crops
        found["train/unmatched_locals"] = progress.unmatched_locals / crops
    return found


def probed(probe: Probe, learner: Learner) -> dict[str, float]:
    """`probe/` measures of the student in evaluation mode.

    Raises:
        NonFiniteLoss: Its outputs are not finite, though every loss was.
    """

    def finite(found: Any) -> Any:
        if not all(np.isfinite(part).all() for part in (found if isinstance(found, tuple) else (found,))):
            raise NonFiniteLoss(
                "expected finite features of held-out crops but the weights overflow. Lower loop.lr, or set loop.clip_norm."
            )
        return found

    return probe.measure(
        lambda images: finite(embed(learner.student, images, learner.device)),
        lambda images: finite(embed_patches(learner.student, images, learner.device)),
    )


def summary_of(metrics: Mapping[str, float], progress: Progress, scans: Sequence[Scan], split: Split) -> dict[str, object]:
    """What the measures cannot say in numbers."""
    return {
        "collapse": classify({name: value for name, value in metrics.items() if name.startswith("probe/")}),
        "stopped": progress.stopped,
        "machine": {name: metrics[name] for name in OF_THE_MACHINE if name in metrics},
        "alarm": None if (heard := alarm(progress.history)) is None else asdict(heard),
        "warnings": progress.warnings,
        "scans": {name: [scans[i].name for i in getattr(split, name)] for name in ("train", "select", "test")},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def write_summary(directory: Path, summary: Mapping[str, object]) -> None:
    """`summary.json`, whole or not at all."""
    with replacing(directory / "summary.json") as beside:
        beside.write_text(json.dumps(summary, indent=1), encoding="utf-8")


def write_crops(directory: Path, settings: TrainerConfig, scans: Sequence[Scan], measures: TrainMeasures, batch: Batch) -> None:
    """Every crop on record (`crops.parquet`) and one batch to look at (`gallery.png`)."""
    import pyarrow.parquet as pq

    from trainer.viewer import gallery

    with replacing(directory / "crops.parquet") as beside:
        pq.write_table(measures.crop_table(), beside)
    with replacing(directory / "gallery.png") as beside:
        gallery(beside, scans, batch, settings)


def draw_pictures(directory: Path, settings: TrainerConfig, probe: Probe, learner: Learner) -> None:
    """`prototypes.png` and `patches.png` of the teacher. Every rank must call it, as sharded weights are read together; the first draws.

    One that fails costs the trial nothing: the log and the summary's warnings say why it is missing.
    """
    from trainer.pictures import write_pictures

    net, device = learner.taught(), learner.device
    problems = write_pictures(
        directory,
        probe.scans,
        lambda images: embed(net, images, device),
        lambda images: embed_patches(net, images, device),
        settings,
        draws=rank() == 0,
    )
    for problem in problems:
        _LOG.warning("%s. The trial's result is not touched by it.", problem)


@contextmanager
def collected_warnings(into: list[str]) -> Iterator[None]:
    """Whatever the trainer's rooms log as a warning, each text once."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text not in into:
                into.append(text)

    logger, collector = logging.getLogger("trainer"), Collector(logging.WARNING)
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)
