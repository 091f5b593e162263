"""Multi-head self-attention within each crop, where crops of several sizes lie packed in one row of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.model.positions import rotate
from trainer.products import Linear, linear

Rotary = tuple[Float[Tensor, "*crops tokens head_dim"], Float[Tensor, "*crops tokens head_dim"]]
Packed = Float[Tensor, "packed dim"]
Heads = Float[Tensor, "crops heads tokens head_dim"]
Shape = tuple[int, int]
"""Crops of a size, and tokens of each."""


class Read(NamedTuple):
    """The tokens of a block that something reads; the others still give keys and values, and nothing else is worked out for them."""

    counts: list[int]
    """For each size, how many leading tokens of a crop have queries."""
    asking: Int[Tensor, " asking"]
    """Numbers of the tokens with queries among all packed ones."""
    among_asking: Int[Tensor, " read"] | None
    """Of those that are read among the ones with queries; none where all of these are read."""
    numbers: Int[Tensor, " read"]
    """The same among all packed ones."""


FEW_TOKENS = 128
"""Up to so many tokens plain products take two thirds to nine tenths of the fused kernel's time on a CPU, beyond 350 more than it."""
SHORT_ROW = 16
"""Rows of less are summed by plain operations, which take a quarter of the time of torch's softmax."""


class Attention(nn.Module):
    """Patch tokens turn by their positions, CLS and registers do not.

    Keys have no bias: it would raise all of a query's scores alike, which softmax does not see, so that only rounding would move it.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2; biases as in Bao et al. 2021 (BEiT), arXiv 2106.08254.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.query_bias, self.value_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.out = Linear(dim, dim)

    def forward(
        self, x: Packed, shapes: Sequence[Shape], rotaries: Sequence[Rotary | None], read: Read | None = None
    ) -> Float[Tensor, "read dim"]:
        """What tokens take from each other: of all packed ones, or of those that are read."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        if read is None:
            q, packed, counts = None, linear(x, self.qkv.weight, bias), [tokens for _, tokens in shapes]
        else:
            dim = len(self.query_bias)
            q = linear(x[read.asking], self.qkv.weight[:dim], self.query_bias)
            packed, counts = linear(x, self.qkv.weight[dim:], bias[dim:]), read.counts
        tables = [None if rotary is None else _for_heads(rotary, packed.dtype) for rotary in rotaries]
        if packed.device.type == "cpu" and max(tokens for _, tokens in shapes) <= FEW_TOKENS:
            mixed: Tensor = _Mixed.apply(q, packed, self.heads, shapes, counts, tables)  # type: ignore[no-untyped-call]
        else:
            groups = _groups(q, packed, shapes, counts, tables)
            mixed = torch.cat([_attended(*_turned(group, self.heads)) for group in groups])
        if read is not None and read.among_asking is not None:
            mixed = mixed[read.among_asking]
        out: Tensor = self.out(mixed)
        return out


def _for_heads(rotary: Rotary, dtype: torch.dtype) -> Rotary:
    cosine, signed_sine = rotary
    return cosine.to(dtype).unsqueeze(-3), signed_sine.to(dtype).unsqueeze(-3)


def split(packed: Packed, shapes: Sequence[Shape]) -> tuple[Packed, ...]:
    """The rows of each size of crops."""
    return torch.split(packed, [crops * tokens for crops, tokens in shapes])


def _by_head(packed: Packed, heads: int, shape: Shape, parts: int) -> Float[Tensor, "parts crops heads tokens head_dim"]:
    """A view of queries, keys and values, or of what was made of them."""
    return packed.view(*shape, parts, heads, -1).permute(2, 0, 3, 1, 4)


class _Group(NamedTuple):
    """Crops of a size: rows of queries, where they are apart from those of keys and values, and how many queries each crop has."""

    q: Float[Tensor, "asking dim"] | None
    packed: Packed
    shape: Shape
    asking: Shape
    table: Rotary | None


def _groups(
    q: Float[Tensor, "asking dim"] | None,
    packed: Packed,
    shapes: Sequence[Shape],
    counts: Sequence[int],
    tables: Sequence[Rotary | None],
) -> list[_Group]:
    asking = [(crops, count) for (crops, _), count in zip(shapes, counts, strict=True)]
    rows = [None] * len(shapes) if q is None else split(q, asking)
    return [_Group(*of) for of in zip(rows, split(packed, shapes), shapes, asking, tables, strict=True)]


def _turned(group: _Group, heads: int) -> tuple[Heads, Heads, Heads]:
    """Queries and keys by their places, and a view of the values."""
    q, packed, shape, asking, table = group
    if q is None:
        both = _by_head(packed, heads, shape, 3)
        q_and_k = both[:2].contiguous() if table is None else rotate(both[:2], *table)
        return q_and_k[0], q_and_k[1], both[2]
    few, (k, v) = _by_head(q, heads, asking, 1)[0], _by_head(packed, heads, shape, 2)
    if table is None:
        return few.contiguous(), k.contiguous(), v
    return rotate(few, *(part[..., : asking[1], :] for part in table)), rotate(k, *table), v


