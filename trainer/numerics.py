"""Arithmetic that holds in every precision and over any number of processes; one process is the case of one rank.

The convention of all losses: the loss to minimise is the mean over ranks of what each rank computes, which is what averaging
gradients over ranks (DDP, FSDP2) gives. A rank's own share of a sum is therefore multiplied by the number of ranks.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from trainer.config import TrainerConfig

T = TypeVar("T")


def device_of(settings: TrainerConfig) -> torch.device:
    """The device that `loop.device` names; `auto` takes CUDA where there is one; on each node the process's own GPU.

    Raises:
        ValueError: CUDA is asked for and there is none.
    """
    asked = settings.loop.device
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("loop.device: expected a CUDA device but torch sees none. Use loop.device=auto, or install a CUDA build of torch.")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def at_least_single(x: Tensor) -> Tensor:
    """Half precision widened to float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def ranks() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def total(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Sum over ranks of equal shapes; gradients flow to every rank's share."""
    return x if ranks() == 1 else _Total.apply(x)  # type: ignore[no-untyped-call]


def all_rows(x: Float[Tensor, "rows *shape"]) -> Float[Tensor, "all_rows *shape"]:
    """The rows of all ranks, as many from each, in the order of the ranks; gradients flow to every rank's own rows."""
    return x if ranks() == 1 else _AllRows.apply(x)  # type: ignore[no-untyped-call]


def log_softmax_rows(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """log softmax of each column over the rows of all ranks; a rank may have none. Without gradient over several ranks."""
    if ranks() == 1:
        return torch.log_softmax(x, dim=0)
    greatest = x.amax(dim=0, keepdim=True) if len(x) else x.new_full((1, x.shape[1]), -torch.inf)
    dist.all_reduce(greatest, dist.ReduceOp.MAX)
    return x - greatest - total((x - greatest).exp().sum(dim=0, keepdim=True)).log()


def first_gives(value: T) -> T:
    """Rank 0's value, on every rank."""
    if ranks() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def of_each_rank(value: T) -> list[T]:
    """Every rank's value, in their order, on every rank."""
    if ranks() == 1:
        return [value]
    box: list[Any] = [None] * ranks()
    dist.all_gather_object(box, value)
    return box


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks())]
        dist.all_gather(parts, x.detach().contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[rank() * ctx.rows : (rank() + 1) * ctx.rows]
