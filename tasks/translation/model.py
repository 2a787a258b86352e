"""Which network is trained, and how is one read back from a folder?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
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

    try:
        if is_converted(path):
            from shiftadd_transformers import hf

            model = hf.load(str(path), AutoModelForSeq2SeqLM)
        else:
            model = AutoModelForSeq2SeqLM.from_pretrained(str(path))
        tokenizer = load_tokenizer(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TaskError(f"cannot load a translation model from {path}: {error}") from error
    except Exception as error:  # safetensors raises its own class, derived from Exception, on damaged files
        if type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust"):
            raise
        raise TaskError(f"the weights in {path} are damaged: {error}") from error
    return model.eval(), tokenizer


def is_converted(path: str | Path) -> bool:
    """Whether a folder holds a model with shift-add operators."""
    config = Path(path) / "config.json"
    return config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8"))


def count_parameters(model: Any) -> int:
    """Trainable and fixed values, shared matrices counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
