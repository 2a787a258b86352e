"""How is a supernet trained? By the stock trainer, whose step visits several plans in turn."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from shiftadd_transformers.finetune.distillation import IGNORED, logits_of, predicts_next_token, soft_loss
from shiftadd_transformers.hf.model import own_names

from .sampling import Sampling
from .supernet import Supernet


class SupernetTrainer(Trainer):
    """Trains `supernet.model`: each step runs the sampled candidates forward and backward, one after the other.

    All but the largest candidate also learn from the largest one's logits for the same batch (in-place distillation).
    One candidate's graph is in memory at a time. Gradient accumulation, mixed precision and several processes work as
    ever; for the latter, set `ddp_find_unused_parameters=True`, since no plan uses all parameters.

    Args:
        supernet: What is trained.
        sampling: Which candidates.
        distill: Share of the loss that is learning from the largest candidate, 0 to 1.
        temperature: Of that part.
        matching: Weight of `Supernet.mismatch` in the loss.
        kwargs: As for `Trainer`, by name.

    References:
        Yu and Huang, Universally slimmable networks, ICCV 2019; You et al., ShiftAddNAS, ICML 2022 (the matching
        loss). Differs: the loss compares sorted weights with quantiles, where the released code compares each weight
        with a random number.
    """

    def __init__(
        self,
        *,
        supernet: Supernet,
        sampling: Sampling,
        distill: float = 0.5,
        temperature: float = 1.0,
        matching: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "model": supernet.model})
        if not 0 <= distill <= 1 or temperature <= 0 or matching < 0:
            raise ValueError("distill must be between 0 and 1, temperature positive, and matching not negative")
        self.supernet, self.sampling = supernet, sampling
        self.distill, self.temperature, self.matching = distill, temperature, matching
        self._next_token = predicts_next_token(supernet.model)
        self._teacher: Tensor | None = None
        self._place = (-1, 0)  # optimizer step, and micro-batch in it
        self._share = 1.0

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of every sampled candidate; their mean loss."""
        step = self.state.global_step
        self._place = (step, self._place[1] + 1 if self._place[0] == step else 0)
        candidates = self.sampling.draw(*self._place)
        self._share, self._teacher = 1 / len(candidates), None
        if self.distill and candidates[0] != self.sampling.largest:
            self._ask_largest(model, inputs)
        losses = []
        for candidate in candidates:
            self.supernet.choose(candidate)
            losses.append(super().training_step(model, inputs, num_items_in_batch))
        self._teacher = None
        return torch.stack(losses).sum() + self._match()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """One candidate's part of the loss; in evaluation the loss itself."""
        labels = inputs.get("labels")
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            loss = self._share * self._distilled(loss, outputs, labels, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The mean loss of the candidates that stand for all."""
        losses = []
        for candidate in self.sampling.validated():
            self.supernet.choose(candidate)
            loss, *rest = super().prediction_step(model, dict(inputs), *args, **kwargs)
            losses.append(loss)
        return torch.stack(losses).mean(), *rest

    def _save(self, *args: Any, **kwargs: Any) -> None:
        # A transformers model; others have nothing to be named after.
        with own_names(self.model) if isinstance(self.model, PreTrainedModel) else nullcontext():
            super()._save(*args, **kwargs)

    @torch.no_grad()
    def _ask_largest(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        self.supernet.choose(self.sampling.largest)
        prepared = self._prepare_inputs({name: value for name, value in inputs.items() if name != "labels"})
        with self.compute_loss_context_manager():
            self._teacher = logits_of(model.train()(**prepared)).detach()

    def _distilled(self, loss: Tensor, outputs: Any, labels: Tensor | None, count: Any) -> Tensor:
        """The task's loss, mixed with the distance to the largest candidate's answer once that is known."""
        if not self.distill:
            return loss
        logits = logits_of(outputs)
        if self._teacher is None:
            self._teacher = logits.detach()
            return loss
        return (1 - self.distill) * loss + self.distill * self._soft(logits, self._teacher, labels, count)

    def _soft(self, student: Tensor, teacher: Tensor, labels: Tensor | None, count: Any) -> Tensor:
        """Mean over the labels that count, in all micro-batches and processes as the trainer's own loss."""
        if labels is not None and not labels.is_floating_point():
            if self._next_token:
                labels, student, teacher = labels[..., 1:], student[..., :-1, :], teacher[..., :-1, :]
            kept = labels != IGNORED
            student, teacher = student[kept], teacher[kept]
        elif count is not None and labels is not None:
            count = count / labels.shape[-1]  # probabilities of classes: the trainer counts each of them
        total = soft_loss(student.flatten(0, -2).float(), teacher.flatten(0, -2).float(), self.temperature)
        if count is None:
            return total / max(1, student.flatten(0, -2).shape[0])
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total * processes / count

    def _match(self) -> Tensor | float:
        """Add the matching loss's gradient to what is there, as much in all micro-batches together as in one.

        It has no forward pass that several processes could agree on gradients by, and needs none: it is the same
        in all of them.
        """
        if not self.matching:
            return 0.0
        loss = self.matching * self.supernet.mismatch() / self.current_gradient_accumulation_steps
        if not loss.requires_grad:  # nothing is mapped
            return 0.0
        scaler = self.accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        parameters = [p for p in self.supernet.model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return loss.detach()
