"""What the untrained network says of different crops: whether there is anything to start from. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.config import TrainerConfig
from trainer.data import Scan, places
from trainer.data.batches import batches
from trainer.preflight.finding import Finding, finding

LEAST_NATS = 0.02
STEPS = 4
CROPS = 128


def mutual_information(settings: TrainerConfig, scans: Sequence[Scan]) -> float:
    """I(crop; prototype) in nats of the untrained student on training crops, at the student's temperature."""
    import torch

    from trainer.augment import views
    from trainer.model import build

    feed = batches(scans, range(len(scans)), settings, 0)
    net, cpu, found = build(settings), torch.device("cpu"), []
    with torch.no_grad():
        for _ in range(STEPS):
            batch = next(feed)
            batch = places(batch, range(min(len(batch.scan), CROPS // 2)))
            found.append(net.features(views(batch.globals, batch.global_changes, settings, cpu)))
            if 2 * len(batch.scan) * len(found) >= CROPS:
                break
        probs = torch.softmax(net.head(torch.cat(found)).double() / settings.loss.student_temperature, dim=1).numpy()
    feed.close()
    mean = probs.mean(axis=0)
    return float((probs * np.log(np.maximum(probs, 1e-300) / np.maximum(mean, 1e-300))).sum(axis=1).mean())


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
