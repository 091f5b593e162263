"""One optimizer step: schedules, pairs, and what is left alone when there is nothing to learn from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small import batch_of, tiny
from torch import Tensor

from trainer.augment import views
from trainer.config import Loop, Loss
from trainer.data import Batch
from trainer.model.vit3d import Vit3d
from trainer.step import Learner, NotFinite, learning_rate, pairs_of, teacher_momentum, teacher_temperature, weight_decay

CPU = torch.device("cpu")
WEIGHTINGS = ["none", "linear", "sqrt", "squared", "threshold", "sigmoid"]
MATCHINGS = ["all_pairs", "own_global", "hierarchical", "foreground_only", "background_prototype"]


def state_of(learner: Learner) -> dict[str, Tensor]:
    tensors = {f"student.{k}": v.clone() for k, v in learner.student.state_dict().items()}
    tensors |= {f"teacher.{k}": v.clone() for k, v in learner.teacher.state_dict().items()}
    return tensors | {"global": learner.balance.globals.center.clone(), "local": learner.balance.locals.center.clone()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_learning_rate_warms_up_linearly_and_ends_at_its_end() -> None:
    loop = Loop(steps=100, warmup_steps=9, lr=1.0, lr_end=0.01)
    assert [learning_rate(s, loop) for s in range(10)] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert learning_rate(99, loop) == pytest.approx(0.01)
    for s in range(9, 100):
        assert learning_rate(s, loop) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (s - 9) / 90)))


def test_momentum_and_weight_decay_follow_a_cosine_to_their_ends() -> None:
    loop = Loop(steps=51, ema=0.99, ema_end=1.0, weight_decay=0.04, weight_decay_end=0.4)
    assert [teacher_momentum(s, loop) for s in (0, 25, 50)] == pytest.approx([0.99, 0.995, 1.0])
    assert [weight_decay(s, loop) for s in (0, 25, 50)] == pytest.approx([0.04, 0.22, 0.4])
    assert weight_decay(12, loop) < 0.04 + 0.36 * 12 / 50


def test_teacher_temperature_warms_up_linearly_and_stays() -> None:
    loss = Loss(teacher_temperature_start=0.02, teacher_temperature=0.06, teacher_temperature_warmup_steps=4)
    assert [teacher_temperature(s, loss) for s in range(6)] == pytest.approx([0.02, 0.03, 0.04, 0.05, 0.06, 0.06])
    assert teacher_temperature(0, Loss(teacher_temperature=0.05)) == 0.05


def test_a_run_of_one_step_has_schedules() -> None:
    loop = Loop(steps=1, warmup_steps=0)
    assert learning_rate(0, loop) == loop.lr
    assert teacher_momentum(0, loop) == loop.ema


@pytest.mark.parametrize(("matching", "weighting"), list(itertools.product(MATCHINGS, WEIGHTINGS)))
def test_every_matching_works_with_every_weighting(matching: str, weighting: str) -> None:
    for scope, centering in (("pair", "sinkhorn"), ("batch_mean", "softmax")):
        learner = Learner(
            tiny(matching=matching, foreground_weighting=weighting, foreground_weighting_scope=scope, centering=centering), CPU
        )
        before = state_of(learner)
        for step in range(2):
            result = learner.step(batch_of(step), step)
            assert result.applied
            assert all(math.isfinite(value) for value in result.losses.values())
        assert "student.backbone.patch_embedding.weight" in changed(before, state_of(learner))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_pair_weights_follow_the_emptier_view(weighting: str) -> None:
    from trainer.loss import weight

    config = tiny(foreground_weighting=weighting)
    batch = batch_of(3)
    found = pairs_of(batch, config, CPU).weights
    for t, s, b in itertools.product(range(2), range(4), range(6)):
        emptier = torch.tensor(min(batch.ratio_own[b, t], batch.ratio_own[b, s]))
        expected = 0.0 if t == s else float(weight(emptier, config.loss))
        assert float(found[t, s, b]) == pytest.approx(expected)


def check_batch_mean(loss_total: Callable[[Learner, Batch], float]) -> None:
    batch = batch_of(4)
    plain = Learner(tiny(), CPU).step(batch, 0).losses["loss_total"]
    mean = float(batch.ratio_own.astype(np.float64).mean())
    learner = Learner(tiny(foreground_weighting="linear", foreground_weighting_scope="batch_mean"), CPU)
    assert loss_total(learner, batch) == pytest.approx(plain * mean, rel=1e-5)


def test_batch_mean_multiplies_the_plain_loss() -> None:
    check_batch_mean(lambda learner, batch: learner.step(batch, 0).losses["loss_total"])


def test_a_renormalised_weighting_is_no_batch_mean() -> None:
    with pytest.raises(AssertionError):
        check_batch_mean(lambda _, batch: Learner(tiny(foreground_weighting="linear"), CPU).step(batch, 0).losses["loss_total"])


def test_losses_of_views_are_parts_of_the_whole() -> None:
    result = Learner(tiny(), CPU).step(batch_of(5), 0)
    assert result.losses["loss_total"] == pytest.approx((2 * result.losses["loss_global"] + 4 * result.losses["loss_local"]) / 6, rel=1e-5)
    assert result.crop_losses.shape == (6, 4)
    assert result.crop_losses[:, :2].mean() == pytest.approx(result.losses["loss_global"], rel=1e-5)
    assert result.crop_losses[:, 2:].mean() == pytest.approx(result.losses["loss_local"], rel=1e-5)


def test_koleo_is_added_for_each_global_crop_apart() -> None:
    from trainer.loss import koleo_loss

    batch = batch_of(6)
    plain = Learner(tiny(), CPU).step(batch, 0).losses["loss_total"]
    learner = Learner(tiny(koleo_weight=0.1), CPU)
    with torch.no_grad():
        first, second = views(batch.globals, batch.global_changes, learner.config, CPU).chunk(2)
        terms = [float(koleo_loss(learner.student.features(view))) for view in (first, second)]
    assert learner.step(batch, 0).losses["loss_total"] == pytest.approx(plain + 0.1 * sum(terms), rel=1e-4)


@pytest.mark.parametrize(
    "loss", [{"matching": "foreground_only"}, {"foreground_weighting": "linear"}, {"foreground_weighting": "threshold"}]
)
@pytest.mark.parametrize("centering", ["sinkhorn", "softmax"])
def test_a_batch_without_any_pair_changes_nothing(loss: dict[str, str], centering: str) -> None:
    learner = Learner(tiny(centering=centering, **loss), CPU)
    learner.step(batch_of(0), 0)
    before = state_of(learner)
    result = learner.step(batch_of(1, ratio=0.0), 1)
    assert not result.applied
    assert result.losses == {}
    assert np.isnan(result.crop_losses).all()
    assert not changed(before, state_of(learner))


def test_the_hierarchical_teacher_keeps_a_centre_of_its_own_for_locals() -> None:
    learner = Learner(tiny(matching="hierarchical", matching_threshold=0.5, centering="softmax"), CPU)
    learner.step(batch_of(0, ratio=1.0), 0)
    assert not learner.balance.locals.center.any()
    learner.step(batch_of(0, ratio=0.0), 1)
    assert learner.balance.locals.center.any()
    assert not torch.equal(learner.balance.locals.center, learner.balance.globals.center)


def test_hierarchical_targets_of_a_background_local_come_from_the_other_local() -> None:
    """Changing what the globals show must not move the loss of local crops that are matched with locals alone."""
    losses = []
    for scale in (1.0, 3.0):
        learner = Learner(tiny(matching="hierarchical", matching_threshold=0.5), CPU)
        learner.student.dino_head.norm = learner.teacher.dino_head.norm = None  # its statistics would mix the views
        batch = batch_of(7, ratio=0.0)
        batch.globals[...] = batch.globals // int(scale) + 100
        losses.append(learner.step(batch, 0).crop_losses)
    assert np.allclose(losses[0][:, 2:], losses[1][:, 2:], atol=1e-5)
    assert not np.allclose(losses[0][:, :2], losses[1][:, :2], atol=1e-3)


def test_background_globals_teach_the_reserved_prototype() -> None:
    learner = Learner(tiny(matching="background_prototype"), CPU)
    learner.config.loop.lr = 0.02
    batch = batch_of(8, ratio=0.0)
    for step in range(9):
        learner.step(batch, step)
    logits = learner.step(batch, 9).logits
    assert logits is not None
    assert (logits.argmax(dim=1) == 5).float().mean() > 0.9


@pytest.mark.parametrize(("steps", "frozen"), [(0, False), (2, True)])
def test_the_last_layer_stays_frozen_for_as_long_as_asked(steps: int, frozen: bool) -> None:
    config = tiny()
    config.loop.freeze_last_layer_steps = steps
    learner = Learner(config, CPU)
    before = state_of(learner)
    for step in range(2):
        learner.step(batch_of(step), step)
    assert ("student.dino_head.prototypes" not in changed(before, state_of(learner))) == frozen
    learner.step(batch_of(2), 2)
    assert "student.dino_head.prototypes" in changed(before, state_of(learner))


def test_clipping_bounds_the_gradient_of_each_part() -> None:
    norms = []
    for clip in (0.0, 1e-3):
        config = tiny()
        config.loop.clip_norm = clip
        learner = Learner(config, CPU)
        learner.step(batch_of(0), 0)
        parts = (learner.student.backbone, learner.student.dino_head)
        norms += [float(torch.nn.utils.get_total_norm([p.grad for p in part.parameters() if p.grad is not None])) for part in parts]
    assert min(norms[:2]) > 0.01
    assert norms[2:] == pytest.approx([1e-3, 1e-3], rel=1e-2)


def test_the_teacher_follows_after_the_update() -> None:
    learner = Learner(tiny(), CPU)
    before = [p.clone() for p in learner.teacher.parameters()]
    learner.step(batch_of(0), 0)
    for old, teacher, student in zip(before, learner.teacher.parameters(), learner.student.parameters(), strict=True):
        assert torch.allclose(teacher, 0.99 * old + 0.01 * student, atol=1e-7)


def test_half_precision_trains_and_keeps_the_loss_near_the_full_one() -> None:
    full = Learner(tiny(), CPU).step(batch_of(0), 0)
    learner = Learner(tiny(), CPU)
    learner.autocast_dtype = torch.bfloat16  # as on CUDA with loop.precision=bf16
    half = learner.step(batch_of(0), 0)
    assert half.applied
    assert half.logits is not None
    assert half.logits.dtype == torch.float32
    assert half.losses["loss_total"] == pytest.approx(full.losses["loss_total"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in learner.student.parameters())


def test_an_overflow_of_scaled_gradients_skips_the_update_and_lowers_the_scale() -> None:
    learner = Learner(tiny(student_temperature=0.001), CPU)
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-64)  # as on CUDA with loop.precision=fp16
    before = [p.clone() for p in learner.student.parameters()]
    teacher = [p.clone() for p in learner.teacher.parameters()]
    assert not learner.step(batch_of(0), 0).applied
    assert all(torch.equal(old, new) for old, new in zip(before, learner.student.parameters(), strict=True))
    assert all(torch.equal(old, new) for old, new in zip(teacher, learner.teacher.parameters(), strict=True))
    assert learner.step(batch_of(0), 1).applied
    assert not all(torch.equal(old, new) for old, new in zip(before, learner.student.parameters(), strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_that_is_not_finite_is_refused_before_any_weight_moves(value: float) -> None:
    learner = Learner(tiny(), CPU)
    before = state_of(learner)
    batch = batch_of(0)
    batch.global_changes.intensity[0, 0, 0] = value  # int16 voxels are always finite; what is made of them need not be
    with pytest.raises(NotFinite):
        learner.step(batch, 0)
    assert all("norm." in name for name in changed(before, state_of(learner)))


def test_calibration_touches_normalisation_statistics_alone() -> None:
    learner = Learner(tiny(), CPU)
    before = state_of(learner)
    learner.calibrate(batch_of(0))
    assert changed(before, state_of(learner)) == {f"student.dino_head.norm.{name}" for name in ("mean", "variance", "batches")}


def test_a_model_without_local_crops_learns_from_globals() -> None:
    config = tiny()
    config.crops.local_crops = 0
    batch = batch_of(0)
    reduced = Batch(
        **{**vars(batch), "locals": batch.locals[:, :0], "local_corners": batch.local_corners[:, :0], "ratio_own": batch.ratio_own[:, :2]}
    )
    result = Learner(config, CPU).step(reduced, 0)
    assert result.applied
    assert set(result.losses) == {"loss_total", "loss_global"}


@pytest.mark.parametrize("ibot", [0.0, 1.0])
def test_a_step_that_reads_cls_and_masked_patches_alone_is_the_step_over_all_tokens(ibot: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> dict[str, Tensor]:
        config = tiny(ibot_weight=ibot)
        config.model.pooling, config.model.depth, config.loop.precision = "cls", 2, "float64"
        learner = Learner(config, CPU)
        for step in range(3):
            learner.step(batch_of(step), step)
        return state_of(learner)

    few = trained()
    forward = Vit3d.forward
    monkeypatch.setattr(Vit3d, "forward", lambda self, *crops, patches, **how: forward(self, *crops, patches=True, **how))
    for name, whole in trained().items():
        torch.testing.assert_close(few[name], whole, atol=1e-11, rtol=1e-9)
