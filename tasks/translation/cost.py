"""Which forward pass are a translation model's operations counted in?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tasks.translation.pairs import Pair


def typical_batch(tokenizer: Any, pairs: Sequence[Pair]) -> tuple[dict[str, Any], tuple[int, int]]:
    """Model inputs of one sentence pair of the mean length, and that length in tokens."""
    source = tokenizer([p.source for p in pairs])["input_ids"]
    target = tokenizer(text_target=[p.target for p in pairs])["input_ids"]
    lengths = tuple(round(sum(map(len, ids)) / len(ids)) for ids in (source, target))
    batch = {
        name: torch.full((1, length), 5, dtype=torch.long)
        for name, length in zip(("input_ids", "decoder_input_ids"), lengths, strict=True)
    }
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return batch, (lengths[0], lengths[1])
