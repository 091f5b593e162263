"""Which kind of collapse a network has, and why, from its features alone: before any study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.config import Measure, TrainerConfig
from trainer.diagnose.causes import Suspicion, suspicions
from trainer.diagnose.kinds import feature_kind, learned, prototype_kind, undecidable
from trainer.diagnose.measures import measures
from trainer.diagnose.sample import Sample, SampleError, read_sample, sample_scans

__all__ = ["Diagnosis", "Sample", "SampleError", "diagnose", "read_sample", "sample_scans"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found. Kinds are those of trainer.diagnose.kinds.MEANING."""

    kind: str
    """Of the prototypes where they have collapsed, else of the features where they have; else `nothing_learned` where retrieval says so,
    `none`, or `undecided` where the features are in order and of the prototypes nothing is known."""
    prototypes: str
    features: str
    learned: bool | None
    """Retrieval beats the untrained network; None: not known."""
    measures: Mapping[str, float]
    causes: tuple[Suspicion, ...]
    undecidable: tuple[str, ...]


def diagnose(sample: Sample, settings: TrainerConfig | None = None) -> Diagnosis:
    """Name what is wrong.

    Args:
        settings: What the network was trained with; None: not known, then every cause of its kind is to be checked.
    """
    found = measures(sample, Measure() if settings is None else settings.measure)
    prototypes, features = prototype_kind(found), feature_kind(found)
    better = learned(found)
    kinds = [kind for kind in (prototypes, features) if kind not in ("none", "undecided")]
    if not kinds and better is False:
        kinds = ["nothing_learned"]
    kind = kinds[0] if kinds else prototypes
    causes = suspicions(kinds, settings, found)
    return Diagnosis(kind, prototypes, features, better, found, tuple(causes), tuple(undecidable(found)))
