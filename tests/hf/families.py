"""The supported model families as tiny random models: one row each, shared by the tests of rules, plug-in and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from torch import Tensor

VOCABULARY, LENGTH, WIDTH = 60, 6, 16


@dataclass(frozen=True)
class Family:
    """A model class small enough to build in milliseconds.

    Attributes:
        name: Readable id of the test case.
        config: Config class.
        options: Sizes.
        head: Model class with a head.
        base: Model class without one.
        inputs: Makes example inputs.
        roles: How many dense layers play each role, "head" left out.
        gives: Which output is compared.
    """

    name: str
    config: type[hf.PreTrainedConfig]
    options: Mapping[str, Any]
    head: type[hf.PreTrainedModel]
    base: type[hf.PreTrainedModel]
    inputs: Callable[[], dict[str, Tensor]]
    roles: Mapping[str, int] = field(default_factory=dict)
    gives: str = "logits"

    def build(self, seed: int = 0, *, base: bool = False) -> hf.PreTrainedModel:
        torch.manual_seed(seed)
        model = (self.base if base else self.head)(self.config(**self.options))
        # Zero biases and LayerNorm gains of one would hide a swapped or forgotten tensor.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("embed_positions.weight"):  # sinusoids are computed, not saved
                    parameter.add_(0.05 * torch.randn_like(parameter))
        return model.eval()

    def output(self, model: hf.PreTrainedModel) -> Tensor:
        inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in self.inputs().items()}
        with torch.no_grad():
            result = model(**inputs)
        return result[self.gives] if self.gives in result else result[0]


def text() -> dict[str, Tensor]:
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH) * 7 % (VOCABULARY - 8) + 4
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pair() -> dict[str, Tensor]:
    return {**text(), "decoder_input_ids": text()["input_ids"].flip(1)}


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().reshape(2, 3, 16, 16)}


def sound() -> dict[str, Tensor]:
    features = torch.linspace(-3, 3, 2 * 8 * 20).sin().reshape(2, 8, 20)
    return {"input_features": features, "decoder_input_ids": text()["input_ids"]}


_ENCODER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
_VISION = {**_ENCODER, "image_size": 16, "patch_size": 8}
_TEXT = {**_ENCODER, "vocab_size": VOCABULARY, "max_position_embeddings": 32}
_SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_DECODER = {
    **_TEXT,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}


def _roles(attention: int, mlp: int, *, fused: bool = False, gate: bool = False, **more: int) -> dict[str, int]:
    names = ["attn.qkv", "attn.o"] if fused else ["attn.q", "attn.k", "attn.v", "attn.o"]
    parts = ["mlp.up", "mlp.down", *(["mlp.gate"] if gate else [])]
    return {**dict.fromkeys(names, attention), **dict.fromkeys(parts, mlp), **more}


def _decoder(name: str, stem: str, **options: Any) -> Family:
    return Family(
        name,
        getattr(hf, f"{stem}Config"),
        {**_DECODER, **options},
        getattr(hf, f"{stem}ForCausalLM"),
        getattr(hf, f"{stem}Model"),
        text,
        _roles(2, 2, gate=True),
    )


FAMILIES = [
    Family("vit", hf.ViTConfig, _VISION, hf.ViTForImageClassification, hf.ViTModel, image, _roles(2, 2)),
    Family("deit", hf.DeiTConfig, _VISION, hf.DeiTForImageClassification, hf.DeiTModel, image, _roles(2, 2)),
    Family(
        "dinov2",
        hf.Dinov2Config,
        {**_VISION, "mlp_ratio": 2},
        hf.Dinov2ForImageClassification,
        hf.Dinov2Model,
        image,
        _roles(2, 2),
    ),
    Family(
        "swin",
        hf.SwinConfig,
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        hf.SwinForImageClassification,
        hf.SwinModel,
        image,
        _roles(2, 2, other=1),
    ),
    Family(
        "bert",
        hf.BertConfig,
        _TEXT,
        hf.BertForSequenceClassification,
        hf.BertModel,
        text,
        _roles(2, 2),
    ),
    Family("bert-mlm", hf.BertConfig, _TEXT, hf.BertForMaskedLM, hf.BertModel, text, _roles(2, 2)),
    Family(
        "roberta",
        hf.RobertaConfig,
        {**_TEXT, "pad_token_id": 1},
        hf.RobertaForSequenceClassification,
        hf.RobertaModel,
        text,
        _roles(2, 2),
    ),
    Family(
        "distilbert",
        hf.DistilBertConfig,
        {
            "vocab_size": VOCABULARY,
            "dim": WIDTH,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 24,
            "max_position_embeddings": 32,
        },
        hf.DistilBertForSequenceClassification,
        hf.DistilBertModel,
        text,
        _roles(2, 2),
    ),
    Family("marian", hf.MarianConfig, _SEQ2SEQ, hf.MarianMTModel, hf.MarianModel, pair, _roles(6, 4)),
    Family("bart", hf.BartConfig, _SEQ2SEQ, hf.BartForConditionalGeneration, hf.BartModel, pair, _roles(6, 4)),
    Family("t5", hf.T5Config, _T5, hf.T5ForConditionalGeneration, hf.T5Model, pair, _roles(6, 4)),
    Family(
        "t5-gated",
        hf.T5Config,
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        hf.T5ForConditionalGeneration,
        hf.T5Model,
        pair,
        _roles(6, 4, gate=True),
    ),
    Family(
        "whisper",
        hf.WhisperConfig,
        {
            **_SEQ2SEQ,
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 16,
            "bos_token_id": 2,
            "begin_suppress_tokens": None,
            "suppress_tokens": None,
        },
        hf.WhisperForConditionalGeneration,
        hf.WhisperModel,
        sound,
        _roles(6, 4),
    ),
    Family(
        "opt",
        hf.OPTConfig,
        {**_TEXT, "ffn_dim": 24, "word_embed_proj_dim": WIDTH},
        hf.OPTForCausalLM,
        hf.OPTModel,
        text,
        _roles(2, 2),
    ),
    _decoder("llama", "Llama"),
    _decoder("mistral", "Mistral"),
    _decoder("qwen2", "Qwen2"),
    _decoder("qwen3", "Qwen3"),
    _decoder("gemma", "Gemma"),
    Family(
        "gemma3",
        hf.Gemma3TextConfig,
        {**_DECODER, "sliding_window": 4},
        hf.Gemma3ForCausalLM,
        hf.Gemma3TextModel,
        text,
        _roles(2, 2, gate=True),
    ),
    Family(
        "phi3",
        hf.Phi3Config,
        {k: v for k, v in _DECODER.items() if k != "head_dim"},
        hf.Phi3ForCausalLM,
        hf.Phi3Model,
        text,
        {"attn.qkv": 2, "attn.o": 2, "mlp.gate_up": 2, "mlp.down": 2},
    ),
    Family(
        "gpt2",
        hf.GPT2Config,
        {
            "vocab_size": VOCABULARY,
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 32,
            "n_inner": 24,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        hf.GPT2LMHeadModel,
        hf.GPT2Model,
        text,
        _roles(2, 2, fused=True),
    ),
    Family(
        "clip-vision",
        hf.CLIPVisionConfig,
        {**_VISION, "projection_dim": 8},
        hf.CLIPVisionModelWithProjection,
        hf.CLIPVisionModel,
        image,
        _roles(2, 2),
        "image_embeds",
    ),
]
BY_NAME = {family.name: family for family in FAMILIES}
