"""One optimizer step: the batch's loss, and the update of student, teacher and what is remembered of earlier steps.

A batch may be cut into micro-batches that fit into memory (`loop.micro_batch_size`). All that looks at the batch as a whole
(Sinkhorn-Knopp and centre, feature normalisation, KoLeo, the weights of pairs, clip, EMA, schedules) belongs to the step: the
networks' outputs are collected first, the losses are computed once on them, and their gradient with regard to these outputs is then
carried through the backbone, micro-batch by micro-batch. A single one keeps its activations; several are computed again.

Source of the two passes: Gao et al. 2021 (GradCache), arXiv 2101.06983, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch._dynamo  # seconds, which the first optimizer takes otherwise: here a worker spends them before its first trial comes
from jaxtyping import Float, Float32
from torch import Tensor, nn

from trainer.config import TrainerConfig
from trainer.data import Batch
from trainer.loss import view_losses, weighted_mean
from trainer.model import DinoNet, average, build, ema_update, parameter_groups, teacher_of
from trainer.numerics import ranks, total
from trainer.step.objective import Balance, Objective, Targets, objective
from trainer.step.pairs import Pairs, pairs_of
from trainer.step.parallel import Wrapped, load_module, load_optimizer, shard, whole
from trainer.step.schedules import learning_rate, takes_anchor, teacher_momentum, weight_decay
from trainer.step.window import GLOBALS, Outputs, Part, divided, joined, parts_of, run

LEAST_SCALE = 1.0
"""An fp16 loss scale that fell below this can no longer save a step: the gradient itself is not finite."""


class NotFinite(ArithmeticError):
    """The loss or its gradient is not finite; nothing was updated."""


@dataclass(frozen=True)
class StepResult:
    """What one step did and saw, of this rank's rows. Arrays of global crops are view by view: all first views, then all second ones."""

    applied: bool
    losses: dict[str, float]
    """`loss_total`, `loss_global`, `loss_local` in nats, and `loss_<term>` of each further term before its weight, over all ranks; empty
    where the batch had no pair, a part without pairs left out."""
    crop_losses: Float32[np.ndarray, "batch views"]
    """Mean over each student crop's pairs; NaN where it has none."""
    unmatched_locals: int
    logits: Float[Tensor, "global_crops prototypes"] | None = None
    features: Float[Tensor, "global_crops features"] | None = None
    targets: Float[Tensor, "global_crops prototypes"] | None = None
    """The teacher's assignments of the same crops."""
    gradient_norms: dict[str, float] = field(default_factory=dict)
    """Before clipping, of `backbone` and each head."""


