"""Every metric that the trainer reports, by name: what a reader of tables and charts needs. The formulas stand with the functions.

In a name `<crops>` stands for `foreground`, `mixed` or `background`, `<pair>` for `apart`, `touching` or `overlapping` (IoU of the two
global crops), `<part>` for a part of the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SECTIONS = {
    "probe": "The student in evaluation mode on the fixed held-out crops, at every rung and at the end; softmax at `measure.temperature`.",
    "train": "The student as it trains, on the arm's own crops, every `measure.every_steps` steps.",
    "loop": "The machine and the loop, over the whole trial.",
}

_CROPS = "(?:foreground|mixed|background)"
_PAIR = "(?:apart|touching|overlapping)"
_PLACES = {"<crops>": _CROPS, "<pair>": _PAIR, "<part>": "[a-z_]+"}


@dataclass(frozen=True)
class Metric:
    """A metric, or a family of them."""

    name: str
    """As it is reported; with places in angle brackets a family."""
    unit: str
    meaning: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the whole of every reported name that this speaks of."""
        parts = re.split(r"(<\w+>)", self.name)
        return re.compile("".join(_PLACES.get(part, re.escape(part)) for part in parts) + r"\Z")


def _of_outputs(section: str) -> list[Metric]:
    """What is told of the student's outputs on held-out and on training crops alike."""
    return [
        Metric(f"{section}/prototype_entropy", "share of ln K", "Mean entropy of a crop's distribution over prototypes; 1 is uniform."),
        Metric(f"{section}/prototype_entropy_<crops>", "share of ln K", "The same of crops by their share of body."),
        Metric(f"{section}/marginal_entropy", "share of ln K", "Entropy of the mean distribution; near 0 is one prototype for everything."),
        Metric(f"{section}/marginal_spread", "share", "The same over what so few crops could fill at most."),
        Metric(f"{section}/mutual_information", "nats", "What a prototype tells of the crop that it came from; 0 is collapse."),
        Metric(f"{section}/<crops>_mutual_information", "nats", "The same of crops by their share of body."),
        Metric(f"{section}/<crops>_information_share", "share", "The same over the most that it could be."),
        Metric(f"{section}/prototype_usage", "share", "Prototypes that are some crop's first choice."),
        Metric(f"{section}/prototype_perplexity", "prototypes", "Effective number of prototypes in use."),
        Metric(f"{section}/feature_std", "share", "Spread of normalised features; 1 is isotropic, 0 a single point."),
        Metric(f"{section}/rankme", "directions", "Effective rank of the features."),
        Metric(f"{section}/lidar", "directions", "Effective rank of what tells scans apart beyond the spread within one."),
    ]


