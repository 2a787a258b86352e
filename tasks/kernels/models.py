"""What does a saved model consist of, that could be measured?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import TaskError

if TYPE_CHECKING:
    from torch import nn

    from shiftadd_transformers.cost import AttentionShape


def packed_layers(folder: Path) -> list[nn.Module]:
    """The packed layers of a saved model.

    Raises:
        TaskError: there is no model, or it has none.
    """
    from shiftadd_transformers import hf
    from shiftadd_transformers.layers import PackedModule

    _check_model(folder)
    layers = [module for module in hf.load(folder).modules() if isinstance(module, PackedModule)]
    if not layers:
        raise TaskError(f"{folder} holds no packed layers to tune for; pack the model and save it, see pack_")
    return layers


def model_shapes(folder: Path) -> tuple[list[tuple[int, int]], list[AttentionShape]]:
    """Distinct (K, N) of the layers that rules can convert, and distinct attentions; weights are not read.

    Returns:
        Input and output features, and attentions of one target and one source.

    Raises:
        TaskError: there is no model of transformers.
    """
    from shiftadd_transformers import make_plan
    from shiftadd_transformers.layers import dense_weight
    from shiftadd_transformers.sites import sites

    model = _empty_model(folder)
    plan = make_plan(model, [{"match": "*", "op": "shift"}])
    weights = (dense_weight(model.get_submodule(name)) for name in plan.converted)
    shapes = dict.fromkeys((weight.shape[1], weight.shape[0]) for weight in weights)
    attentions = dict.fromkeys(_attention(model, site) for site in sites(model) if site.place == "attention")
    return list(shapes), list(attentions)


def _attention(model: nn.Module, site: Any) -> AttentionShape:
    from shiftadd_transformers.cost import AttentionShape

    cross = site.role == "attn.cross"
    causal = bool(getattr(model.get_submodule(site.name), "is_causal", False)) and not cross
    return AttentionShape(1, *site.shape, 1, 1, causal, cross)


def _empty_model(folder: Path) -> Any:
    import torch
    import transformers

    _check_model(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    names = config.architectures or []
    if not names or not hasattr(transformers, names[0]):
        raise TaskError(f"{folder}/config.json names no model class of transformers; give --shapes")
    with torch.device("meta"):
        return getattr(transformers, names[0])(config)


def _check_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise TaskError(f"{folder} is no model folder: it has no config.json")
