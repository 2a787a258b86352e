"""How do sentences become batches of equal work?  Sorted by length and cut by padded tokens.

The stock `Trainer` sees a data set whose items are whole batches (its batch size is 1), so its shuffling,
resuming and distribution over processes work unchanged.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tasks.training.losses import IGNORED
from tasks.translation.pairs import Pair


class TokenBatches(torch.utils.data.Dataset[list[tuple[list[int], list[int]]]]):
    """Batches of sentence pairs, each at most `batch_tokens` padded source plus target tokens.

    Args:
        examples: (source ids, target ids).
        batch_tokens: padded size; a single longer pair gets a batch of its own.
        seed: of the shuffling.

    Sentences of one length change places between the batches with every epoch; the cuts stay where they are,
    because they depend on the sorted lengths only.  So the number of batches is constant and a run can be
    resumed.
    """

    def __init__(self, examples: Sequence[tuple[list[int], list[int]]], batch_tokens: int, seed: int = 0) -> None:
        self.examples = examples
        self.seed = seed
        lengths = sorted(map(_length, examples))
        self.cuts = _cuts(lengths, batch_tokens)
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        """Put the sentences into the order of one epoch."""
        order = list(range(len(self.examples)))
        random.Random(self.seed * 1_000_003 + epoch).shuffle(order)
        self.order = sorted(order, key=lambda index: _length(self.examples[index]))

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def __getitem__(self, index: int) -> list[tuple[list[int], list[int]]]:
        return [self.examples[i] for i in self.order[self.cuts[index] : self.cuts[index + 1]]]


class Collator:
    """Pads one batch of `TokenBatches` and shifts the labels right for the decoder.

    Args:
        model: gives the padding id and the rule for decoder inputs.
    """

    def __init__(self, model: Any) -> None:
        self.pad = int(model.config.pad_token_id)
        self.shift = model.prepare_decoder_input_ids_from_labels

    def __call__(self, batches: Sequence[list[tuple[list[int], list[int]]]]) -> dict[str, torch.Tensor]:
        """One batch (in a list, as the `Trainer` hands it over) as tensors `[B, S]` and `[B, T]`."""
        examples = [example for batch in batches for example in batch]
        inputs = _padded([source for source, _ in examples], self.pad)
        labels = _padded([target for _, target in examples], IGNORED)
        lengths = torch.tensor([len(source) for source, _ in examples])
        return {
            "input_ids": inputs,
            "attention_mask": (torch.arange(inputs.shape[1])[None] < lengths[:, None]).long(),
            "labels": labels,
            "decoder_input_ids": self.shift(labels=labels),
        }


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], max_length: int) -> list[tuple[list[int], list[int]]]:
    """Token ids of both sides; pairs with a side above `max_length` tokens are left out.

    Returns:
        (source ids, target ids), each ending with the end symbol.
    """
    if not pairs:
        return []
    source_texts, target_texts = ([pair[side] for pair in pairs] for side in (0, 1))
    if type(tokenizer).__name__ == "MarianTokenizer":
        sources = _marian_ids(tokenizer, tokenizer.spm_source, source_texts)
        targets = _marian_ids(tokenizer, tokenizer.spm_target, target_texts)
    else:
        sources = tokenizer(source_texts)["input_ids"]
        targets = tokenizer(text_target=target_texts)["input_ids"]
    return [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if len(source) <= max_length and len(target) <= max_length
    ]


def _marian_ids(tokenizer: Any, pieces: Any, texts: list[str]) -> list[list[int]]:
    """What `tokenizer(texts)` gives, several times faster: the stock one works sentence by sentence."""
    known, unknown, end = tokenizer.get_vocab(), tokenizer.unk_token_id, tokenizer.eos_token_id
    return [[*(known.get(piece, unknown) for piece in row), end] for row in pieces.encode(texts, out_type=str)]


def _length(example: tuple[list[int], list[int]]) -> int:
    return max(len(example[0]), len(example[1]))


def _cuts(lengths: list[int], batch_tokens: int) -> list[int]:
    """Where batches begin, and the end: each as long as (longest of both sides) x 2 x sentences allows."""
    cuts = [0]
    for i, length in enumerate(lengths):
        if i > cuts[-1] and 2 * length * (i + 1 - cuts[-1]) > batch_tokens:
            cuts.append(i)
    return [*cuts, len(lengths)]


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    table = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)