METRICS: tuple[Metric, ...] = (
    Metric(
        "probe/local_to_global_mrr",
        "mean reciprocal rank",
        "Is the global crop that holds a held-out local crop found among the others of the same scan? It decides (decision 1).",
    ),
    Metric("probe/raw_local_to_global_mrr", "mean reciprocal rank", "The same by histograms of intensities, without any network."),
    Metric("probe/organ_knn", "area under the ROC curve", "Does a crop show an organ, by nearest neighbours; chance .5. Needs labels."),
    Metric("probe/organ_linear", "area under the ROC curve", "The same by a linear model."),
    Metric("probe/patch_organ_knn", "share", "Which organ is a patch, by nearest neighbours; mean share found. Needs labels."),
    Metric("probe/patch_organ_linear", "share", "The same by a linear model."),
    Metric("probe/raw_organ_knn", "area under the ROC curve", "`probe/organ_knn` by intensities, without any network."),
    Metric("probe/raw_organ_linear", "area under the ROC curve", "`probe/organ_linear` by intensities, without any network."),
    Metric("probe/raw_patch_organ_knn", "share", "`probe/patch_organ_knn` by intensities, without any network."),
    Metric("probe/raw_patch_organ_linear", "share", "`probe/patch_organ_linear` by intensities, without any network."),
    Metric("probe/knn_accuracy", "share", "Tissue of a crop by votes of the 5 most similar crops of other scans."),
    Metric("probe/anatomy_nmi", "share", "First-choice prototype against tissue; biased upwards where crops are few."),
    Metric("probe/anatomy_information", "nats", "What a prototype tells of the tissue; 0 for uniform outputs."),
    *_of_outputs("probe"),
    Metric("train/loss_total", "nats", "The loss, mean over the last steps."),
    Metric("train/loss_global", "nats", "Its part with a global crop as student."),
    Metric("train/loss_local", "nats", "Its part with a local crop as student."),
    Metric("train/loss_ibot", "nats", "iBOT's masked patches, where its weight is above 0."),
    Metric("train/loss_koleo", "nats", "KoLeo on student features, where its weight is above 0."),
    Metric("train/loss_koleo_prototypes", "nats", "KoLeo on the prototypes, where its weight is above 0."),
    Metric("train/loss_gram", "squared cosine", "Gram anchoring, where its weight is above 0."),
    Metric(
        "train/loss_stability", "share", "Of the smoothed loss's path the share that is descent; a collapsed run's flat line scores high."
    ),
    Metric("train/loss_largest_rise", "nats", "Largest rise of the smoothed loss above its minimum so far."),
    Metric("train/gradient_norm_<part>", "", "Norm of a part's gradient before clipping."),
    Metric("train/foreground_ratio_global", "share of voxels", "Body in global crops, by the common yardstick."),
    Metric("train/foreground_ratio_global_p10", "share of voxels", "10th percentile of the same."),
    Metric("train/foreground_ratio_global_own", "share of voxels", "Foreground in global crops, by the arm's own definition."),
    Metric("train/foreground_ratio_global_own_p10", "share of voxels", "10th percentile of the same."),
    Metric("train/foreground_ratio_local", "share of voxels", "Body in local crops, by the common yardstick."),
    Metric("train/foreground_ratio_local_p10", "share of voxels", "10th percentile of the same."),
    Metric("train/foreground_ratio_local_own", "share of voxels", "Foreground in local crops, by the arm's own definition."),
    Metric("train/foreground_ratio_local_own_p10", "share of voxels", "10th percentile of the same."),
    Metric("train/foreground_violations", "share of crops", "Crops whose ratio had to hold but no position could meet it."),
    Metric("train/global_iou", "share", "Overlap of the two global crops of a scan."),
    Metric("train/local_containment", "share", "Local crops that lie inside a global crop of their scan."),
    Metric("train/unmatched_locals", "share of local crops", "Local crops that `loss.matching` leaves without a partner."),
    Metric("train/teacher_entropy", "share of ln K", "Mean entropy of the teacher's assignments."),
    Metric("train/kl_teacher_student", "nats", "What the student has still to learn of the teacher's assignments."),
    Metric("train/kl_teacher_student_<pair>", "nats", "The same by overlap of the two global crops."),
    Metric("train/prototype_entropy_<pair>", "share of ln K", "Entropy of a crop's distribution by overlap of the two global crops."),
    Metric("train/<pair>_mutual_information", "nats", "Mutual information by overlap of the two global crops."),
    Metric("train/<pair>_information_share", "share", "The same over the most that it could be."),
    Metric("train/uniformity", "share", "From the least entropy that Sinkhorn-Knopp allows (0) to uniform (1)."),
    Metric("train/distinct_prototypes", "prototypes", "Prototypes, near-duplicates counted once."),
    Metric("train/collapse_since_step", "step", "Since when the collapse that is named now lasts; absent where none is."),
    *_of_outputs("train"),
    Metric("loop/updates_applied", "share of steps", "Optimizer updates that were applied: it trained at all."),
    Metric("loop/steps_per_second", "1/s", "Optimizer steps."),
    Metric("loop/samples_per_second", "1/s", "Scans."),
    Metric("loop/data_fraction", "share of time", "Waiting for data."),
    Metric(
        "loop/model_flop_utilisation", "share", "Arithmetic of the model over that of the device's own matrix product in the same time."
    ),
    Metric("loop/peak_memory_gib", "GiB", "Of the device; on CPU of the process."),
)
"""In the order of the reference."""
