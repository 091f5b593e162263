"""Training measures accumulate over steps, resume exactly, and leave a row for every crop."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest

from trainer.config import TrainerConfig
from trainer.data import Batch, Scan, batches, load_scans
from trainer.measure import TrainMeasures
from trainer.measure import record as record_room
from trainer.measure.prototypes import softmax
from trainer.measure.record import structures
from trainer.measure.train import WINDOW_STEPS

STEPS = 7


def small() -> TrainerConfig:
    config = TrainerConfig()
    config.data.phantom.scans, config.data.phantom.size_voxels = 4, 40
    config.crops.global_size_voxels, config.crops.local_size_voxels, config.crops.local_crops = 12, 8, 3
    config.model.patch_size_voxels, config.loop.batch_size, config.measure.every_steps = 4, 4, 3
    return config


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return load_scans(small())


@pytest.fixture(scope="module")
def feed(scans: list[Scan]) -> list[Batch]:
    return list(itertools.islice(batches(scans, (0, 1, 2, 3), small(), 0), STEPS))


def test_uniformity_is_over_the_floor_of_the_columns_that_a_queue_of_whole_steps_makes(scans: list[Scan], feed: list[Batch]) -> None:
    config = small()
    config.loss.sinkhorn_queue = 3  # kept as a whole step of 8: with the batch's 8 as many columns as prototypes, so no floor
    found = {}
    for name, one in (("queue", config), ("none", small())):
        measures = TrainMeasures(one, scans)
        for batch in feed[:3]:
            take(measures, batch)
        found[name] = measures.metrics()["train/uniformity"]
    nats = found["none"] * (math.log(16) - math.log(2)) + math.log(2)
    assert found["queue"] == pytest.approx(nats / math.log(16))


def take(measures: TrainMeasures, batch: Batch) -> None:
    """One step as the loop hands it over; outputs at every third."""
    rng = np.random.default_rng(batch.step)
    measuring = (batch.step + 1) % 3 == 0
    losses = dict(zip(("loss_total", "loss_global", "loss_local"), (4 - 0.1 * batch.step + rng.normal(0, 0.05, 3)).tolist(), strict=True))
    crop_losses = rng.normal(4, 1, batch.ratio.shape).astype(np.float32)
    crop_losses[0, 2] = np.nan
    measures.update(
        batch,
        losses=losses,
        student_logits=rng.normal(0, 0.2, (8, 16)).astype(np.float32) if measuring else None,
        features=rng.normal(size=(8, 6)).astype(np.float32) if measuring else None,
        ratio=batch.ratio[:, :2].T.reshape(-1) if measuring else None,
        crop_losses=crop_losses,
        teacher_probs=rng.dirichlet(np.ones(16), 8) if measuring else None,
        prototypes=np.concatenate([np.eye(6), np.eye(6)]) if measuring else None,
        gradient_norms={"backbone": 1.0 + batch.step, "dino_head": 0.5},
    )


def run(scans: list[Scan], feed: list[Batch], config: TrainerConfig | None = None) -> TrainMeasures:
    measures = TrainMeasures(config or small(), scans)
    for batch in feed:
        take(measures, batch)
    return measures


def test_measures_equal_loops_over_the_batches(scans: list[Scan], feed: list[Batch]) -> None:
    found = run(scans, feed).metrics()
    ratios = [float(b.ratio[i, v]) for b in feed for i in range(4) for v in range(2)]
    own = [float(b.ratio_own[i, v]) for b in feed for i in range(4) for v in range(2, 5)]
    inside = [float(b.local_containment[i, v]) for b in feed for i in range(4) for v in range(3)]
    assert found["train/foreground_ratio_global"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-6)
    assert found["train/foreground_ratio_local_own"] == pytest.approx(sum(own) / len(own), rel=1e-6)
    assert found["train/local_containment"] == pytest.approx(sum(inside) / len(inside), rel=1e-6)
    assert found["train/global_iou"] == pytest.approx(sum(float(v) for b in feed for v in b.global_iou) / 28, rel=1e-6)
    assert found["train/foreground_violations"] == 0
    totals = [4 - 0.1 * step + np.random.default_rng(step).normal(0, 0.05, 3)[0] for step in range(STEPS)]
    assert found["train/loss_total"] == pytest.approx(sum(totals[-3:]) / 3)
    falls = [max(a - b, 0) for a, b in itertools.pairwise(totals)]
    assert found["train/loss_stability"] == pytest.approx(sum(falls) / sum(abs(a - b) for a, b in itertools.pairwise(totals)))


def test_every_measure_of_the_issue_is_there_and_plain(scans: list[Scan], feed: list[Batch]) -> None:
    found = run(scans, feed).metrics()
    names = "loss_total loss_global loss_local loss_stability loss_largest_rise foreground_violations global_iou local_containment "
    names += "feature_std rankme prototype_entropy marginal_entropy prototype_usage "
    names += "lidar uniformity distinct_prototypes kl_teacher_student teacher_entropy gradient_norm_backbone gradient_norm_dino_head "
    names += " ".join(f"foreground_ratio_{v}{own}{p}" for v in ("global", "local") for own in ("", "_own") for p in ("", "_p10"))
    assert {f"train/{name}" for name in names.split()} <= found.keys()
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_further_terms_and_gradient_norms_are_means_of_the_last_steps(scans: list[Scan], feed: list[Batch]) -> None:
    measures = TrainMeasures(small(), scans)
    for batch in feed:
        extra = {"loss_koleo": -1.0 - batch.step} if batch.step < 5 else {}
        measures.update(
            batch,
            losses={"loss_total": 4.0, **extra},
            student_logits=None,
            features=None,
            ratio=None,
            crop_losses=None,
            gradient_norms={"backbone": float(batch.step)},
        )
    found = measures.metrics()
    assert found["train/gradient_norm_backbone"] == 5
    assert found["train/loss_koleo"] == -4


def test_prototypes_and_pairs_are_read_as_they_were_given(scans: list[Scan], feed: list[Batch]) -> None:
    found = run(scans, feed).metrics()
    assert found["train/distinct_prototypes"] == 6
    logits = np.random.default_rng(5)
    logits.normal(0, 0.05, 3), logits.normal(4, 1, feed[5].ratio.shape)
    probs = softmax(logits.normal(0, 0.2, (8, 16)).astype(np.float32), 0.1)
    nats = float(np.mean([-sum(p * math.log(p) for p in row) for row in probs.tolist()]))
    assert found["train/uniformity"] == pytest.approx((nats - math.log(2)) / (math.log(16) - math.log(2)))


def collapsed_at(scans: list[Scan], feed: list[Batch], steps: set[int]) -> TrainMeasures:
    measures = TrainMeasures(small(), scans)
    rng = np.random.default_rng(0)
    for batch in feed:
        logits = np.zeros((8, 16), np.float32) if batch.step in steps else rng.normal(0, 5, (8, 16)).astype(np.float32)
        measures.update(
            batch,
            losses={"loss_total": 4.0},
            student_logits=logits,
            features=rng.normal(size=(8, 6)).astype(np.float32),
            ratio=np.ones(8, np.float32),
            crop_losses=None,
        )
    return measures


def test_a_collapse_is_dated_to_the_first_measure_from_which_it_held_without_break(scans: list[Scan], feed: list[Batch]) -> None:
    assert collapsed_at(scans, feed, {4, 5, 6}).metrics()["train/collapse_since_step"] == 5
    assert collapsed_at(scans, feed, {1, 2, 4, 5, 6}).metrics()["train/collapse_since_step"] == 5
    assert collapsed_at(scans, feed, set(range(7))).metrics()["train/collapse_since_step"] == 1
    assert "train/collapse_since_step" not in collapsed_at(scans, feed, {1, 2, 3}).metrics()
    state = collapsed_at(scans, feed[:6], {4, 5, 6}).state_dict()
    resumed = TrainMeasures(small(), scans)
    resumed.load_state_dict(state)
    assert resumed.metrics()["train/collapse_since_step"] == 5


def test_nothing_is_measured_before_the_first_step(scans: list[Scan]) -> None:
    measures = TrainMeasures(small(), scans)
    assert measures.metrics() == {}
    assert measures.crop_table().num_rows == 0


def test_violations_are_counted_over_all_crops(scans: list[Scan], feed: list[Batch]) -> None:
    measures = TrainMeasures(small(), scans)
    for batch in feed:
        violations = np.zeros_like(batch.violations)
        violations[0, 0] = batch.step == 2
        take(measures, Batch(**{**vars(batch), "violations": violations}))
    assert measures.metrics()["train/foreground_violations"] == pytest.approx(1 / (STEPS * 4 * 5))


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_going_on_from_a_state_equals_never_having_stopped(scans: list[Scan], feed: list[Batch], cut: int) -> None:
    whole = run(scans, feed)
    state = pickle.loads(pickle.dumps(run(scans, feed[:cut]).state_dict()))
    resumed = TrainMeasures(small(), scans)
    resumed.load_state_dict(state)
    for batch in feed[cut:]:
        take(resumed, batch)
    assert resumed.metrics() == whole.metrics()
    assert resumed.crop_table().equals(whole.crop_table())
    assert plain(resumed.state_dict()) == plain(whole.state_dict())


def plain(value: object) -> object:
    """Arrays as type and text, because NaN differs from itself."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return (str(value.dtype), value.shape, repr(value.tolist())) if isinstance(value, np.ndarray) else value