def _turn_back(group: _Group, heads: int, of_q_and_k: Tensor | tuple[Tensor, Tensor], of_v: Tensor) -> None:
    """Write gradients into the group's rows: those of queries and keys turned back, which is the gradient of turning."""
    table = None if group.table is None else (group.table[0], -group.table[1])
    if isinstance(of_q_and_k, Tensor):
        into = _by_head(group.packed, heads, group.shape, 3)
        both = of_q_and_k.view(2, *into.shape[1:])
        into[:2] = both if table is None else rotate(both, *table)
    else:
        assert group.q is not None
        into, few = _by_head(group.packed, heads, group.shape, 2), _by_head(group.q, heads, group.asking, 1)[0]
        q, k = of_q_and_k[0].view(few.shape), of_q_and_k[1].view(into.shape[1:])
        few[...] = q if table is None else rotate(q, *(part[..., : group.asking[1], :] for part in table))
        into[0] = k if table is None else rotate(k, *table)
    into[-1] = of_v.view(into.shape[1:])


def _attended(q: Heads, k: Heads, v: Heads) -> Packed:
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)


class _Mixed(torch.autograd.Function):
    """softmax(q k' / sqrt d) v within each crop, by plain products.

    With its gradient written out, because crops of all sizes then read from one row and write into one row: what torch derives
    fills a row with zeros for each part that it splits off, copies the part in and adds the rows up. Won about 2 % of a
    step of `phantom_cpu`, near the noise (docs/LOG.md).
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Float[Tensor, "asking dim"] | None,
        packed: Packed,
        heads: int,
        shapes: Sequence[Shape],
        counts: Sequence[int],
        tables: Sequence[Rotary | None],
    ) -> Float[Tensor, "asking dim"]:
        groups = _groups(q, packed, shapes, counts, tables)
        mixed = packed.new_empty(sum(math.prod(group.asking) for group in groups), packed.shape[1] // 3 if q is None else q.shape[1])
        kept = []
        for group, into in zip(groups, split(mixed, [group.asking for group in groups]), strict=True):
            own, k, v = (part.reshape(-1, *part.shape[2:]) for part in _turned(group, heads))
            scores = own.new_empty(len(own), own.shape[1], k.shape[1])
            share = _softmax_(scores.baddbmm_(own, k.transpose(1, 2), beta=0, alpha=own.shape[2] ** -0.5))
            _by_head(into, heads, group.asking, 1)[0] = (share @ v).view(-1, heads, *own.shape[1:])
            kept += [own, k, v, share]
        ctx.save_for_backward(*kept)
        ctx.heads, ctx.shapes, ctx.counts, ctx.tables = heads, shapes, counts, tables
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "asking dim"]) -> tuple[Tensor | None, Packed, None, None, None, None]:
        heads, kept, (rows, dim) = ctx.heads, ctx.saved_tensors, gradient.shape
        tokens = sum(crops * tokens for crops, tokens in ctx.shapes)
        of_q = gradient.new_empty(rows, dim) if ctx.needs_input_grad[0] else None
        of_packed = gradient.new_empty(tokens, 3 * dim if of_q is None else 2 * dim)
        groups = _groups(of_q, of_packed, ctx.shapes, ctx.counts, ctx.tables)
        above = split(gradient, [group.asking for group in groups])
        for group, g, q, k, v, share in zip(groups, above, kept[::4], kept[1::4], kept[2::4], kept[3::4], strict=True):
            g = _by_head(g, heads, group.asking, 1).reshape(q.shape)
            scores = _softmax_backward(g @ v.transpose(1, 2), share)
            own = q.new_empty(2, *q.shape) if group.q is None else (torch.empty_like(q), torch.empty_like(k))
            for into, a, b in ((own[0], scores, k), (own[1], scores.transpose(1, 2), q)):
                into.baddbmm_(a, b, beta=0, alpha=b.shape[2] ** -0.5)
            _turn_back(group, heads, own, share.transpose(1, 2) @ g)
        return of_q, of_packed, None, None, None, None


def _softmax_(scores: Float[Tensor, "batch queries keys"]) -> Float[Tensor, "batch queries keys"]:
    """Over the keys; may write into the scores. torch takes a tenth of a microsecond for a row, however short it is."""
    if scores.shape[-1] >= SHORT_ROW:
        return torch.softmax(scores, dim=-1)
    scores = scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(dim=-1, keepdim=True))


def _softmax_backward(gradient: Float[Tensor, "batch queries keys"], share: Float[Tensor, "batch queries keys"]) -> Tensor:
    """The gradient of the scores."""
    if share.shape[-1] >= SHORT_ROW:
        return torch._softmax_backward_data(gradient, share, -1, share.dtype)
    found = share * gradient
    return found.sub_(share * found.sum(dim=-1, keepdim=True))
