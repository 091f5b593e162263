"""The trainer's settings: every cure is a field. No torch."""

from trainer.config.checks import ConfigError, nearest, validate
from trainer.config.composing import PRESETS, coerce, compose, from_mapping, leaves, presets, schema, to_mapping
from trainer.config.fields import (
    CHECKPOINT,
    Augment,
    Crops,
    Data,
    Loop,
    Loss,
    Measure,
    Model,
    Phantom,
    TrainerConfig,
    ratio_global,
    ratio_local,
    sinkhorn_columns,
)
from trainer.config.offers import OFFERS, expected_seconds, headlines, inert

__all__ = [
    "CHECKPOINT",
    "OFFERS",
    "PRESETS",
    "Augment",
    "ConfigError",
    "Crops",
    "Data",
    "Loop",
    "Loss",
    "Measure",
    "Model",
    "Phantom",
    "TrainerConfig",
    "coerce",
    "compose",
    "expected_seconds",
    "from_mapping",
    "headlines",
    "inert",
    "leaves",
    "nearest",
    "presets",
    "ratio_global",
    "ratio_local",
    "schema",
    "sinkhorn_columns",
    "to_mapping",
    "validate",
]
