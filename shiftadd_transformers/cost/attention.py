"""What does one call of an attention core cost?

Its operations by its own formula, at the type of its values; distances on the int8 grid are subtracted at INT8 and
summed at INT32. Sums of codes are charged as additions of that float type, though one-bit codes would need less.
Queries and keys that a core does not read are not moved.
"""

from __future__ import annotations

from torch import Tensor

from ..layers.attention import AdderAttention, AttentionCore
from ..operators.counts import OpCounts
from .report import AttentionShape, Row


def attention_row(name: str, core: AttentionCore, query: Tensor, key: Tensor, value: Tensor, first: bool) -> Row:
    """The row of one call.

    Args:
        name: Module name.
        core: The core.
        query: `[B, H, T, E]`.
        key: `[B, H, S, E]`.
        value: `[B, H, S, E]`.
        first: Whether this is its first call in the forward, the one that reads its parameters.
    """
    floating = str(value.dtype).removeprefix("torch.")
    share = core.query_heads / core.heads
    read = share * (query.numel() + key.numel()) + value.numel() + query.numel()  # the result is like the queries
    stored = sum(t.numel() * t.element_size() for t in (*core.parameters(), *core.buffers()))
    batch, targets, sources = query.shape[0], query.shape[2], key.shape[2]
    operations = _operations(core, batch, targets, sources, floating)
    causal = core.causal and targets > 1
    shape = AttentionShape(batch, core.heads, core.head_dim, targets, sources, causal, core.cross)
    moved = {floating: int(read * value.element_size())}
    weights = {"stored": stored if first else 0}
    return Row(name, core.spec.kind, operations, weights, moved, attentions=(shape,))


def _operations(core: AttentionCore, batch: int, targets: int, sources: int, floating: str) -> dict[str, OpCounts]:
    total = core.counts(batch, targets, sources)
    if not (isinstance(core, AdderAttention) and core.spec.bits == 8):
        return {floating: total}
    taps = OpCounts(add=batch * core.heads * targets * sources * core.head_dim)
    return {"int8": taps, "int32": taps, floating: total - taps * 2}
