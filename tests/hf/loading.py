"""Loading with a report that must be empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf

from shiftadd_transformers.layers import LatentModule, OperatorModule, PackedModule

# Marian's and Whisper's sinusoidal positions are computed and not saved, by design of transformers.
COMPUTED = "embed_positions.weight"


def load_clean(cls: Any, path: Path, *, heads_differ: bool = False, **kwargs: Any) -> hf.PreTrainedModel:
    """`from_pretrained` where nothing may be missing, left over or of another shape.

    Args:
        cls: Model class.
        path: Folder.
        heads_differ: Let heads, and the poolers that only base models have, be missing or left over.
        kwargs: Passed on.
    """
    model, report = cls.from_pretrained(path, output_loading_info=True, **kwargs)
    for problem, keys in report.items():
        bad = [key for key in keys if COMPUTED not in str(key) and not (heads_differ and is_head(str(key)))]
        assert not bad, (problem, bad)
    return model


def is_head(key: str) -> bool:
    stems = ("lm_head", "proj_out", "classifier", "pre_classifier", "cls.", "visual_projection", "score")
    return key.startswith((*stems, "final_logits_bias")) or "pooler" in key


def latent_layers(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, LatentModule)]


def packed_layers(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, PackedModule)]


def operator_layers(model: Any) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, OperatorModule)]
