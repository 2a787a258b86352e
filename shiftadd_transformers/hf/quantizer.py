"""The plug-in that transformers calls while it loads and saves a model.

Loading a dense checkpoint: transformers fills the dense model, then `convert_` swaps the modules, as it does in
memory. Loading a converted one: empty layers are put in place first, and the checkpoint's tensors find them by name.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from .. import convert
from ..layers import PackedModule
from ..plan import Plan
from ..planning import make_plan
from .attention import has_cores, require_attention_interface, use_cores_
from .config import QUANT_METHOD, ShiftAddConfig
from .sizes import Sizes


class ShiftAddQuantizer(HfQuantizer):
    """Hooks of `from_pretrained` and `save_pretrained`."""

    quantization_config: ShiftAddConfig
    requires_calibration = False

    def is_serializable(self) -> bool:
        """Both states are saved. A method here and properties below, as transformers reads them so."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters may train on top of packed layers."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Latent layers train in the Trainer like any other."""
        return self.quantization_config.state == "latent"

    @property
    def is_compileable(self) -> bool:
        """Every operator has a fake implementation."""
        return True

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        if self.pre_quantized:
            convert.skeleton_(model, self._stored_plan(), self.quantization_config.state)
            self._use_cores(model)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if not self.pre_quantized:
            self._convert_(model)
        elif self.quantization_config.dequantize:
            convert.revert_(model)
        return model

    def _convert_(self, model: PreTrainedModel) -> None:
        given = self.quantization_config
        plan = given.plan or make_plan(model, given.rules or [])
        if plan.has_cores:
            require_attention_interface(model)
        sizes = Sizes(model, plan.sizes)
        convert.convert_(model, plan)
        sizes.tell_(model)
        self._use_cores(model)
        if given.state == "packed":
            convert.pack_(model)
        # A config of its own: the caller may convert another model with the one that was passed in.
        self.quantization_config = ShiftAddConfig(plan=plan, state=given.state)
        model.config.quantization_config = self.quantization_config

    @staticmethod
    def _use_cores(model: PreTrainedModel) -> None:
        if has_cores(model):
            use_cores_(model)

    def _stored_plan(self) -> Plan:
        plan = self.quantization_config.plan
        if plan is None:
            raise ValueError(
                "the checkpoint says that it is converted but holds no plan; save it again with save_pretrained"
            )
        return plan

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
        # save_pretrained leaves a string in config.dtype, and that is what transformers passes on.
        return convert.revert_(model).to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)

    def remove_quantization_config(self, model: PreTrainedModel) -> None:
        """Called when all layers are to be dense. A smaller model still needs its sizes, to be loaded as it is."""
        super().remove_quantization_config(model)
        plan = self.quantization_config.plan
        if plan is not None and plan.sizes:
            announce_(model, ShiftAddConfig(plan=Plan(model=plan.model, sizes=plan.sizes)))

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[None, dict[str, str]]:
        """Called when saving starts: config.json must tell the state that the layers are in now."""
        packed = any(isinstance(module, PackedModule) for module in model.modules())
        self.quantization_config.state = "packed" if packed else "latent"
        return None, {}


def announce_(model: PreTrainedModel, config: ShiftAddConfig) -> None:
    """Set what `from_pretrained` would have set on a converted model."""
    model.config.quantization_config = config
    model.hf_quantizer = ShiftAddQuantizer(config, pre_quantized=False)
    model.is_quantized = True
    model.quantization_method = QUANT_METHOD


if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
    register_quantizer(QUANT_METHOD)(ShiftAddQuantizer)