def test_a_state_is_a_copy(scans: list[Scan], feed: list[Batch]) -> None:
    measures = run(scans, feed[:3])
    state = measures.state_dict()
    kept = plain(state)
    take(measures, feed[3])
    assert plain(state) == kept


def test_the_window_of_shares_forgets(scans: list[Scan], feed: list[Batch]) -> None:
    measures = TrainMeasures(small(), scans)
    full = Batch(**{**vars(feed[0]), "ratio": np.ones_like(feed[0].ratio)})
    empty = Batch(**{**vars(feed[0]), "ratio": np.zeros_like(feed[0].ratio)})
    for _ in range(5):
        take(measures, full)
    for _ in range(WINDOW_STEPS):
        take(measures, empty)
    assert measures.metrics()["train/foreground_ratio_global"] == 0


def test_no_local_crops_leave_local_measures_out(scans: list[Scan]) -> None:
    config = small()
    config.crops.local_crops = 0
    feed = list(itertools.islice(batches(scans, (0, 1), config, 0), 2))
    measures = TrainMeasures(config, scans)
    for batch in feed:
        measures.update(
            batch, losses={"loss_total": 4.0, "loss_global": 4.0}, student_logits=None, features=None, ratio=None, crop_losses=None
        )
    found = measures.metrics()
    assert not [name for name in found if "local" in name]
    assert found["train/loss_global"] == 4
    assert measures.crop_table().num_rows == 2 * 4 * 2


