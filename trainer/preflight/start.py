"""What the untrained network says of different crops: whether there is anything to start from. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainer.config import TrainerConfig
from trainer.data import Scan
from trainer.data.batches import batches
from trainer.preflight.finding import Finding, finding

LEAST_NATS = 0.05
"""A start at .04 nats (weights of .02 without weight norm) stays uniform; presets and their cures start at .14 and more."""
STEPS = 4
CROPS, LEAST_CROPS = 128, 8
WORK = 3 * 10**11
"""Products of a weight and a token that may be spent: some ten seconds of two CPU cores; of a large network few crops say enough."""


def mutual_information(settings: TrainerConfig, scans: Sequence[Scan]) -> float:
    """I(crop; prototype) in nats of the untrained student on training crops, at the student's temperature.

    Of 128 crops, of a large network fewer; drawn and read a batch at a time of no more than these, whatever the batch of training is.
    """
    import torch

    from trainer.augment import views
    from trainer.model import build

    net, cpu, found = build(settings), torch.device("cpu"), list[torch.Tensor]()
    crops = crops_looked_at(sum(weight.numel() for weight in net.backbone.parameters()), settings)
    few = replace(
        settings,
        data=replace(settings.data, prefetch_batches=0, draws_per_scan=1),
        crops=replace(settings.crops, local_crops=0),
        loop=replace(settings.loop, batch_size=min(settings.loop.batch_size, crops // 2)),
    )
    feed = batches(scans, range(len(scans)), few, 0)
    with torch.no_grad():
        for _ in range(STEPS):
            batch = next(feed)
            found.append(net.features(views(batch.globals, batch.global_changes, settings, cpu)))
            if 2 * len(batch.scan) * len(found) >= crops:
                break
        probs = torch.softmax(net.head(torch.cat(found)).double() / settings.loss.student_temperature, dim=1).numpy()
    feed.close()
    mean = probs.mean(axis=0)
    return float((probs * np.log(np.maximum(probs, 1e-300) / np.maximum(mean, 1e-300))).sum(axis=1).mean())


def crops_looked_at(weights: int, settings: TrainerConfig) -> int:
    """How many global crops a network of so many weights is shown."""
    tokens = (settings.crops.global_size_voxels // settings.model.patch_size_voxels) ** 3
    return max(LEAST_CROPS, min(CROPS, WORK // (weights * tokens)))


def findings(settings: TrainerConfig, scans: Sequence[Scan]) -> list[Finding]:
    """A network that says the same of every crop."""
    nats = mutual_information(settings, scans)
    if nats >= LEAST_NATS:
        return []
    model = settings.model
    causes = [("model.layer_scale", "null (off), or at least 0.1")] if (model.layer_scale or 1.0) < 0.1 else []
    causes += [("model.head_init", "orthogonal")] if model.head_init == "normal" else []
    causes += [("model.feature_norm", "batch")] if model.feature_norm == "none" else []
    causes += [("loss.student_temperature", "a lower value, for example 0.1")] if settings.loss.student_temperature > 0.2 else []
    mend = "; ".join(f"{path}={value}" for path, value in causes) or "model.pooling=mean; model.feature_norm=batch"
    return [
        finding(
            "warning",
            causes[0][0] if causes else "model.pooling",
            f"the untrained network tells crops apart by {nats:.2g} nats.",
            nats,
            "Teacher and student begin as near-constant functions: no target differs from another, and uniform is already reached "
            "(logits of spread s start with an entropy of ln K - (s / temperature)^2 / 2; LayerScale 1e-5 with CLS leaves 1e-9 nats).",
            f"Set {mend}.",
        )
    ]