class Learner:
    """Student, teacher, optimizer and what is remembered: all that a step changes."""

    def __init__(self, config: TrainerConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        dtype = torch.float64 if config.loop.precision == "float64" else torch.float32
        self.student = build(config).to(device, dtype)
        self.teacher = teacher_of(self.student)
        self.anchor = teacher_of(self.student) if config.loss.gram_weight else None
        for net in self._nets().values():
            if config.loop.shard_weights and ranks() > 1:
                shard(net)
            if config.model.compile:
                for block in net.backbone.blocks:
                    block.compile()
        self.wrapped = Wrapped(self.student, device, shard=config.loop.shard_weights)
        self._parameters = {name: list(module.parameters()) for name, module in self.student.named_children()}
        self._averaged = list(self.teacher.parameters()), list(self.student.parameters())
        groups = parameter_groups(self.student, config)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=not config.loop.shard_weights)
        self.balance = Balance(config, device, dtype)
        precision = config.loop.precision if device.type == "cuda" else "float32"
        self.autocast_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

    def step(self, batch: Batch, step: int) -> StepResult:
        """Update once. A batch without any pair on any rank changes nothing: no weight, no teacher, no centre.

        Raises:
            NotFinite: Before anything was updated by it.
        """
        pairs = pairs_of(batch, self.config, self.device)
        if float(total(pairs.weights.sum())) <= 0:
            return StepResult(False, {}, np.full(batch.ratio_own.shape, np.nan, np.float32), pairs.unmatched_locals)
        if self.anchor is not None and takes_anchor(step, self.config.loss):
            ema_update(self.anchor, self.teacher, 0.0)
        parts = parts_of(batch, self.config, step, self.device)
        heard = [self._teacher_says(part, locals_=pairs.local_teacher) for part in parts]
        outputs = [self._student_says(part, learns=len(parts) == 1) for part in parts]
        anchor = self._anchor_says(parts, step)
        with self._autocast():
            targets = self.balance.targets(self.teacher, joined(heard), pairs, step)
            said = Outputs(*(tensor.detach().requires_grad_() for tensor in joined(outputs)))
            found = self._objective(said, targets, pairs, parts, anchor)
        if not math.isfinite(float(total(found.loss.detach()))):
            raise NotFinite(f"the loss is {float(found.loss.detach())}")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(found.loss).backward()  # type: ignore[no-untyped-call]
        self._backbone_backward(parts, outputs, said)
        norms, applied = self._update(step)
        return StepResult(
            applied,
            _parts(found, pairs),
            view_losses(found.pairs, pairs.weights.to(found.pairs.dtype)).T.float().cpu().numpy(),
            pairs.unmatched_locals,
            found.logits[:GLOBALS].flatten(0, 1),
            said.features.detach()[:GLOBALS].flatten(0, 1),
            targets.views[:GLOBALS].flatten(0, 1),
            norms,
        )

    @torch.no_grad()
    def calibrate(self, batch: Batch) -> None:
        """Let the feature norm's running statistics see a batch, and change nothing else."""
        outputs = [self._student_says(part, learns=False) for part in parts_of(batch, self.config, 0, self.device)]
        self.student.head(joined(outputs).features.flatten(0, 1))

    def prototypes(self) -> Tensor:
        """The student's, [prototypes, bottleneck], whole on every rank; each rank must call it."""
        found: Tensor = whole(self.student.dino_head.prototypes.detach())
        return found

    def taught(self) -> DinoNet:
        """The teacher, whose backbone is kept; the student where the teacher's feature norm has seen no batch (an untrained network)."""
        norm = self.teacher.dino_head.norm
        return self.student if norm is not None and not float(norm.batches) else self.teacher

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take these weights for student and teacher, before the first step."""
        for net in self._nets().values():
            load_module(net, weights)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, whole on every rank; each rank must call it."""
        state = {name: net.state_dict() for name, net in self._nets().items()}
        state |= {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "balance": self.balance.state_dict()}
        found: dict[str, Any] = whole(state)
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`, to the bit."""
        for name, net in self._nets().items():
            load_module(net, state[name])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.balance.load_state_dict(state["balance"])

    def is_finite(self) -> bool:
        """Whether every weight and statistic of student and teacher is finite."""
        return all(bool(torch.isfinite(t).all()) for net in self._nets().values() for t in net.state_dict().values())

    def _nets(self) -> dict[str, DinoNet]:
        nets = {"student": self.student, "teacher": self.teacher}
        return nets if self.anchor is None else {**nets, "anchor": self.anchor}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def _student_says(self, part: Part, *, learns: bool) -> Outputs:
        backbone = self.wrapped.backbone if learns else self.student.backbone
        with torch.set_grad_enabled(learns), self._autocast():
            return run(self.student, backbone, part, hidden=True, locals_=True, patches=self.anchor is not None)

    def _teacher_says(self, part: Part, *, locals_: bool) -> Outputs:
        with torch.no_grad(), self._autocast():
            return run(self.teacher, self.teacher.backbone, part, hidden=False, locals_=locals_, patches=False)

    def _anchor_says(self, parts: Sequence[Part], step: int) -> Outputs | None:
        net = self.anchor
        if net is None or step < self.config.loss.gram_from_step:
            return None
        with torch.no_grad(), self._autocast():
            return joined([run(net, net.backbone, part, hidden=False, locals_=False, patches=True) for part in parts])

    def _objective(self, said: Outputs, targets: Targets, pairs: Pairs, parts: Sequence[Part], anchor: Outputs | None) -> Objective:
        masks = [part.mask for part in parts if part.mask is not None]
        mask = torch.cat(masks) if masks else None
        return objective(said, targets, pairs, mask, anchor, self.wrapped.dino_head, self.wrapped.ibot_head, self.config.loss)

    def _backbone_backward(self, parts: Sequence[Part], outputs: Sequence[Outputs], said: Outputs) -> None:
        """Carry the gradient of the outputs through the backbone, part by part."""
        gradient = Outputs(*(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in said))
        for number, (part, output, share) in enumerate(zip(parts, outputs, divided(gradient, outputs), strict=True)):
            with self.wrapped.sum_of_parts(last=number == len(parts) - 1):
                if len(parts) > 1:
                    output = self._student_says(part, learns=True)
                # Left out are those without rows: their gradients would become zeros of the whole output's size.
                read = [at for at, tensor in enumerate(output) if tensor.numel()]
                torch.autograd.backward([output[at] for at in read], [share[at] for at in read])

    def _update(self, step: int) -> tuple[dict[str, float], bool]:
        """Clip, AdamW, EMA. False where fp16 gradients overflowed and the loss scale backed off instead."""
        loop = self.config.loop
        self.scaler.unscale_(self.optimizer)
        heads = [head for head in (self.student.dino_head, self.student.ibot_head) if head is not None]
        if step < loop.freeze_last_layer_steps:
            for head in heads:
                head.prototypes.grad = None
        trained = {name: [p for p in parameters if p.grad is not None] for name, parameters in self._parameters.items()}
        norms = {name: _gradient_norm(parameters) for name, parameters in trained.items()}
        lengths = {name: float(norm) for name, norm in norms.items()}
        finite = all(math.isfinite(length) for length in lengths.values())
        if not finite and (not self.scaler.is_enabled() or self.scaler.get_scale() < LEAST_SCALE):
            raise NotFinite("the gradient is not finite")
        if finite and loop.clip_norm:
            for name, parameters in trained.items():
                if lengths[name] + 1e-6 > loop.clip_norm:  # as torch has it; else it multiplies all of them by 1
                    torch.nn.utils.clip_grads_with_norm_(parameters, loop.clip_norm, norms[name])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, loop) * group["lr_factor"]
            group["weight_decay"] = weight_decay(step, loop) if group["decays"] else 0.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if finite:
            average(*self._averaged, teacher_momentum(step, loop))
        return lengths, finite


def _gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    found: Tensor = whole(norm)
    return found


def _parts(found: Objective, pairs: Pairs) -> dict[str, float]:
    """The loss as optimised, the weighted means over pairs whose student crop is global or local, in nats, and further terms."""
    shares = {"loss_total": found.loss.detach()} | {f"loss_{name}": term for name, term in found.parts.items()}
    weights = pairs.weights.to(found.pairs.dtype)
    for name, views in (("loss_global", slice(0, GLOBALS)), ("loss_local", slice(GLOBALS, None))):
        if float(total(weights[:, views].sum())) > 0:
            shares[name] = weighted_mean(found.pairs[:, views], weights[:, views])
    return {name: float(total(share)) / ranks() for name, share in shares.items()}
