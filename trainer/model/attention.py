"""Multi-head self-attention within each crop, where crops of several sizes lie packed in one row of tokens."""

from __future__ import annotations

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
Heads = Float[Tensor, "three crops heads tokens head_dim"]
Shape = tuple[int, int]
"""Crops of a size, and tokens of each."""


class Read(NamedTuple):
    """The tokens of a block that something reads; the others still give keys and values, and nothing else is worked out for them."""

    asked: list[int]
    """For each size, how many leading tokens of a crop have queries."""
    rows: Int[Tensor, " read"]
    """Numbers of the tokens read among all packed ones."""
    among_asked: Int[Tensor, " read"] | None
    """The same among those with queries; none where all of these are read."""


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
        asked = [tokens for _, tokens in shapes] if read is None else read.asked
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        qkv = linear(x, self.qkv.weight, bias)
        tables = [None if rotary is None else _for_heads(rotary, qkv.dtype) for rotary in rotaries]
        if qkv.device.type == "cpu" and max(tokens for _, tokens in shapes) <= FEW_TOKENS:
            mixed: Tensor = _Mixed.apply(qkv, self.heads, shapes, asked, tables)  # type: ignore[no-untyped-call]
        else:
            groups = zip(_split(qkv, shapes), shapes, asked, tables, strict=True)
            mixed = torch.cat([_attended(rows, self.heads, shape, queries, table) for rows, shape, queries, table in groups])
        if read is not None and read.among_asked is not None:
            mixed = mixed[read.among_asked]
        out: Tensor = self.out(mixed)
        return out


def _for_heads(rotary: Rotary, dtype: torch.dtype) -> Rotary:
    cosine, signed_sine = rotary
    return cosine.to(dtype).unsqueeze(-3), signed_sine.to(dtype).unsqueeze(-3)


def _split(packed: Packed, shapes: Sequence[Shape]) -> tuple[Packed, ...]:
    return torch.split(packed, [crops * tokens for crops, tokens in shapes])


def _by_head(packed: Packed, heads: int, shape: Shape, parts: int) -> Float[Tensor, "parts crops heads tokens head_dim"]:
    """A view of queries, keys and values, or of what was made of them."""
    return packed.view(*shape, parts, heads, -1).permute(2, 0, 3, 1, 4)


def _attended(qkv: Packed, heads: int, shape: Shape, queries: int, rotary: Rotary | None) -> Packed:
    q_and_k, v = _by_head(qkv, heads, shape, 3).contiguous().tensor_split([2])
    if rotary is not None:
        q_and_k = rotate(q_and_k, *rotary)
    return F.scaled_dot_product_attention(q_and_k[0][:, :, :queries], q_and_k[1], v[0]).transpose(1, 2).flatten(2).flatten(0, 1)


class _Mixed(torch.autograd.Function):
    """softmax(q k' / sqrt d) v within each crop, by plain products.

    With its gradient written out, because crops of all sizes then read from one row and write into one row: what torch derives
    fills a row with zeros for each part that it splits off, copies the part in and adds the rows up. Won about 2 % of a
    step of `phantom_cpu`, near the noise (docs/LOG.md).
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Packed, heads: int, shapes: Sequence[Shape], asked: Sequence[int], tables: Sequence[Rotary | None]
    ) -> Float[Tensor, "asked dim"]:
        asking = [(crops, queries) for (crops, _), queries in zip(shapes, asked, strict=True)]
        mixed = qkv.new_empty(sum(crops * queries for crops, queries in asking), qkv.shape[1] // 3)
        kept = []
        for rows, into, shape, of, table in zip(_split(qkv, shapes), _split(mixed, asking), shapes, asking, tables, strict=True):
            parts = _by_head(rows, heads, shape, 3)
            turned = parts[:2].contiguous() if table is None else rotate(parts[:2], *table)
            (q, k), v = turned.flatten(1, 2), parts[2].reshape(-1, *parts.shape[3:])
            q = q[:, : of[1]]
            scores = q.new_empty(len(q), q.shape[1], k.shape[1])
            share = _softmax_(scores.baddbmm_(q, k.transpose(1, 2), beta=0, alpha=q.shape[2] ** -0.5))
            _by_head(into, heads, of, 1)[0] = (share @ v).view(of[0], heads, of[1], -1)
            kept += [turned, v, share]
        ctx.save_for_backward(*kept)
        ctx.heads, ctx.shapes, ctx.asking, ctx.tables = heads, shapes, asking, tables
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "asked dim"]) -> tuple[Packed, None, None, None, None]:
        heads, shapes, asking, kept = ctx.heads, ctx.shapes, ctx.asking, ctx.saved_tensors
        found = gradient.new_empty(sum(crops * tokens for crops, tokens in shapes), 3 * gradient.shape[1])
        parts = zip(_split(gradient, asking), _split(found, shapes), shapes, asking, ctx.tables, strict=True)
        for (above, into, shape, of, table), turned, v, share in zip(parts, kept[::3], kept[1::3], kept[2::3], strict=True):
            q, k = turned.flatten(1, 2)
            q = q[:, : of[1]]
            g = _by_head(above, heads, of, 1).reshape(q.shape)
            scores = _softmax_backward(g @ v.transpose(1, 2), share)
            own = torch.empty_like(turned)
            of_all, of_k = own.flatten(1, 2)
            of_q = of_all if of == shape else of_all.new_empty(q.shape)  # products into a part of a tensor go one by one
            for into_own, a, b in ((of_q, scores, k), (of_k, scores.transpose(1, 2), q)):
                into_own.baddbmm_(a, b, beta=0, alpha=b.shape[2] ** -0.5)
            if of_q is not of_all:
                of_all.zero_()[:, : of[1]] = of_q
            by_head = _by_head(into, heads, shape, 3)
            by_head[:2] = own if table is None else rotate(own, table[0], -table[1])
            by_head[2] = (share.transpose(1, 2) @ g).view(turned.shape[1:])
        return found, None, None, None, None


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
