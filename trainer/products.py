"""Linear layers by the library whose products are faster on the CPU at hand.

For float32 torch calls MKL, which takes its AVX-512 kernels on CPUs of its own maker alone. oneDNN, which torch brings along, asks the
CPU what it can do: on an AMD EPYC whose AVX-512 units have their full width its products take half of MKL's time, on one with units of
half the width a tenth less, but for the gradients of weights (docs/LOG.md). Its call from Python costs some of it back, so small
products stay torch's own, and everywhere else all do. Which of the two it is depends on the CPU and on shapes alone, never on a
measurement, so equal machines give equal bits.
"""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_FULL_WIDTH = 26
"""AMD's first family whose AVX-512 units are 512 bits wide (Zen 5); family 25 takes such an instruction in two halves."""
_LEAST, _LEAST_HALF_WIDTH = 4e6, 32e6
"""Multiply-adds from which on oneDNN saves more than the 50 us that its call and its gradient's take longer."""


class Linear(nn.Linear):
    """torch's layer with the same parameters, states and initial weights."""

    def forward(self, input: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        return linear(input, self.weight, self.bias)


class GeluLinear(Linear):
    """The same with GELU behind it; without gradient oneDNN applies it while the product is still in the cache.

    The layer's gradient may be written into that of its output, so what follows must be a layer that makes a gradient of its own, as
    `Linear` does, and not a sum, which hands the same one to all.
    """

    def forward(self, input: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        if torch.is_grad_enabled() and input.device.type == "cpu" and not torch.compiler.is_compiling():
            learned: Tensor = _Gelu.apply(linear(input, self.weight, self.bias))  # type: ignore[no-untyped-call]
            return learned
        if torch.is_grad_enabled() or not _by_onednn(input, self.weight):
            return F.gelu(linear(input, self.weight, self.bias))
        found: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "gelu", [], "none")
        return found


def linear(
    x: Float[Tensor, "*rows inputs"], weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None = None
) -> Float[Tensor, "*rows outputs"]:
    """x weight' + bias, as `torch.nn.functional.linear` but for rounding."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return _product(x, weight, bias)
    found: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return found


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    single = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0
    if not single or x.numel() * len(weight) < least_for_onednn():
        return False
    return not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


@functools.cache
def least_for_onednn() -> float:
    """Multiply-adds of a product from which on oneDNN is faster: where torch would take MKL, and this CPU has AVX-512 that MKL does not
    use; else infinitely many."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not both or torch.backends.cpu.get_cpu_capability() != "AVX512" or _cpu()[0] == "GenuineIntel":
        return math.inf
    return _LEAST_HALF_WIDTH if _has_half_width() else _LEAST


@functools.cache
def _has_half_width() -> bool:
    maker, family = _cpu()
    return maker == "AuthenticAMD" and family < _FULL_WIDTH


def _cpu() -> tuple[str, int]:
    """Maker and family of the first CPU; where they cannot be read, as if it were MKL's own."""
    described = Path("/proc/cpuinfo")
    return _named(described.read_text(encoding="utf-8") if sys.platform == "linux" and described.exists() else "")


def _named(described: str) -> tuple[str, int]:
    lines = [line.partition(":") for line in described.splitlines()]
    first = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    return first.get("vendor_id", "GenuineIntel"), int(first.get("cpu family", "0"))


def _product(rows: Float[Tensor, "*rows inner"], columns: Float[Tensor, "outputs inner"], bias: Tensor | None = None) -> Tensor:
    """rows columns' + bias; operands may be transposed views, of which those of `columns` cost next to nothing."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, columns, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        rows, inputs = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if of_x else None,
            _outer(rows, inputs) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )


class _Gelu(torch.autograd.Function):
    """GELU whose gradient takes the place of the one above it: a new tensor of a large batch comes from memory (6 % of such a step)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        own = gradient.is_contiguous() and x.is_contiguous()  # else one number may stand for all
        into = gradient if own else torch.empty_like(x)
        torch.ops.aten.gelu_backward.grad_input(gradient, x, grad_input=into)
        return into


def _outer(a: Float[Tensor, "rows n"], b: Float[Tensor, "rows m"]) -> Float[Tensor, "n m"]:
    """a' b; by oneDNN with the narrower one first: that one is turned by a single thread."""
    if _has_half_width():
        return torch.mm(a.t(), b)
    return _product(a.t(), b.t()) if a.shape[1] <= b.shape[1] else _product(b.t(), a.t()).t()
