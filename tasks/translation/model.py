"""Which network is trained, and how is one read back from a folder?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.training.loading import explained, load_network
from tasks.translation.config import ModelConfig
from tasks.translation.tokenizer import load_tokenizer


def build_model(config: ModelConfig, tokenizer: Any) -> Any:
    """A fresh Marian transformer for a vocabulary; embeddings and output layer share one matrix.

    Args:
        config: the `[model]` table; its `pretrained` is not looked at here.
        tokenizer: gives the vocabulary size and the special ids.

    Returns:
        A `MarianMTModel` with random weights.
    """
    from transformers import MarianConfig, MarianMTModel

    marian = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_ffn_dim=config.ffn,
        decoder_ffn_dim=config.ffn,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_function=config.activation,
        max_position_embeddings=config.max_positions,
        init_std=config.init_std,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    model = MarianMTModel(marian)
    # The start symbol must never be produced: it is the padding.
    model.generation_config.bad_words_ids = [[tokenizer.pad_token_id]]
    return model


def load_model(path: str | Path) -> tuple[Any, Any]:
    """A trained model and its tokenizer, dense, latent or packed.

    Args:
        path: a model folder, or the name of a seq2seq model on the hub.

    Returns:
        (model in eval mode, tokenizer)

    Raises:
        TaskError: nothing there, or files that do not belong together.
    """
    from transformers import AutoModelForSeq2SeqLM

    with explained("a translation model", path):
        return load_network(path, AutoModelForSeq2SeqLM), load_tokenizer(path)
