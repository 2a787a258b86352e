"""Converting, loading and saving Hugging Face models in memory.

The verbs of `convert.py`, plus what transformers must know of a converted model: its quantizer and its config, without
which a saved model would come back with random weights.
"""

from __future__ import annotations

import errno
import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from .. import convert
from ..plan import Plan
from ..planning import make_plan
from .attention import has_cores, require_attention_interface, use_cores_
from .config import QUANT_METHOD, ShiftAddConfig
from .quantizer import ShiftAddQuantizer, announce_
from .sizes import Sizes

Model = TypeVar("Model", bound=nn.Module)


def convert_(model: Model, plan: Plan | convert.Rules, make: convert.Maker = convert.from_dense) -> Model:
    """Replace dense layers by latent operator layers, and give attentions their cores, in place.

    Where the plan says smaller sizes, the leading part of the dense model is what is converted, and its config says so.

    Args:
        model: Any module; a `PreTrainedModel` can be trained, saved and loaded as usual afterwards. One that is
            converted in part may be converted further.
        plan: A plan made for this model, or rules to make one from.
        make: Makes the layer for a name, a dense layer and a spec, if it is not to start from the dense one.

    Returns:
        The same model.

    Raises:
        ValueError: The plan does not fit the model, or a weight holds NaN. The model is then unchanged.
    """
    if not isinstance(plan, Plan):
        plan = make_plan(model, plan)
    if plan.has_cores:
        require_attention_interface(model)
    sizes = Sizes(model, plan.sizes)
    convert.convert_(model, plan, make)
    if isinstance(model, PreTrainedModel):
        if has_cores(model):
            use_cores_(model)
        sizes.tell_(model)
        announce_(model, ShiftAddConfig(plan=_earlier_plan(model).then(plan)))
    return model


def pack_(model: Model) -> Model:
    """Replace latent layers by packed ones with the same function, in place."""
    return _with_state(convert.pack_(model), "packed")


def unpack_(model: Model) -> Model:
    """Replace packed layers by latent ones with the same function, in place, to train on."""
    return _with_state(convert.unpack_(model), "latent")


def revert_(model: Model, *, approximate: bool = False) -> Model:
    """Replace operator layers by dense ones with the effective weights, in place.

    Args:
        model: A converted model.
        approximate: Also revert layers that no dense layer equals.

    Raises:
        ValueError: There are such layers and `approximate` is False.
    """
    convert.revert_(model, approximate=approximate)
    if isinstance(model, PreTrainedModel) and isinstance(getattr(model, "hf_quantizer", None), ShiftAddQuantizer):
        model.hf_quantizer.remove_quantization_config(model)
    return model


def load(path: str | Path, auto_class: Any = None, *, dequantize: bool = False, **kwargs: Any) -> PreTrainedModel:
    """Load a checkpoint and insist that it is complete.

    `from_pretrained` fills what a checkpoint lacks with random numbers and a warning; this refuses.

    Args:
        path: Folder, or a name on the hub.
        auto_class: The class to load, e.g. `AutoModelForSeq2SeqLM`; by default the one that was saved.
        dequantize: Give an ordinary dense model with the effective weights.
        kwargs: Passed on to `from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: Weights are missing, unreadable or of the wrong shape; or `dequantize` of a checkpoint with
            layers that no dense layer equals.
    """
    config = kwargs.pop("config", None) or AutoConfig.from_pretrained(path)
    if dequantize:
        _ask_for_dense(config)
    auto_class = auto_class or _saved_class(config)
    try:
        # Mismatches are asked for in the report, to be refused below with the others.
        model, info = auto_class.from_pretrained(
            path, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except SafetensorError as error:
        raise ValueError(f"the weights in {path} are damaged ({error}); copy or save the checkpoint again") from error
    for problem in ("missing_keys", "mismatched_keys", "error_msgs", "unexpected_keys"):
        if info.get(problem):
            names = ", ".join(map(str, sorted(info[problem])[:5]))
            raise ValueError(
                f"{path} does not fit {type(model).__name__}: {len(info[problem])} {problem.replace('_', ' ')} "
                f"({names}); check that the checkpoint is whole and auto_class is right"
            )
    return model


def save(model: PreTrainedModel, path: str | Path, *companions: Any, **kwargs: Any) -> None:
    """Write a model so that a failure half way leaves the old files as they were.

    Args:
        model: Dense, latent or packed.
        path: Folder; created if absent. Other files in it stay.
        companions: Anything else with `save_pretrained` that belongs beside it (a tokenizer).
        kwargs: Passed on to the model's `save_pretrained`, e.g. `max_shard_size`.

    Raises:
        OSError: Nothing could be written, e.g. the disk is full.
    """
    target = Path(path)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as scratch:
        try:
            model.save_pretrained(scratch, **kwargs)
            for part in companions:
                part.save_pretrained(scratch)
        except (SafetensorError, OSError) as error:
            raise OSError(
                getattr(error, "errno", None) or errno.EIO,
                f"could not save to {target} ({error}); what was there before is unchanged",
            ) from error
        written = {file.name for file in Path(scratch).iterdir()}
        for name in sorted(written):
            os.replace(Path(scratch, name), target / name)
    # A whole file left beside new shards would be the one that is loaded.
    for pattern in ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"):
        for file in target.glob(pattern):
            if file.name not in written:
                file.unlink()


@contextmanager
def own_names(model: PreTrainedModel) -> Iterator[None]:
    """Let the model be saved with its parameters under its own names, inside the block.

    By default a ViT is saved under the names of its first release, which `from_pretrained` maps back. The stock
    trainer does not: it would resume from random weights, and keep the last weights for the best ones.
    """
    before = vars(model).get("save_pretrained")
    model.save_pretrained = functools.partial(type(model).save_pretrained, model, save_original_format=False)
    try:
        yield
    finally:
        del model.save_pretrained
        if before is not None:
            model.save_pretrained = before


def folder_bytes(path: str | Path) -> int:
    """Size of a model's weight files on disk."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))


def _earlier_plan(model: PreTrainedModel) -> Plan:
    """What was carried out before."""
    quantizer = getattr(model, "hf_quantizer", None)
    plan = quantizer.quantization_config.plan if isinstance(quantizer, ShiftAddQuantizer) else None
    return plan if plan is not None else Plan(model=type(model).__name__)


def _with_state(model: Model, state: str) -> Model:
    quantizer = getattr(model, "hf_quantizer", None)
    if isinstance(quantizer, ShiftAddQuantizer):
        quantizer.quantization_config.state = state
    return model


def _ask_for_dense(config: Any) -> None:
    """Set the flag in the checkpoint's own config: transformers ignores one that is passed beside it."""
    stored = getattr(config, "quantization_config", None)
    if not isinstance(stored, dict) or stored.get("quant_method") != QUANT_METHOD:
        raise ValueError("dequantize=True, but this is not a converted checkpoint; load it as it is")
    stored["dequantize"] = True


def _saved_class(config: Any) -> Any:
    names = getattr(config, "architectures", None) or []
    if not names or not hasattr(transformers, names[0]):
        raise ValueError("the checkpoint does not name its model class; pass auto_class, e.g. AutoModel")
    return getattr(transformers, names[0])