def test_every_crop_is_on_record(scans: list[Scan], feed: list[Batch]) -> None:
    rows = run(scans, feed).crop_table().to_pylist()
    assert len(rows) == STEPS * 4 * 5
    position = 0
    for batch in feed:
        rng = np.random.default_rng(batch.step)
        rng.normal(0, 0.05, 3)
        losses = rng.normal(4, 1, (4, 5)).astype(np.float32)
        for i in range(4):
            for view in range(5):
                row = rows[position]
                position += 1
                local = view >= 2
                corner = batch.local_corners[i, view - 2] if local else batch.global_corners[i, view]
                size = 8 if local else 12
                scan = scans[int(batch.scan[i])]
                assert (row["step"], row["scan"], row["view"], row["kind"]) == (batch.step, scan.name, view, "local" if local else "global")
                assert [row[f"corner_{axis}"] for axis in ("depth", "height", "width")] == corner.tolist()
                assert row["size"] == size
                assert row["ratio"] == batch.ratio[i, view]
                assert row["ratio_own"] == batch.ratio_own[i, view]
                assert row["violation"] == batch.violations[i, view]
                assert row["iou"] == (None if local else batch.global_iou[i])
                assert row["containment"] == (batch.local_containment[i, view - 2] if local else None)
                assert row["parent"] == (batch.local_parents[i, view - 2] if local else None)
                assert row["loss"] == (None if i == 0 and view == 2 else losses[i, view])
                d, h, w = corner
                assert scan.labels is not None
                held = sorted(set(scan.labels[d : d + size, h : h + size, w : w + size].ravel().tolist()) - {0})
                assert row["structures"] == [scan.label_names[n] for n in held]


def test_scans_without_labels_have_null_structures(scans: list[Scan], feed: list[Batch]) -> None:
    bare = [Scan(s.name, s.voxels, s.spacing_mm, None, {}) for s in scans]
    assert run(bare, feed[:1]).crop_table()["structures"].null_count == 20


def test_no_record_is_kept_where_none_is_wanted(scans: list[Scan], feed: list[Batch]) -> None:
    config = small()
    config.measure.record_crops = False
    assert run(scans, feed, config).crop_table().num_rows == 0


def test_structures_of_large_crops_are_those_of_a_regular_grid() -> None:
    labels = np.zeros((130, 130, 130), np.uint8)
    labels[:130, :130, 60:] = 4
    labels[0, 0, 0] = 9
    assert structures(labels, np.zeros(3, int), 130) == [4, 9]
    assert structures(labels, np.array([1, 1, 1]), 60) == [4]


def test_the_record_is_bounded_and_says_which_steps_it_kept(scans: list[Scan], feed: list[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(scans, feed).crop_table()
    assert whole.schema.metadata == {b"every_steps": b"1"}
    monkeypatch.setattr(record_room, "MOST_CROPS", 70)  # three steps of 20 crops
    bounded = run(scans, feed).crop_table()
    assert bounded.schema.metadata == {b"every_steps": b"4"}
    assert sorted(set(bounded["step"].to_pylist())) == [0, 4]
    assert bounded.to_pylist() == [row for row in whole.to_pylist() if row["step"] % 4 == 0]
    halfway = TrainMeasures(small(), scans)
    halfway.load_state_dict(run(scans, feed[:5]).state_dict())
    for batch in feed[5:]:
        take(halfway, batch)
    assert halfway.crop_table().equals(bounded, check_metadata=True)


def test_a_single_step_of_many_crops_is_kept_whole(scans: list[Scan], feed: list[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_room, "MOST_CROPS", 7)
    assert set(run(scans, feed).crop_table()["step"].to_pylist()) == {0}


def test_parts_of_many_steps_are_joined(scans: list[Scan], feed: list[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(scans, feed).crop_table()
    monkeypatch.setattr(record_room, "_PARTS", 2)
    assert run(scans, feed).crop_table().equals(whole)


def test_the_size_on_record_is_the_edge_in_the_scan(scans: list[Scan], feed: list[Batch]) -> None:
    batch = Batch(**{**vars(feed[0]), "global_edges": np.array([[13, 14]] * 4), "local_edges": np.array([[5, 6, 7]] * 4)})
    assert run(scans, [batch]).crop_table()["size"].to_pylist() == [13, 14, 5, 6, 7] * 4
