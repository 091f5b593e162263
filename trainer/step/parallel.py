"""Several processes train one model: the modules as DDP or FSDP2 wraps them, and their state as one process would have it.

The losses follow the convention of trainer.numerics, so averaging gradients over ranks is right for both.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch lists it under __all__ of another file

from trainer.model import DinoNet
from trainer.numerics import ranks

TIMEOUT_MIN = 30
_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
_RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Join the other processes where the environment names them (torchrun's variables, which submitit's torch environment sets too).

    Raises:
        ValueError: The variables are there in part only.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    missing = [name for name in _RENDEZVOUS if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE: expected {', '.join(_RENDEZVOUS)} in the environment but {', '.join(missing)} is missing. "
            "Start with torchrun, or export submitit's TorchDistributedEnvironment first."
        )
    backend = "nccl" if device.type == "cuda" else "gloo"
    place: dict[str, Any] = {}  # torchrun has a store already
    if os.environ.get(_AGENT_STORE) != "True":
        place = {"store": _store(), "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group(backend, timeout=datetime.timedelta(minutes=TIMEOUT_MIN), **place)
    try:
        yield
        gc.collect()  # what still holds the group would end its threads after the interpreter, which aborts the process
        dist.barrier()  # nobody leaves while another one works
    finally:
        dist.destroy_process_group()


def _store() -> TCPStore:
    """Where the processes meet. The first one listens on the named address alone; torch by itself would on all there are."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if socket.gethostbyname(address).startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    first = os.environ["RANK"] == "0"
    listening = socket.create_server((address, port)).detach() if first else None
    return TCPStore(
        address, port, int(os.environ["WORLD_SIZE"]), first, master_listen_fd=listening, timeout=datetime.timedelta(minutes=TIMEOUT_MIN)
    )


class Wrapped:
    """The student's parts as they are called in training; with one process the modules themselves."""

    def __init__(self, student: DinoNet, device: torch.device, *, shard: bool) -> None:
        self._sharded = shard and ranks() > 1
        self._ddp = ranks() > 1 and not shard
        self.backbone = self._wrap(student.backbone, device)
        self.dino_head = self._wrap(student.dino_head, device)
        self.ibot_head = None if student.ibot_head is None else self._wrap(student.ibot_head, device)

    def _wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        if not self._ddp:
            return module
        ids = [device.index or 0] if device.type == "cuda" else None
        # Normalisation statistics are equal on all ranks already, and a prototype layer may be without gradient.
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, forward_sync_buffers=False)

    @contextlib.contextmanager
    def sum_of_parts(self, last: bool) -> Iterator[None]:
        """A backward pass of the backbone; ranks exchange gradients in the last one only."""
        if self._sharded:
            self.backbone.set_requires_gradient_sync(last)  # type: ignore[operator]
        if self._ddp and not last:
            with self.backbone.no_sync():  # type: ignore[operator]
                yield
        else:
            yield


def shard(net: DinoNet) -> None:
    """Spread the weights of each block and each head over the ranks (FSDP2), in place."""
    from torch.distributed.fsdp import fully_shard

    for part in (*net.backbone.blocks, net.backbone, net.dino_head, net.ibot_head):
        if part is not None:
            fully_shard(part, reshard_after_forward=True)  # a teacher has no backward pass that would do it


def whole(state: Any) -> Any:
    """A state with sharded tensors gathered: what one process would save. Every rank must call it."""
    if isinstance(state, Tensor):
        return state.full_tensor() if hasattr(state, "full_tensor") else state
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [whole(value) for value in state]
    return state


def like(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor as this rank holds its counterpart."""
    if not hasattr(own, "device_mesh") or hasattr(value, "device_mesh"):
        return value  # looked up by name first: the import takes a second that one process need not spend
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def load_module(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Take a whole state dict, sharded or not."""
    own = module.state_dict()
    module.load_state_dict({name: like(value, own[name]) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take a whole optimizer state, sharded or not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {name: like(value, parameters[int(index)]) if value.ndim else value for name, value in found.items()}
        for index, found in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})
