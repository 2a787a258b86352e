"""How are many sentences translated quickly?  Sorted by length, in batches, returned in their own order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.translation.config import DecodeConfig


def translate(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    decode: DecodeConfig | None = None,
    *,
    progress: bool = False,
) -> list[str]:
    """Translate sentences.

    Args:
        model: a seq2seq model.
        tokenizer: its tokenizer.
        texts: sentences; empty ones stay empty.
        decode: beams (1 = greedy), longest output in tokens, batch size.
        progress: show a bar with the time left.

    Returns:
        One translation per sentence, in the same order.
    """
    import torch
    from tqdm.auto import tqdm

    decode = decode or DecodeConfig()
    texts = [" ".join(text.split()) for text in texts]
    longest_first = sorted((i for i, text in enumerate(texts) if text), key=lambda i: -len(texts[i]))
    batches = [longest_first[i : i + decode.batch_size] for i in range(0, len(longest_first), decode.batch_size)]
    results = [""] * len(texts)
    training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in tqdm(batches, desc="translating", unit="batch", leave=False, disable=not progress):
            for i, text in zip(batch, _generate(model, tokenizer, [texts[i] for i in batch], decode), strict=True):
                results[i] = text
    model.train(training)
    return results


def _generate(model: Any, tokenizer: Any, texts: list[str], decode: DecodeConfig) -> list[str]:
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=_longest_input(model))
    ids = model.generate(
        input_ids=inputs["input_ids"].to(model.device),
        attention_mask=inputs["attention_mask"].to(model.device),
        num_beams=decode.beams,
        max_new_tokens=decode.max_length,
        length_penalty=decode.length_penalty if decode.beams > 1 else None,
        early_stopping=decode.beams > 1,
        do_sample=False,
        max_length=None,
    )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _longest_input(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 512)
